"""The options of a typical-set sampler, as `train` and `sample` take them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..numbers import parse_number

if TYPE_CHECKING:
    from ..ops import Spectrum
    from ..sampler import Range, TypicalSetSampler
    from ..typical import SpectrumFit


def interval(text: str, name: str) -> Range:
    """A number such as 25, 0.02 or 5/255, or an interval low:high of them."""
    numbers = [parse_number(part, name) for part in text.split(":")]
    if len(numbers) > 2:
        raise ValueError(f"{name}: wanted a number or an interval low:high, got {text!r}")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


@dataclass(frozen=True, kw_only=True)
class NoiseOptions:
    """What was typed; what was not comes from a fit, if there is one, else it is 0 or none."""

    typicality: str | None
    mean: str | None
    spectrum: str | None
    share: str | None
    plain_share: float
    seed: int
    backend: str = "auto"

    def fit(self) -> SpectrumFit | None:
        """The fit that --spectrum names."""
        from ..typical import SpectrumFit

        if self.spectrum in (None, "none", "adversarial"):
            return None
        if not Path(self.spectrum).is_file():
            raise ValueError(
                f"spectrum: wanted none, adversarial or the JSON file of a fit; {self.spectrum!r} is no file"
            )
        return SpectrumFit.load(self.spectrum)

    def sampler(self, sigma: Range, fitted: SpectrumFit | None) -> TypicalSetSampler:
        """sigma on the scale of the images."""
        from ..sampler import TypicalSetSampler

        typicality: Range = 0.0 if fitted is None else fitted.typicality
        mean: Range = 0.0 if fitted is None else fitted.mean
        return TypicalSetSampler(
            sigma=sigma,
            typicality=typicality if self.typicality is None else interval(self.typicality, "typicality"),
            mean=mean if self.mean is None else interval(self.mean, "mean"),
            spectrum=self._spectrum(fitted), plain_share=self.plain_share, seed=self.seed, backend=self.backend,
        )  # fmt: skip

    def _spectrum(self, fitted: SpectrumFit | None) -> Spectrum | None:
        from ..ops import Spectrum

        found = Spectrum("adversarial") if self.spectrum == "adversarial" else None
        if fitted is not None and self.spectrum not in ("none", "adversarial"):
            found = fitted.spectrum
        if self.share is None:
            return found
        if found is None:
            raise ValueError("share: wanted together with a spectrum, got none")
        return replace(found, share=parse_number(self.share, "share"))
