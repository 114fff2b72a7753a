"""The Adversarial Robustness Toolbox's attacks (ART 1.20) on this engine: change the import, keep the code.

    from fastattack.compat.art import ProjectedGradientDescent
    adv = ProjectedGradientDescent(classifier, eps=8 / 255, eps_step=2 / 255, max_iter=10).generate(x, y)

The attacks are subclasses of ART's EvasionAttack and take its PyTorchClassifier; `PyTorchRestorer` is an estimator for
denoisers and other image-to-image models, which ART has none for. docs/compat.md says what is the same and what is
not.
"""

from ...extras import require

require("art.attacks", what="fastattack.compat.art", extra="compat")

from .gradient import (  # noqa: E402  (what follows subclasses what was looked for)
    BasicIterativeMethod,
    FastGradientMethod,
    MomentumIterativeMethod,
    ProjectedGradientDescent,
)
from .restorer import PyTorchRestorer  # noqa: E402
from .search import AutoProjectedGradientDescent, SquareAttack  # noqa: E402

__all__ = [
    "AutoProjectedGradientDescent",
    "BasicIterativeMethod",
    "FastGradientMethod",
    "MomentumIterativeMethod",
    "ProjectedGradientDescent",
    "PyTorchRestorer",
    "SquareAttack",
]
