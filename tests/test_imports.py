"""What an import brings: names when they are used, and no heavy package on the way."""

import ast
import inspect
import subprocess
import sys

import pytest

import fastattack

HEAVY = {
    "PIL", "rich", "typer", "safetensors", "pandas", "matplotlib", "scipy", "skimage", "sklearn", "jinja2", "yaml",
    "pyarrow", "torchmetrics", "torchvision", "tensorboard", "triton", "cupy", "bm3d", "sympy", "torch._dynamo",
    "torch._inductor", "torch._functorch.aot_autograd", "torch.utils.tensorboard", "torch.fx.experimental.proxy_tensor",
    "torch.testing", "pydantic",
}  # fmt: skip


def modules_after(code: str) -> set[str]:
    """The names in sys.modules of a fresh process that ran the code, less the set `before` if the code makes one."""
    show = "\nimport sys; print('MODULES', *(set(sys.modules) - globals().get('before', set())))"
    done = subprocess.run([sys.executable, "-c", code + show], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("MODULES")[2].split())


def test_the_package_alone_brings_nothing():
    brought = modules_after("import sys, importlib.util, typing; before = set(sys.modules); import fastattack")
    assert brought == {"fastattack"}


def test_ops_and_attacks_bring_no_heavy_module():
    brought = modules_after(
        "import torch, sys; before = set(sys.modules)\nimport fastattack as fa; fa.PGD\n"
        "x = torch.rand(12, 2); fa.mutual_information(x, x, steps=1)"
    )
    assert "fastattack.attacks.gradient" in brought
    assert not brought & HEAVY


def test_help_comes_without_torch():
    brought = modules_after(
        "from fastattack.cli import main\nimport sys\nsys.argv = ['fastattack', '--help']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code"
    )
    assert "fastattack.cli" in brought
    assert not brought & {"torch", "numpy", "rich.progress"}


def test_every_public_name_is_there_and_listed():
    assert set(fastattack.__all__) <= set(dir(fastattack))
    for name in fastattack.__all__:
        found = getattr(fastattack, name)
        assert found is getattr(fastattack, name)
        assert getattr(found, "__name__", "") in (name, f"fastattack.{name}")
    assert fastattack.images.__name__ == "fastattack.images"  # as every submodule
    starred: dict[str, object] = {}
    exec("from fastattack import *", starred)
    assert set(fastattack.__all__) <= set(starred)


@pytest.mark.parametrize("name", ["PDG", "image", "_nothing", "__wrapped__"])
def test_a_name_that_is_not_there(name):
    with pytest.raises(AttributeError, match=f"module 'fastattack' has no attribute '{name}'"):
        getattr(fastattack, name)
    with pytest.raises(ImportError, match=name):
        exec(f"from fastattack import {name}")


def test_the_first_call_of_a_process_may_be_a_compiled_one():
    code = """
import torch, fastattack as fa
@torch.compile(fullgraph=True, backend="aot_eager")
def step(adv, grad, origin):
    moved = fa.ops.pgd_step_(adv + 0, grad, origin, norm="linf", eps=0.1, step=0.05)
    return moved, fa.noise_stats(moved - origin).linf
origin = torch.full((2, 1, 4, 4), 0.5)
moved, linf = step(origin, torch.ones_like(origin), origin)
torch.testing.assert_close(moved, origin + 0.05)
torch.testing.assert_close(linf, torch.full((2,), 0.05))
"""
    assert "torch._dynamo" in modules_after(code)


def test_a_type_checker_sees_every_name():
    """Each lazy name is imported under TYPE_CHECKING from the module that __getattr__ takes it from."""
    tree = ast.parse(inspect.getsource(fastattack))
    guarded = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    seen = {a.name: n.module for n in guarded.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert {name: home for name, home in seen.items() if home} == fastattack._HOMES
    assert set(seen) == set(fastattack.__all__)
