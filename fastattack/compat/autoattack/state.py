"""What an evaluation that was broken off goes on from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from ...files import differences, write_atomic

_KIND = "fastattack.compat.autoattack 1"


class State:
    """A JSON file with the flags, and beside it a folder NAME.parts with what was found, one file a batch.

    Every file is written whole or not at all, the images before the flags that tell of them.

    Attributes:
        seed: of the whole evaluation.
        clean: accuracy before any attack; None: not measured yet.
        finished: attacks that have ended, in order, with the robust accuracy after each.
        tried: (N,) bool, what the attack that is under way has seen.
        robust: (N,) bool; labels: (N,) the model's answers to the images as they are now.
        adversarial: (N, ...), x where nothing was found.
    """

    def __init__(self, path: str | Path | None, x: Tensor, y: Tensor, options: dict[str, Any], seed: int) -> None:
        self.path = None if path is None else Path(path)
        self.options, self.seed = options if path is None else {**options, "inputs": _digest(x, y)}, seed
        self.clean: float | None = None
        self.finished: dict[str, float] = {}
        self.robust = torch.zeros(len(x), dtype=torch.bool)
        self.tried = torch.zeros_like(self.robust)
        self.labels = torch.zeros(len(x), dtype=torch.int64)
        self.adversarial = x.detach().clone()
        self.parts: list[list[str]] = []

    @property
    def there(self) -> bool:
        return self.path is not None and self.path.exists()

    def restore(self, seed: int | None) -> None:
        """Go on from the file.

        Raises:
            ValueError: it is no such state, or one of other inputs, options or seed, or a file of it is damaged.
        """
        assert self.path is not None, "asked only where there is one"
        try:
            told = json.loads(self.path.read_text(encoding="utf-8"))
            if told.get("kind") != _KIND:
                raise ValueError
        except (ValueError, AttributeError):
            raise ValueError(f"state_path: wanted a state of this AutoAttack, got {self.path}") from None
        wanted = self.options if seed is None else {**self.options, "seed": seed}
        came = told["options"] if seed is None else {**told["options"], "seed": told["seed"]}
        if other := differences(json.loads(json.dumps(wanted)), came):
            raise ValueError(f"state_path: {self.path} belongs to another evaluation ({'; '.join(other)})")
        self.seed, self.clean, self.finished = told["seed"], told["clean"], told["finished"]
        self.robust, self.tried = (
            torch.tensor([flag == "1" for flag in told[name]], dtype=torch.bool) for name in ("robust", "tried")
        )
        self.labels = torch.tensor(told["labels"], dtype=torch.int64)
        self.parts = told["parts"]
        for name, digest in self.parts:
            self._read(name, digest)

    def _read(self, name: str, digest: str) -> None:
        path = self._folder() / name
        content = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"state_path: {path} is damaged or missing")
        part = load(content)
        self.adversarial[part["index"].to(self.adversarial.device)] = part["images"].to(self.adversarial)

    def _folder(self) -> Path:
        assert self.path is not None, "asked only where there is one"
        return self.path.with_name(self.path.name + ".parts")

    def saw(self, batch: Tensor, fooled: Tensor, images: Tensor, labels: Tensor) -> None:
        """An attack has seen the samples ``batch``; of these, ``fooled`` (a mask) have other images and labels now."""
        self.tried[batch.cpu()] = True
        fooled = fooled.cpu()
        index, device = batch.cpu()[fooled], self.adversarial.device
        images, labels = images.cpu()[fooled], labels.cpu()[fooled]
        self.robust[index] = False
        self.labels[index] = labels
        self.adversarial[index.to(device)] = images.to(device)
        if self.path is not None and index.numel():
            content = save({"index": index.contiguous(), "images": images.contiguous()})
            name = f"{len(self.parts):05d}.safetensors"
            write_atomic(self._folder() / name, content)
            self.parts.append([name, hashlib.sha256(content).hexdigest()])
        self.write()

    def finish(self, attack: str) -> float:
        """The attack has seen all that is left. Gives the robust accuracy."""
        self.finished[attack] = accuracy = int(self.robust.sum()) / len(self.robust)
        self.tried[:] = False
        self.write()
        return accuracy

    def write(self) -> None:
        """Where there is a path."""
        if self.path is None:
            return
        told = {
            "kind": _KIND, "options": self.options, "seed": self.seed, "clean": self.clean, "finished": self.finished,
            "robust": _flags(self.robust), "tried": _flags(self.tried), "labels": self.labels.tolist(),
            "parts": self.parts,
        }  # fmt: skip
        write_atomic(self.path, json.dumps(told).encode())


def _flags(of: Tensor) -> str:
    return "".join("1" if flag else "0" for flag in of.tolist())


def _digest(*tensors: Tensor) -> str:
    found = hashlib.sha256()
    for t in tensors:
        whole = t.detach().cpu().contiguous()
        found.update(f"{tuple(whole.shape)} {whole.dtype}".encode())
        found.update(whole.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
