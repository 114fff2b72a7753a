"""What all ops share: errors that say what was wanted, backends by name, empty batches, autograd, torch.compile."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import fastattack as fa
from fastattack import ops
from fastattack.ops import BackendUnavailable, dispatch

X = torch.rand(2, 3, 4, 4)


def step(adv=None, grad=None, origin=None, **options):
    options = {"norm": "linf", "eps": 0.1, "step": 0.01} | options
    return ops.pgd_step_(X.clone() if adv is None else adv, X * 0 + 1 if grad is None else grad,
                         X.clone() if origin is None else origin, **options)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"grad": torch.ones(2, 3, 4, 5)}, ValueError, ["grad", "(2, 3, 4, 4)", "(2, 3, 4, 5)"]),
        ({"grad": torch.ones(2, 3, 4, 4, dtype=torch.float64)}, ValueError, ["grad", "float32", "float64"]),
        ({"origin": torch.ones(2, 3, 4, 4, device="meta")}, ValueError, ["origin", "cpu", "meta"]),
        ({"adv": torch.tensor(1.0)}, ValueError, ["adv", "(B, ...)"]),
        ({"adv": torch.ones(2, 3, dtype=torch.uint8)}, TypeError, ["adv", "uint8", "255"]),
        ({"adv": torch.ones(2, 0, 3)}, ValueError, ["adv", "(2, 0, 3)"]),
        ({"adv": [1.0]}, TypeError, ["adv", "list"]),
        ({"adv": torch.rand(1, 3, 4, 4).expand(2, 3, 4, 4)}, ValueError, ["adv", "expanded"]),
        ({"eps": -0.1}, ValueError, ["eps", ">= 0", "-0.1"]),
        ({"eps": float("nan")}, ValueError, ["eps", "nan"]),
        ({"eps": torch.tensor([0.1, -0.2])}, ValueError, ["eps", "-0.2"]),
        ({"eps": torch.ones(3)}, ValueError, ["eps", "(2,)", "(3,)"]),
        ({"eps": "5/255"}, TypeError, ["eps", "str"]),
        ({"step": float("nan")}, ValueError, ["step", "nan"]),
        ({"norm": "l1"}, ValueError, ["norm", "'linf', 'l2'", "'l1'", "l1_step_"]),
        ({"norm": "l3"}, ValueError, ["norm", "'linf', 'l2'", "'l3'"]),
        ({"bounds": (1, 0)}, ValueError, ["bounds", "(1.0, 0.0)"]),
        ({"bounds": 3}, TypeError, ["bounds", "3"]),
        ({"mask": torch.ones(5)}, ValueError, ["mask", "(2, 3, 4, 4)", "(5,)"]),
        ({"backend": "gpu"}, ValueError, ["backend", "'gpu'", "cpu"]),
    ],
)
def test_bad_input_is_named(options, error, words):
    with pytest.raises(error) as caught:
        step(**options)
    for word in words:
        assert word in str(caught.value)


def test_more_bad_input():
    with pytest.raises(ValueError, match=r"seed: wanted 0 <= seed"):
        ops.random_start_(X.clone(), X, norm="linf", eps=1, seed=-1)
    with pytest.raises(TypeError, match="seed: wanted an integer"):
        ops.random_start_(X.clone(), X, norm="linf", eps=1, seed=1.5)
    with pytest.raises(ValueError, match="sample_ids: wanted 2 integers"):
        ops.random_start_(X.clone(), X, norm="linf", eps=1, seed=1, sample_ids=torch.arange(3))
    with pytest.raises(ValueError, match="sigma: wanted a number > 0"):
        ops.noise_stats(X, sigma=0.0)
    x = X.clone()
    with pytest.raises(ValueError, match="origin: shares its memory with adv"):
        ops.project_(x, x, norm="linf", eps=1)
    with pytest.raises(ValueError, match="norm: wanted one of 'linf', 'l2', 'l1', got 'l3'"):
        ops.project_(x, X, norm="l3", eps=1)
    with pytest.raises(ValueError, match=r"norm: wanted one of 'linf', 'l2', got 'l1'$"):
        ops.preserve_noise_(x, X, X, norm="l1", eps=1)
    with pytest.raises(ValueError, match="clean: wanted"):
        ops.preserve_noise_(X.clone(), X, X[:1], norm="linf", eps=1)


def test_a_failed_call_leaves_its_tensors_alone():
    adv = X.clone()
    with pytest.raises(ValueError, match="eps"):
        step(adv=adv, eps=-1)
    assert torch.equal(adv, X)


def test_an_empty_batch_passes():
    empty = torch.zeros(0, 3, 4, 4)
    for norm in ("linf", "l2"):
        assert ops.pgd_step_(empty, empty.clone(), empty.clone(), norm=norm, eps=1, step=1) is empty
        assert ops.project_(empty, empty.clone(), norm=norm, eps=1) is empty
        assert ops.preserve_noise_(empty, empty.clone(), empty.clone(), norm=norm, eps=1) is empty
        assert ops.random_start_(empty, empty.clone(), norm=norm, eps=1, seed=0) is empty
        others = (empty.clone(), empty.clone(), empty.clone())
        assert ops.momentum_step_(empty, *others, norm=norm, eps=1, step=1) is empty


def test_an_empty_total_passes():
    empty = torch.zeros(0, 3, 4, 4)
    assert ops.accumulate_(empty, empty.clone()) is empty
    for norm in ("linf", "l2", "l1"):
        assert ops.quantise_(empty, empty.clone(), norm=norm, eps=1) is empty
    assert ops.zero_mean_step_(empty, empty.clone(), empty.clone(), eps=1, step=1) is empty
    assert ops.project_zero_mean_(empty, empty.clone(), eps=1) is empty
    assert ops.project_(empty, empty.clone(), norm="l1", eps=1) is empty
    assert ops.random_start_(empty, empty.clone(), norm="l1", eps=1, seed=0) is empty
    assert ops.l1_step_(empty, empty.clone(), empty.clone(), eps=1, step=1) is empty


def test_autograd_notices_the_write():
    w = torch.ones(2, requires_grad=True)
    adv = torch.zeros(1, 2)
    loss = (adv * w).sum()
    ops.pgd_step_(adv, torch.ones(1, 2), torch.zeros(1, 2), norm="linf", eps=1, step=0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    with pytest.raises(ValueError, match="adv: requires grad"):
        step(adv=X.clone().requires_grad_())
    with torch.inference_mode():
        step()


def test_an_explicit_backend_never_falls_back():
    missing = [name for name, reason in ops.available().items() if reason is not None]
    for name in missing:
        with pytest.raises(BackendUnavailable) as caught:
            step(backend=name)
        assert name in str(caught.value)
        assert "reference" in str(caught.value)  # what is available
    if not torch.cuda.is_available():
        assert {"cuda", "cupy"} <= set(missing)


def test_use_backend_and_its_scope():
    names = []
    original = dispatch.load

    with pytest.raises(ValueError, match="backend"), fa.use_backend("nonsense"):
        pass
    with fa.use_backend("reference"):
        names.append(dispatch.resolve(X.device).name)
        with fa.use_backend("cpu"):
            names.append(dispatch.resolve(X.device).name)
        assert dispatch.resolve(X.device, "cpu").name == "cpu"
    names.append(dispatch.resolve(X.device).name)
    assert names == ["reference", "cpu", "cpu"]
    assert dispatch.load is original


def test_the_environment_chooses_too():
    code = "import torch; from fastattack.ops import dispatch; print(dispatch.resolve(torch.device('cpu')).name)"
    env = os.environ | {"FASTATTACK_BACKEND": "reference"}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "reference"


def user_function(adv, grad, origin, clean, eps):
    ops.random_start_(adv, origin, norm="linf", eps=eps, seed=2**63 + 1)
    ops.pgd_step_(adv, grad * 2, origin, norm="linf", eps=eps, step=0.01, bounds=(0.0, 1.0))
    grad = ops.accumulate_(grad.clone(), origin, keep=0.5, weight=eps)
    ops.momentum_step_(adv, torch.zeros_like(adv), grad, origin, norm="l2", eps=eps, step=0.01, decay=0.5)
    ops.preserve_noise_(adv, origin, clean, norm="linf", eps=eps)
    ops.project_(adv, origin, norm="l2", eps=0.5)
    ops.zero_mean_step_(adv, grad, origin, eps=0.5, step=0.1)
    ops.project_zero_mean_(adv, origin, eps=eps)
    ops.quantise_(grad, clean, eps=eps, bits=16, norm="linf")
    ops.random_start_(adv, origin, norm="l1", eps=eps, seed=1)
    ops.l1_step_(adv, grad * 2, origin, eps=eps, step=0.1, keep=eps, bounds=(0.0, 1.0))
    ops.project_(adv, origin, norm="l1", eps=eps)
    stats = ops.noise_stats(adv - clean, sigma=0.1)
    return adv + 1, stats.l2 + stats.typicality, grad + 1


@pytest.mark.parametrize("eps", [0.05, torch.tensor([0.05, 0.02])])
def test_a_compiled_function_traces_through(eps):
    """No graph break, and the same numbers; torch's eager interpreter runs the graph (no compiler needed)."""
    g = torch.Generator().manual_seed(0)
    clean = torch.rand(2, 1, 16, 16, generator=g)
    origin = clean + 0.1 * torch.randn(clean.shape, generator=g)
    grad = torch.randn(clean.shape, generator=g)
    want = user_function(origin.clone(), grad.clone(), origin, clean, eps)
    adv = origin.clone()
    got = torch.compile(user_function, backend="aot_eager", fullgraph=True)(adv, grad, origin, clean, eps)
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])
    assert torch.equal(got[2], want[2])
    assert torch.equal(adv + 1, want[0])  # the caller's tensor is the one that was written


