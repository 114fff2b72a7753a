"""foolbox.attacks.base: what every attack is called with and gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ....engine import NonFiniteError
from ....fast import Speed, speed_of
from ....guard import left_as_found
from ..criteria import ask, get_criterion
from ..distances import Distance
from ..models.network import network_of
from ..native import like, unwrap


class Attack(ABC):
    """attack(model, inputs, criterion, epsilons=...) -> (raw, clipped, is_adv)."""

    _speed = Speed()

    @abstractmethod
    def __call__(self, model: Any, inputs: Any, criterion: Any, *, epsilons: Any, **kwargs: Any) -> Any:
        """Attack a batch.

        Args:
            model: a `Model`, ours or foolbox's; anything with bounds that is called on a batch.
            inputs: (B, ...) between the model's bounds: torch tensors, or eagerpy's around them.
            criterion: labels (B,), or a criterion of `fastattack.compat.foolbox.criteria` or foolbox's.
            epsilons: one radius, or several; None among them where the attack looks for the smallest perturbation.

        Returns:
            raw, as the attack gives them, and clipped to the radius, like inputs; is_adv (B,) bool, whether the
            clipped ones are adversarial. For several epsilons lists of K, and is_adv (K, B).

        Raises:
            AssertionError: inputs outside of the bounds, or not finite. ValueError: a criterion that the attack does
                not take, labels of another shape. IndexError: labels that are no class of the model's.
            TypeError: another keyword. NonFiniteError: NaN in what the model gives.
        """

    @abstractmethod
    def repeat(self, times: int) -> Attack: ...

    def set_speed(self, **fields: Any) -> Self:
        """How gradients are made: fields of `fastattack.fast.Speed`. Gives back the attack itself."""
        self._speed = speed_of(**fields)
        return self

    def __repr__(self) -> str:
        named = ", ".join(f"{k}={v}" for k, v in vars(self).items() if k != "_speed")
        return f"{type(self).__name__}({named})"


class AttackWithDistance(Attack):
    """An attack that measures perturbations by ``distance``."""

    @property
    @abstractmethod
    def distance(self) -> Distance: ...

    def repeat(self, times: int) -> Repeated:
        return Repeated(self, times)

    def _told(self, restore: Callable[[Tensor], Any], radii: Radii, raw: list[Any], x: Tensor, judge: Judge) -> Any:
        """(raw, clipped, is_adv) as the caller wants them."""
        plain = [unwrap(one, "run") for one in raw]
        clipped = [
            one.clone() if eps is None else unwrap(self.distance.clip_perturbation(x, one, eps), "distance")
            for one, eps in zip(plain, radii.values, strict=True)
        ]
        success = judge(clipped)
        if radii.several:
            return [restore(v) for v in plain], [restore(v) for v in clipped], restore(success)
        return restore(plain[0]), restore(clipped[0]), restore(success[0])


class Radii:
    """The epsilons of a call: ``values``, and whether they came as ``several``.

    Raises:
        ValueError: there are none.
    """

    def __init__(self, epsilons: Any) -> None:
        self.several = isinstance(epsilons, Iterable) and getattr(epsilons, "ndim", 1) > 0
        self.values = [None if e is None else float(e) for e in (epsilons if self.several else [epsilons])]
        if not self.values:
            raise ValueError("epsilons: wanted at least one, got none")

    @property
    def numbers(self) -> list[float]:
        return [e for e in self.values if e is not None]


class FixedEpsilonAttack(AttackWithDistance):
    """Looks for an adversarial input within a given radius."""

    @abstractmethod
    def run(self, model: Any, inputs: Any, criterion: Any, *, epsilon: float, **kwargs: Any) -> Any:
        """The perturbed inputs for one radius."""

    def sweep(self, model: Any, inputs: Any, criterion: Any, *, epsilons: list[float], **kwargs: Any) -> list[Any]:
        """Those for several."""
        return [self.run(model, inputs, criterion, epsilon=e, **kwargs) for e in epsilons]

    def __call__(self, model: Any, inputs: Any, criterion: Any, *, epsilons: Any, **kwargs: Any) -> Any:
        x = verify_input_bounds(inputs, model)
        criterion, radii = get_criterion(criterion), Radii(epsilons)
        if len(radii.numbers) < len(radii.values):
            raise NotImplementedError(f"epsilons: wanted radii for {type(self).__name__}, got None")
        raw = self.sweep(model, inputs, criterion, epsilons=radii.numbers, **kwargs)
        return self._told(like(inputs), radii, raw, x, Judge(criterion, model, inputs))


class MinimizationAttack(AttackWithDistance):
    """Looks for the smallest perturbation that is adversarial."""

    @abstractmethod
    def run(self, model: Any, inputs: Any, criterion: Any, *, early_stop: float | None = None, **kwargs: Any) -> Any:
        """The perturbed inputs. ``early_stop``: a distance below which nobody asks."""

    def __call__(self, model: Any, inputs: Any, criterion: Any, *, epsilons: Any, **kwargs: Any) -> Any:
        x = verify_input_bounds(inputs, model)
        criterion, radii = get_criterion(criterion), Radii(epsilons)
        early_stop = min(radii.numbers) if len(radii.numbers) == len(radii.values) else None
        raw = self.run(model, inputs, criterion, early_stop=early_stop, **kwargs)
        return self._told(like(inputs), radii, [raw] * len(radii.values), x, Judge(criterion, model, inputs))


class Repeated(AttackWithDistance):
    """An attack run several times: for each radius the first adversarial found, for None the nearest."""

    def __init__(self, attack: AttackWithDistance, times: int) -> None:
        if times < 1:
            raise ValueError(f"times: wanted a whole number >= 1, got {times}")
        self.attack = attack
        self.times = times

    @property
    def distance(self) -> Distance:
        return self.attack.distance

    def repeat(self, times: int) -> Repeated:
        return Repeated(self.attack, self.times * times)

    def set_speed(self, **fields: Any) -> Self:
        self.attack.set_speed(**fields)
        return self

    def __call__(self, model: Any, inputs: Any, criterion: Any, *, epsilons: Any, **kwargs: Any) -> Any:
        x = verify_input_bounds(inputs, model)
        criterion, radii, restore = get_criterion(criterion), Radii(epsilons), like(inputs)
        best = self._once(model, inputs, criterion, radii, kwargs)
        for _ in range(1, self.times):
            found = self._once(model, inputs, criterion, radii, kwargs)
            for k, epsilon in enumerate(radii.values):
                better = found[2][k] & ~best[2][k]
                if epsilon is None:
                    better |= found[2][k] & (self._size(x, found[0][k]) < self._size(x, best[0][k]))
                wide = better.reshape(-1, *[1] * (x.dim() - 1))
                for kind in (0, 1):
                    best[kind][k] = torch.where(wide, found[kind][k], best[kind][k])
            best = (best[0], best[1], best[2] | found[2])
        raw, clipped, success = [restore(v) for v in best[0]], [restore(v) for v in best[1]], restore(best[2])
        return (raw, clipped, success) if radii.several else (raw[0], clipped[0], restore(best[2][0]))

    def _once(
        self, model: Any, inputs: Any, criterion: Any, radii: Radii, kwargs: dict[str, Any]
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        raw, clipped, success = self.attack(model, inputs, criterion, epsilons=radii.values, **kwargs)
        return [unwrap(v, "raw") for v in raw], [unwrap(v, "clipped") for v in clipped], unwrap(success, "is_adv")

    def _size(self, x: Tensor, perturbed: Tensor) -> Tensor:
        return unwrap(self.distance(x, perturbed), "distance")


class Judge:
    """Asks the criterion about perturbed inputs, with the model as it is, which is left as it was.

    Raises:
        NonFiniteError: NaN in the model's outputs, of which argmax would make a class.
    """

    def __init__(self, criterion: Any, model: Any, inputs: Any) -> None:
        self.criterion, self.model = criterion, model
        self.restore = like(inputs)

    def __call__(self, batches: list[Tensor]) -> Tensor:
        """(K, B) bool of K batches."""
        with kept(self.model, batches[0]):
            return torch.stack([self._one(x) for x in batches])

    def _one(self, x: Tensor) -> Tensor:
        perturbed = self.restore(x)
        outputs = self.model(perturbed)
        if bool(unwrap(outputs, "model").isnan().any()):
            raise NonFiniteError("model: NaN in its outputs for the perturbed inputs")
        said = unwrap(ask(self.criterion, perturbed, outputs), "criterion")
        if said.shape != x.shape[:1] or said.dtype is not torch.bool:
            raise ValueError(
                f"criterion: wanted one bool for each sample, shape ({len(x)},), got {tuple(said.shape)} {said.dtype}"
            )
        return said


@contextmanager
def kept(model: Any, x: Tensor) -> Iterator[None]:
    """What calls of the model inside do to its buffers and to torch's random state is undone after."""
    network = network_of(model)
    with left_as_found(network, x.device, eval_mode=False):
        yield


