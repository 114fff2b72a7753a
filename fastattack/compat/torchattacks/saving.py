"""Adversarial data sets as files, with the keys of torchattacks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ...files import check_writable, write_atomic

KINDS = ("float", "int")


class Saving:
    """`save` and `load`."""

    normalization_used: Any
    device: Any

    def __call__(self, inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def inverse_normalize(self, inputs: Tensor) -> Tensor:
        raise NotImplementedError

    def get_output_with_eval_nograd(self, inputs: Tensor) -> Tensor:
        raise NotImplementedError

    def save(
        self,
        data_loader: Iterable[Sequence[Tensor]],
        save_path: str | Path | None = None,
        verbose: bool = True,
        return_verbose: bool = False,
        save_predictions: bool = False,
        save_clean_inputs: bool = False,
        save_type: str = "float",
    ) -> tuple[Any, ...] | None:
        """Attack every batch and write the results to one file.

        Args:
            data_loader: gives (inputs, labels).
            save_path: file, written once all batches are done, whole or not at all; None: nothing is written.
            verbose: a line after each batch: robust accuracy in percent, mean l2 distance of the samples that are
                fooled on the [0, 1] scale, seconds of the batch.
            return_verbose: give back these three numbers.
            save_predictions, save_clean_inputs: also under the keys "preds" and "clean_inputs".
            save_type: "float", or "int" for uint8, rounded to the nearest level.

        The keys are "adv_inputs", "labels", "save_type"; images are saved in [0, 1], whatever the normalisation.

        Raises:
            ValueError: another save_type, or a loader without a batch. OSError: the file cannot be
                written (before the first batch).
        """
        if save_type not in KINDS:
            raise ValueError(f"save_type: wanted 'float' or 'int', got {save_type!r}")
        if save_path is not None:
            check_writable(save_path)
        kept: dict[str, list[Tensor]] = {"adv_inputs": [], "labels": []}
        kept |= {"preds": []} if save_predictions else {}
        kept |= {"clean_inputs": []} if save_clean_inputs else {}
        tally = _Tally(len(data_loader) if isinstance(data_loader, Sized) else None)
        for inputs, labels in data_loader:
            began = time.time()
            adversarial = self(inputs, labels)
            pixels, clean = self._as_pixels(adversarial), self._as_pixels(inputs.to(adversarial.device))
            if verbose or return_verbose or save_predictions:
                predicted = self.get_output_with_eval_nograd(adversarial).argmax(1)
                tally.add(predicted, labels.to(predicted.device), pixels - clean, time.time() - began)
                kept.get("preds", []).append(predicted.cpu())
                if verbose:
                    self._save_print(*tally.numbers, end="\r")
            if save_path is not None:
                kept["adv_inputs"].append(pixels.cpu())
                kept["labels"].append(labels.detach().cpu())
                kept.get("clean_inputs", []).append(clean.cpu())
        if tally.batches == 0 and (verbose or return_verbose):
            raise ValueError("data_loader: wanted a batch at least, got none")
        if save_path is not None:
            _write(save_path, {name: torch.cat(parts) for name, parts in kept.items()}, save_type)
        if verbose:
            self._save_print(*tally.numbers, end="\n")
        return tally.numbers[1:] if return_verbose else None

    def _as_pixels(self, inputs: Tensor) -> Tensor:
        return (inputs if self.normalization_used is None else self.inverse_normalize(inputs)).detach()

    @staticmethod
    def to_type(inputs: Tensor, type: str) -> Tensor:
        """Floating images as uint8 ("int"), rounded; or uint8 images as floating ones ("float")."""
        if type not in KINDS:
            raise ValueError(f"{type} is not a valid type. [Options: float, int]")
        if type == "int" and inputs.is_floating_point():
            return (inputs * 255).round().clamp(0, 255).to(torch.uint8)
        return inputs.float() / 255 if type == "float" and inputs.dtype is torch.uint8 else inputs

    @staticmethod
    def _save_print(progress: float, rob_acc: float, l2: float, elapsed_time: float, end: str) -> None:
        print(
            f"- Save progress: {progress:2.2f} % / Robust accuracy: {rob_acc:2.2f} % / "
            f"L2: {l2:1.5f} ({elapsed_time:2.3f} it/s) \t",
            end=end,
        )

    @staticmethod
    def load(
        load_path: str | Path,
        batch_size: int = 128,
        shuffle: bool = False,
        normalize: Mapping[str, Sequence[float]] | None = None,
        load_predictions: bool = False,
        load_clean_inputs: bool = False,
    ) -> DataLoader[tuple[Tensor, ...]]:
        """What `save` of this class, or of torchattacks, wrote: batches (adv_inputs, labels[, preds][, clean_inputs]).

        Args:
            normalize: {"mean": ..., "std": ...} a number for each channel, or None for images in [0, 1].

        Raises:
            KeyError: the file has no such entry. OSError: it is not there.
        """
        saved = torch.load(load_path, map_location="cpu", weights_only=True)
        keys = ["adv_inputs", "labels"] + ["preds"] * load_predictions + ["clean_inputs"] * load_clean_inputs
        missing = [key for key in keys if key not in saved]
        if missing:
            raise KeyError(f"{load_path}: wanted {', '.join(keys)}, got {', '.join(saved)}")
        for key in ("adv_inputs", "clean_inputs"):
            if key in keys:
                saved[key] = _normalised(Saving.to_type(saved[key], "float"), normalize)
        print(f"Data is loaded in the following order: [{', '.join(keys)}]")
        return DataLoader(TensorDataset(*[saved[key] for key in keys]), batch_size=batch_size, shuffle=shuffle)


class _Tally:
    """Progress and robust accuracy in percent, mean distance, seconds of the last batch."""

    def __init__(self, expected: int | None) -> None:
        self.expected, self.batches, self.right, self.total = expected, 0, 0, 0
        self.lengths: list[Tensor] = []
        self.seconds = 0.0

    def add(self, predicted: Tensor, labels: Tensor, moved: Tensor, seconds: float) -> None:
        right = predicted == labels
        self.batches, self.seconds = self.batches + 1, seconds
        self.right, self.total = self.right + int(right.sum()), self.total + len(right)
        self.lengths.append(moved[~right].flatten(1).norm(dim=1))

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        share = 100.0 * self.batches / self.expected if self.expected else float("nan")
        accuracy = 100.0 * self.right / max(self.total, 1)
        return share, accuracy, torch.cat(self.lengths).mean().item(), self.seconds


def _write(path: str | Path, tensors: dict[str, Tensor], save_type: str) -> None:
    found: dict[str, Any] = dict(tensors)
    if save_type == "int":
        found |= {k: Saving.to_type(v, "int") for k, v in tensors.items() if k in ("adv_inputs", "clean_inputs")}
    found["save_type"] = save_type
    write_atomic(path, lambda file: torch.save(found, file))


def _normalised(images: Tensor, by: Mapping[str, Sequence[float]] | None) -> Tensor:
    if by is None:
        return images
    mean, std = (torch.as_tensor(by[name]).reshape(1, -1, 1, 1) for name in ("mean", "std"))
    return (images - mean) / std