def test_the_custom_ops_pass_torchs_own_checks():
    adv, grad = X.clone(), torch.randn(X.shape)
    op = torch.ops.fastattack
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        op.pgd_step_, (adv, grad, X, "linf", 0.1, None, 0.01, None, None, None, None, "auto"), test_utils=checks
    )
    torch.library.opcheck(
        op.momentum_step_,
        (adv, X * 0, grad, X, "l2", 0.1, None, 0.01, None, None, torch.ones(2), 0.0, 1.0, None, "auto"),
        test_utils=checks,
    )
    torch.library.opcheck(op.accumulate_, (adv, grad, 0.5, None, None, torch.ones(2), "auto"), test_utils=checks)
    torch.library.opcheck(op.project_, (adv, X, "l2", None, torch.ones(2), 0.0, 1.0, None, "auto"), test_utils=checks)
    torch.library.opcheck(op.project_, (adv, X, "l1", 0.5, None, None, None, None, "auto"), test_utils=checks)
    torch.library.opcheck(
        op.l1_step_, (adv, grad, X, 0.5, None, None, torch.ones(2), 0.05, None, 0.0, 1.0, None, "auto"),
        test_utils=checks,
    )  # fmt: skip
    torch.library.opcheck(op.preserve_noise_, (adv, X, grad, "linf", 0.1, None, "auto"), test_utils=checks)
    torch.library.opcheck(op.distances, (X, grad, "auto"), test_utils=checks)
    torch.library.opcheck(op.noise_stats, (X, 0.1, None, 0.0, None, "auto"), test_utils=checks)
    torch.library.opcheck(
        op.random_start_, (adv, X, "linf", 0.1, None, None, None, "7", None, "auto"), test_utils=checks
    )
    torch.library.opcheck(op.zero_mean_step_, (adv, grad, X, 0.1, None, 0.01, None, "auto"), test_utils=checks)
    torch.library.opcheck(op.project_zero_mean_, (adv, X, None, torch.ones(2), "auto"), test_utils=checks)
    torch.library.opcheck(op.quantise_, (adv, X, 0.1, None, 8, "linf", 0.0, 1.0, None, "auto"), test_utils=checks)


def test_fake_tensors_take_the_dispatcher():
    from torch._subclasses import FakeTensorMode

    real = X.clone()
    with FakeTensorMode() as mode:
        adv = mode.from_tensor(real)
        assert ops.project_(adv, mode.from_tensor(X), norm="linf", eps=0.1) is adv
        assert ops.noise_stats(adv, sigma=1.0).l2.shape == (2,)


def test_a_negating_view_is_refused() -> None:
    """Its memory holds other numbers than the tensor: a kernel would read them with the wrong sign."""
    view = torch.randn(2, 3, dtype=torch.complex64).conj().imag
    assert view.is_neg()
    with pytest.raises(ValueError, match="noise: wanted a tensor whose memory holds its numbers"):
        ops.noise_stats(view)
