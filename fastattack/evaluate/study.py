"""What an evaluation is, as data: from options or a YAML file, checked, and compared when a run is resumed."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..defenses.spec import DefenseSpec, check_defense_labels, parse_defense
from ..extras import require
from ..job import JobConfig, build_attack
from ..models.weights import sha256_of
from ..numbers import parse_number
from ..training.config import require_whole
from .bootstrap import Bootstrap
from .measure import Craft

_LISTS = ("models", "targets", "defense", "data", "eps", "quality")
_NUMBERS = ("sigma", "step", "shared_db", "confidence")
QUALITIES = ("ssim", "lpips")


@dataclass(frozen=True, kw_only=True)
class Study:
    """Models, data, attacks and how to count. Lengths (eps, step) on the [0, 1] scale, sigma on the 0-255 scale.

    Attributes:
        models: what to attack and to score: ``[label=]kind[:source]``, see `fastattack.models.spec`.
        targets: models that are scored alone.
        defense: what each model also stands behind, ``[label=]kind[:options]``, see `fastattack.defenses.spec`: as
            "MODEL+LABEL", under the attacks crafted on the others (blind) and attacked itself (adaptive).
        data: folders and image files.
        sigma: noise level; also of models that must be told it.
        attack: a name of `fastattack.job.ATTACKS`.
        eps: radii; the attack is made for each.
        steps, step, norm, preserve_noise, restarts, eot, seed, backend, precision: of the attack; see `JobConfig`. Only
            denoising-pgd keeps the noise; precision is not "auto".
        max_batch: images of one shape attacked together. The batches decide the last bits of results, so a run of many
            processes makes the same ones.
        channels: 1 or 3, as the images are read; None: what the models take.
        crop: edge of a central crop; None: whole images.
        limit: only the first so many images.
        quality: measures beside PSNR: "ssim", "lpips".
        lpips_weights: file with LPIPS's weights.
        shared_db: what an attack must cost both models to count as shared, dB.
        confidence, draws: of the bootstrap intervals.
        save_attacked: keep every attacked input in the shards.
    """

    models: tuple[str, ...]
    data: tuple[str, ...]
    targets: tuple[str, ...] = ()
    defense: tuple[str, ...] = ()
    sigma: float = 25.0
    attack: str = "denoising-pgd"
    eps: tuple[float, ...] = (5 / 255,)
    steps: int | None = None
    step: float | None = None
    norm: str | None = None
    preserve_noise: bool = True
    restarts: int = 1
    eot: int = 1
    seed: int = 0
    max_batch: int = 4
    channels: int | None = None
    crop: int | None = None
    limit: int | None = None
    quality: tuple[str, ...] = ("ssim",)
    lpips_weights: str | None = None
    shared_db: float = 1.0
    confidence: float = 0.95
    draws: int = 2000
    save_attacked: bool = True
    backend: str = "auto"
    precision: str = "fp32"

    def __post_init__(self) -> None:
        for name in ("models", "data", "eps"):
            if not getattr(self, name):
                raise ValueError(f"{name}: wanted at least one, got none")
        if self.eps[0] <= 0 or any(a >= b for a, b in pairwise(self.eps)):
            raise ValueError(f"eps: wanted radii > 0 that rise, got {list(self.eps)}")
        if self.precision == "auto":
            raise ValueError("precision: wanted one by name, got auto, which a timing decides: runs would differ")
        for name, least in (("max_batch", 1), ("crop", 1), ("limit", 1), ("draws", 1), ("seed", 0)):
            if (value := getattr(self, name)) is not None or name not in ("crop", "limit"):
                require_whole(value, name, least)
        if self.channels not in (None, 1, 3):
            raise ValueError(f"channels: wanted 1 or 3, got {self.channels!r}")
        for name in ("preserve_noise", "save_attacked"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: wanted true or false, got {getattr(self, name)!r}")
        if not 0 < self.shared_db < float("inf"):
            raise ValueError(f"shared_db: wanted a number of dB > 0, got {self.shared_db!r}")
        for name in self.quality:
            if name not in QUALITIES:
                raise ValueError(f"quality: wanted some of {', '.join(QUALITIES)}, got {name!r}")
        if ("lpips" in self.quality) != (self.lpips_weights is not None):
            raise ValueError("lpips_weights: wanted a file where quality has lpips, and only there")
        _ = self.bootstrap, self.defenses
        if self.attack != "denoising-pgd":
            object.__setattr__(self, "preserve_noise", False)  # the others have no such option
        first = self.configs[0]  # its steps and norm may come from the attack
        object.__setattr__(self, "steps", first.steps)
        object.__setattr__(self, "norm", first.norm)
        for craft in self.crafts:
            craft(lambda y: y)  # the attack complains about its options before anything is read

    @property
    def bootstrap(self) -> Bootstrap:
        return Bootstrap(confidence=self.confidence, draws=self.draws, seed=self.seed)

    @property
    def defenses(self) -> list[DefenseSpec]:
        found = [parse_defense(text) for text in self.defense]
        check_defense_labels(found)
        return found

    @property
    def configs(self) -> list[JobConfig]:
        """The attack at each radius."""
        names = {f.name for f in fields(JobConfig)} - {"eps", "device"}
        own = {name: getattr(self, name) for name in names}
        return [JobConfig(**own, eps=eps) for eps in self.eps]

    @property
    def crafts(self) -> list[Craft]:
        make: Callable[..., Any] = build_attack
        return [partial(make, config=config) for config in self.configs]

    def as_dict(self) -> dict[str, Any]:
        """Of lists, numbers and words alone."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def study_from(options: dict[str, Any]) -> Study:
    """From options by the names of `Study`'s fields, or with "-" for "_"; numbers may be words such as "5/255".

    Raises:
        TypeError, ValueError: an unknown option (with the nearest known one), or a value that does not fit.
    """
    known = [f.name for f in fields(Study)]
    chosen: dict[str, Any] = {}
    for key, value in options.items():
        name = str(key).replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            raise ValueError(f"{key}: unknown option{hint}")
        chosen[name] = _value(name, value)
    for name in ("models", "data"):
        if name not in chosen:
            raise ValueError(f"{name}: wanted at least one, got none")
    return Study(**chosen)


