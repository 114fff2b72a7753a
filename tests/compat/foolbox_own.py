"""foolbox's own tests against fastattack.compat.foolbox, from a checkout of github.com/bethgelab/foolbox:

    python tests/compat/foolbox_own.py CHECKOUT [options of pytest]

Needs foolbox and pytest. Ours take the place of its attacks, models, criteria, distances and accuracy in
the imported package, and its tests run as they are; those of attacks that are not covered, of samples and of other
frameworks are left out. Nothing of foolbox is copied.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import foolbox
import foolbox.gradient_estimators
import pytest

import fastattack.compat.foolbox as fb

FILES = [
    "test_attacks.py",
    "test_attacks_raise.py",
    "test_criteria.py",
    "test_distances.py",
    "test_models.py",
    "test_utils.py",
]
ATTACKS = ("attack_test_target", "attack_exception_text_and_grad")
NAMED = ("test_fgsm_run_raises",)  # of test_attacks_raise.py: those without an attack as parameter that we cover


def put_ours_in_place() -> None:
    theirs = {getattr(fb.attacks, name): getattr(foolbox.attacks, name) for name in fb.attacks.__all__}
    estimator = foolbox.gradient_estimators.es_gradient_estimator  # changes foolbox's loop: it gets foolbox's class

    def of_theirs(kind: Any, *args: Any, **options: Any) -> Any:
        return estimator(theirs[kind], *args, **options)

    foolbox.gradient_estimators.es_gradient_estimator = of_theirs
    for module, names in (
        ("attacks", fb.attacks.__all__),
        ("models", fb.models.__all__),
        ("models.base", ["Model", "ModelWithPreprocessing", "TransformBoundsWrapper"]),
        ("criteria", ["Criterion", "Misclassification", "TargetedMisclassification"]),
        ("distances", ["Distance", "LpDistance", "l0", "l1", "l2", "linf"]),
        ("utils", ["accuracy"]),
        ("", ["Attack", "Criterion", "Misclassification", "Model", "PyTorchModel", "TargetedMisclassification",
              "accuracy"]),
    ):  # fmt: skip
        there, here = foolbox, fb
        for part in filter(None, module.split(".")):
            there, here = getattr(there, part), getattr(here, part)
        for name in names:
            setattr(there, name, getattr(here, name))


def is_covered(item: pytest.Item) -> bool:
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    if str(parameters.get("fmodel_and_data_ext_for_attacks", "")).startswith(("tensorflow", "jax", "numpy")):
        return False
    if item.name.startswith("test_samples") or "pytorch_mnist" in item.name:  # the network is not in a plain checkout
        return False
    for name in ATTACKS:
        if name in parameters:
            return isinstance(parameters[name][0], fb.Attack)
    return item.path.name != "test_attacks_raise.py" or item.name.startswith(NAMED)


class Ours:
    """Leaves out what is not covered."""

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        left = [item for item in items if not is_covered(item)]
        items[:] = [item for item in items if is_covered(item)]
        config.hook.pytest_deselected(items=left)


def main() -> int:
    if len(sys.argv) < 2 or not (Path(sys.argv[1]) / "tests" / "test_attacks.py").is_file():
        print(__doc__, file=sys.stderr)
        return 2
    put_ours_in_place()
    tests = Path(sys.argv[1]).resolve() / "tests"
    files = [str(tests / name) for name in FILES]
    options = [
        "--rootdir",
        str(tests),
        "-c",
        "/dev/null",
        "-p",
        "no:cacheprovider",
        "--backend",
        "pytorch",
        "--skipslow",
    ]
    return int(pytest.main([*files, *options, *sys.argv[2:]], plugins=[Ours()]))


if __name__ == "__main__":
    raise SystemExit(main())
