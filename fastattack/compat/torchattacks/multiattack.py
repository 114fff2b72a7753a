"""Several attacks in turn, each on the samples that withstood those before it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import checks
from .attack import Attack


class MultiAttack(Attack):
    """Attack the same model with several attacks; each is given what the ones before it did not fool.

    Args:
        attacks: two at least, on one model object.
        verbose: print the success rates after each call.

    Raises:
        ValueError: fewer than two attacks, or different models.
    """

    def __init__(self, attacks: Sequence[Attack], verbose: bool = False) -> None:
        if len(attacks) < 2:
            raise ValueError("More than two attacks should be given.")
        super().__init__("MultiAttack", attacks[0].model)
        self.attacks = attacks
        self.verbose = verbose
        self.supported_mode = ["default"]
        self.check_validity()
        self._accumulate_multi_atk_records = False
        self._multi_atk_records = [0.0]

    def check_validity(self) -> None:
        if len(self.attacks) < 2:
            raise ValueError("More than two attacks should be given.")
        if len({id(attack.model) for attack in self.attacks}) != 1:
            raise ValueError("At least one of attacks is referencing a different model.")

    def forward(self, images: Tensor, labels: Any) -> Tensor:  # type: ignore[override]
        checks.images(images)
        checks.labels(labels, images)
        images, labels = images.detach().to(self.device), labels.detach().to(self.device)
        found = images.clone()
        left = torch.arange(len(images), device=images.device)
        records = [float(len(images))]
        for attack in self.attacks:
            adversarial = attack(images[left], labels[left])
            fooled = self.get_output_with_eval_nograd(adversarial).argmax(1) != labels[left]
            found[left[fooled]] = adversarial[fooled]
            left = left[~fooled]
            records.append(float(len(left)))
            if len(left) == 0:
                break
        if self.verbose:
            print(self._return_sr_record(records))
        if self._accumulate_multi_atk_records:
            self._update_multi_atk_records(records)
        return found

    def save(
        self,
        data_loader: Iterable[Sequence[Tensor]],
        save_path: str | Path | None = None,
        verbose: bool = True,
        return_verbose: bool = False,
        save_predictions: bool = False,
        save_clean_inputs: bool = False,
        save_type: str = "float",
        *,
        save_clean_images: bool = False,
    ) -> tuple[Any, ...] | None:
        """As for other attacks; the numbers given back have the success rates after each attack at the second place.

        save_clean_images: torchattacks' name here for save_clean_inputs.
        """
        before = self.verbose
        self._multi_atk_records = [0.0] * (len(self.attacks) + 1)
        self.verbose, self._accumulate_multi_atk_records = False, True
        try:
            found = super().save(
                data_loader, save_path, verbose, return_verbose, save_predictions,
                save_clean_inputs or save_clean_images, save_type,
            )  # fmt: skip
            return (
                None
                if found is None
                else (found[0], self._covert_to_success_rates(self._multi_atk_records), *found[1:])
            )
        finally:
            self._multi_atk_records = [0.0]
            self.verbose, self._accumulate_multi_atk_records = before, False

    def _covert_to_success_rates(self, records: Sequence[float]) -> list[float]:
        return [(1 - left / records[0]) * 100 for left in records[1:]]

    def _return_sr_record(self, records: Sequence[float]) -> str:
        return "Attack success rate: " + " | ".join(f"{rate:2.2f} %" for rate in self._covert_to_success_rates(records))

    def _update_multi_atk_records(self, records: Sequence[float]) -> None:
        """Attacks that were not needed leave what the last one left: nothing."""
        padded = [*records, *[0.0] * (len(self._multi_atk_records) - len(records))]
        self._multi_atk_records = [a + b for a, b in zip(self._multi_atk_records, padded, strict=True)]

    def _save_print(self, progress: float, rob_acc: float, l2: float, elapsed_time: float, end: str) -> None:  # type: ignore[override]
        rates = self._return_sr_record(self._multi_atk_records)
        print(
            f"- Save progress: {progress:2.2f} % / Robust accuracy: {rob_acc:2.2f} % / {rates} / "
            f"L2: {l2:1.5f} ({elapsed_time:2.3f} it/s) \t",
            end=end,
        )
