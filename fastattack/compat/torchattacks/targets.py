"""Attack modes: which labels an attack goes away from, or towards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ...guard import frozen

TargetMap = Callable[[Tensor, Tensor], Tensor]


class Targets:
    """The modes of torchattacks: default, and targeted by a function, a label, at random, least likely."""

    model: Any
    device: Any
    attack_mode: str
    supported_mode: list[str]
    targeted: bool
    _target_map_function: Any
    _kth_min = 1

    def get_logits(self, inputs: Tensor, labels: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        raise NotImplementedError

    def _parts(self) -> Iterator[Any]:
        raise NotImplementedError

    def get_mode(self) -> str:
        return self.attack_mode

    def set_mode_default(self) -> None:
        """Away from the labels."""
        self.attack_mode = "default"
        self.targeted = False
        print("Attack mode is changed to 'default.'")
        for part in self._parts():
            part.set_mode_default()

    def _set_mode_targeted(self, mode: str, quiet: bool) -> None:
        if "targeted" not in self.supported_mode:
            raise ValueError(f"Targeted mode is not supported by {type(self).__name__}.")
        self.targeted = True
        self.attack_mode = mode
        if not quiet:
            print(f"Attack mode is changed to '{mode}'.")

    def set_mode_targeted_by_function(self, target_map_function: TargetMap, quiet: bool = False) -> None:
        """Towards target_map_function(inputs, labels), (B,) int64; inputs are in [0, 1], also after
        `set_normalization_used`."""
        if not callable(target_map_function):
            got = type(target_map_function).__name__
            raise TypeError(f"target_map_function: wanted a function of (inputs, labels), got {got}")
        self._set_mode_targeted("targeted(custom)", quiet)
        self._target_map_function = target_map_function
        for part in self._parts():
            part.set_mode_targeted_by_function(target_map_function, quiet)

    def set_mode_targeted_random(self, quiet: bool = False) -> None:
        """Towards a class at random, never the label; from torch's global generator."""
        self._set_mode_targeted("targeted(random)", quiet)
        self._target_map_function = self.get_random_target_label
        for part in self._parts():
            part.set_mode_targeted_random(quiet)

    def set_mode_targeted_least_likely(self, kth_min: int = 1, quiet: bool = False) -> None:
        """Towards the class with the kth smallest logit but for the label's."""
        if isinstance(kth_min, bool) or not isinstance(kth_min, int) or kth_min < 1:
            raise AssertionError(f"kth_min: wanted a whole number >= 1, got {kth_min!r}")
        self._set_mode_targeted("targeted(least-likely)", quiet)
        self._kth_min = kth_min
        self._target_map_function = self.get_least_likely_label
        for part in self._parts():
            part.set_mode_targeted_least_likely(kth_min, quiet)

    def set_mode_targeted_by_label(self, quiet: bool = False) -> None:
        """Towards the labels that a call is given."""
        self._set_mode_targeted("targeted(label)", quiet)
        self._target_map_function = _itself
        for part in self._parts():
            part.set_mode_targeted_by_label(quiet)

    def get_target_label(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """(B,), what the attack goes towards."""
        if self._target_map_function is None:
            raise ValueError("target_map_function is not initialized by set_mode_targeted.")
        found: Tensor = self._target_map_function(inputs, labels)
        return found.detach().to(labels.device)

    @torch.no_grad()
    def get_least_likely_label(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        logits = self.get_output_with_eval_nograd(inputs)
        labels = logits.argmax(1) if labels is None else labels
        if self._kth_min > logits.shape[1] - 1:
            raise RuntimeError(f"kth_min: wanted at most {logits.shape[1] - 1} (other classes), got {self._kth_min}")
        others = logits.scatter(1, labels[:, None], float("inf"))
        return others.kthvalue(self._kth_min, 1).indices.to(self.device)

    @torch.no_grad()
    def get_random_target_label(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        logits = self.get_output_with_eval_nograd(inputs)
        labels = logits.argmax(1) if labels is None else labels
        others = logits.shape[1] - 1
        if others < 1:
            raise ValueError(f"model: wanted logits of 2 classes at least, got {others + 1}")
        drawn = (others * torch.rand(labels.shape)).long().to(labels.device)
        return (drawn + (drawn >= labels)).to(self.device)

    @torch.no_grad()
    def get_output_with_eval_nograd(self, inputs: Tensor) -> Tensor:
        """Logits of the model in eval mode, without a graph."""
        with frozen(self.model):
            return self.get_logits(inputs)


def _itself(inputs: Tensor, labels: Tensor) -> Tensor:
    return labels