def study_file(path: Path) -> dict[str, Any]:
    """The options of a YAML file, by the names of `Study`'s fields where they are known.

    Raises:
        RuntimeError: no PyYAML.
        FileNotFoundError: no such file.
        ValueError: no YAML, or not a mapping; names the file.
    """
    require("yaml", what="config", extra="evaluate")
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: wanted options as 'name: value', got {type(content).__name__}")
    return {str(key).replace("-", "_"): value for key, value in content.items()}


def identity(
    study: Study,
    images: Sequence[tuple[int, str, str]],
    models: dict[str, str | None],
    device: str,
    defenses: dict[str, str | None] | None = None,
) -> dict[str, Any]:
    """What must be the same for a run to go on: study, images, weights, versions and kind of device.

    Args:
        images: (number, name, SHA-256) of each image.
        models: SHA-256 of each weight file by label; what a user's file imports is not seen.
        device: "cpu" or "cuda".
        defenses: SHA-256 of the weights of each defence by label.
    """
    text = json.dumps([list(image) for image in images])
    digest = hashlib.sha256(text.encode()).hexdigest()
    measured = None if study.lpips_weights is None else sha256_of(Path(study.lpips_weights))
    return {
        **study.as_dict(), "images": f"{len(images)} ({digest[:16]})", "weights": models,
        "defense_weights": defenses or {}, "lpips": measured,
        "fastattack": __version__, "torch": str(torch.__version__), "device": device,
    }  # fmt: skip


def _value(name: str, value: Any) -> Any:
    if name in _LISTS:
        items = value if isinstance(value, (list, tuple)) else [value]
        if name == "eps":
            return tuple(_number(name, item) for item in items)
        return tuple(str(item) for item in items if item is not None)
    return _number(name, value) if name in _NUMBERS and value is not None else value


def _number(name: str, value: Any) -> float:
    if isinstance(value, str):
        return parse_number(value, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: wanted a number such as 5/255, got {value!r}")
    return float(value)
