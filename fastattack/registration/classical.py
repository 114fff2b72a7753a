"""Registration without learning, as a model (pair -> field): SimpleITK's B-splines, dipy's SyN."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..extras import require
from .fields import require_floating

METHODS = {"bspline": "SimpleITK", "syn": "dipy"}
LEAST = 16  # voxels along an axis: the coarsest level still has four
_SHRINK = [4, 2, 1]
_STEPS = 50  # at most, on each level
_POINTS = 50_000  # at most, of which mutual information is estimated
_Array = npt.NDArray[np.float64]


class Classical:
    """Intensity-based registration of images of two contrasts, pair after pair, in one thread.

    "bspline" (SimpleITK): cubic B-splines whose mesh goes from 2 to 4 to 8 elements along an axis while the images go
    from a quarter of their size to all of it; Mattes' mutual information of 32 bins, climbed by L-BFGS. "syn" (dipy):
    symmetric diffeomorphisms (Avants et al., 2008); the metric estimates an image's mean grey value where the other
    has a given one (EM, 256 levels) and takes demons' steps (dipy's default, Gauss-Newton, hardly came nearer). On the
    template's held-out slices "bspline" is the better one.

    A result depends on its pair alone. It has no gradient: a target for transfer and for attacks by queries.

    Args:
        method: "bspline" or "syn".
        dims: 2 or 3.

    Raises:
        ValueError: another method or number of dimensions.
        RuntimeError: the method's package is missing (extra ``registration-data``).
    """

    differentiable = False

    def __init__(self, method: str = "bspline", *, dims: int = 2) -> None:
        if method not in METHODS:
            raise ValueError(f"method: wanted one of {', '.join(METHODS)}, got {method!r}")
        if dims not in (2, 3) or isinstance(dims, bool):
            raise ValueError(f"dims: wanted 2 or 3, got {dims!r}")
        require(METHODS[method], what=f"Classical({method!r})", extra="registration-data")
        self.method, self.dims = method, dims
        self._register: Callable[[_Array, _Array], _Array] = _bspline if method == "bspline" else _syn

    def __call__(self, pair: Tensor) -> Tensor:
        """The field (B, d, *spatial) of pairs (B, 2, *spatial), in voxels, in float32 at least; device as given.

        Where an image has no contrast there is nothing to compare, and the field is 0.

        Raises:
            TypeError, ValueError: no floating tensor, another shape, an axis of fewer than 16 voxels, NaN or infinity.
            RuntimeError: the pair wants a gradient, or the method gave up on one; names the sample.
        """
        require_floating(pair, "pair")
        if pair.dim() != 2 + self.dims or pair.shape[1] != 2 or min(pair.shape[2:]) < LEAST:
            axes = "H, W" if self.dims == 2 else "D, H, W"
            raise ValueError(
                f"pair: wanted (B, 2, {axes}), {LEAST} voxels at least along each, got {tuple(pair.shape)}"
            )
        if pair.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(f"{self.method}: has no gradient; use it as a target of transfer, or attack by queries")
        images = pair.detach().to("cpu", torch.float64).numpy()
        if not np.isfinite(images).all():
            raise ValueError("pair: wanted finite images, got NaN or infinity")
        field = torch.zeros(len(images), self.dims, *pair.shape[2:], dtype=torch.float64)
        for number, (out, (moving, fixed)) in enumerate(zip(field, images, strict=True)):
            if np.ptp(moving) > 0 and np.ptp(fixed) > 0:
                out.copy_(torch.from_numpy(self._one(number, moving, fixed)))
        return field.to(pair.device, torch.promote_types(pair.dtype, torch.float32))

    def _one(self, number: int, moving: _Array, fixed: _Array) -> _Array:
        try:
            return np.ascontiguousarray(self._register(moving, fixed))
        except RuntimeError as error:  # ITK's, of many lines
            said = str(error).strip().splitlines()[-1].strip()
            raise RuntimeError(f"pair: {self.method} gave up on sample {number}: {said}") from error

    def __repr__(self) -> str:
        return f"Classical({self.method!r}, dims={self.dims})"


def _bspline(moving: _Array, fixed: _Array) -> _Array:
    sitk: Any = import_module("SimpleITK")
    with _one_thread(sitk):
        return _splines(sitk, moving, fixed)


@contextmanager
def _one_thread(sitk: Any) -> Iterator[None]:
    """Of all that ITK does: by the method's own number others still sum in threads, and one run in ten differed."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def _splines(sitk: Any, moving: _Array, fixed: _Array) -> _Array:
    target, source = (sitk.GetImageFromArray(image.astype(np.float32)) for image in (fixed, moving))
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(32)
    shares = [min(_POINTS / (fixed.size / shrink**fixed.ndim), 1.0) for shrink in _SHRINK]
    if min(shares) < 1:
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentagePerLevel(shares, seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsLBFGS2(solutionAccuracy=1e-4, numberOfIterations=_STEPS)
    start = sitk.BSplineTransformInitializer(target, [2] * fixed.ndim, 3)
    method.SetInitialTransformAsBSpline(start, inPlace=True, scaleFactors=[1, 2, 4])
    method.SetShrinkFactorsPerLevel(_SHRINK)
    method.SetSmoothingSigmasPerLevel([2, 1, 0.5])
    found = method.Execute(target, source)
    field = sitk.TransformToDisplacementField(found, sitk.sitkVectorFloat64, target.GetSize())
    return np.moveaxis(sitk.GetArrayFromImage(field)[..., ::-1], -1, 0)  # ITK names the last axis first


def _syn(moving: _Array, fixed: _Array) -> _Array:
    metrics: Any = import_module("dipy.align.metrics")
    imwarp: Any = import_module("dipy.align.imwarp")
    metric = metrics.EMMetric(fixed.ndim, smooth=4.0, step_type="demons")
    method = imwarp.SymmetricDiffeomorphicRegistration(metric, level_iters=[50, 25, 10])
    method.verbosity = imwarp.VerbosityLevels.NONE
    return np.moveaxis(np.asarray(method.optimize(fixed, moving).get_forward_field(), np.float64), -1, 0)