def trains(network: Any) -> bool:
    """Some part of it is in training mode."""
    return isinstance(network, nn.Module) and any(m.training for m in network.modules())


def raise_if_kwargs(kwargs: dict[str, Any]) -> None:
    if kwargs:
        raise TypeError(f"attack got an unexpected keyword argument {next(iter(kwargs))!r}")


def verify_input_bounds(inputs: Any, model: Any) -> Tensor:
    """The inputs as a torch tensor.

    Raises:
        AssertionError: some lie outside of the model's bounds, or are NaN. AttributeError: the model has no bounds.
        ValueError: no tensor, or no sample. RuntimeError: no floats.
    """
    x = unwrap(inputs, "inputs")
    bounds = getattr(model, "bounds", None)
    if bounds is None:
        raise AttributeError(
            f"model: wanted one with bounds, as PyTorchModel(net, bounds=(0, 1)), got {type(model).__name__}"
        )
    if x.numel() == 0 or x.dim() < 2:
        raise ValueError(f"inputs: wanted at least one sample (B, ...), got shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise RuntimeError(f"inputs: wanted floats, got {x.dtype}")
    low, high = (v.item() for v in torch.aminmax(x.detach()))
    if not (low >= bounds[0] and high <= bounds[1]):
        raise AssertionError(
            f"inputs: wanted values inside the model's bounds {tuple(bounds)}, got {low:g} to {high:g}"
        )
    return x
