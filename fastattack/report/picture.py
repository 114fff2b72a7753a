"""One picture for an image: clean, noisy and attacked input above; both outputs and the perturbation below."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..job import ImageResult

_MARGIN, _LABEL, _WORDS = 8, 26, 18


def panel(image: Tensor) -> Image.Image:
    """An image (C, H, W), clipped to [0, 1], as a picture."""
    levels = (image.double().clamp(0, 1) * 255).round().to(torch.uint8)
    array = levels[0].numpy() if levels.shape[0] == 1 else levels.permute(1, 2, 0).numpy()
    return Image.fromarray(array).convert("RGB")


def comparison(result: ImageResult, *, least: int = 0) -> Image.Image:
    """Six labelled panels; the perturbation is scaled so that its largest value fills the range around grey.

    Below the label of a picture stands what a task model says of it, where the row has that.

    Args:
        least: images that are smaller than so many pixels are shown a whole number of times as large.
    """
    row = result.row
    delta = result.attacked - result.noisy
    gain = 0.5 / max(float(delta.abs().max()), 1e-12)
    panels = [
        ("clean", "", result.clean),
        (f"noisy  {float(row['psnr_noisy']):.2f} dB", "noisy", result.noisy),
        ("attacked input", "attacked", result.attacked),
        (f"denoised  {float(row['psnr_denoised']):.2f} dB", "denoised", result.denoised),
        (f"denoised, attacked  {float(row['psnr_attacked']):.2f} dB", "denoised_attacked", result.denoised_attacked),
        (f"perturbation, x{gain:.0f}", "", 0.5 + gain * delta),
    ]
    zoom = max(1, least // max(result.clean.shape[-2:]))
    height, width = (zoom * size for size in result.clean.shape[-2:])
    return sheet(
        [
            (
                title, f"says {row[f'says_{key}'] or 'nothing'}" if f"says_{key}" in row else "",
                panel(image).resize((width, height), Image.Resampling.NEAREST),
            )
            for title, key, image in panels
        ],
        columns=3,
    )  # fmt: skip


def sheet(panels: Sequence[tuple[str, str, Image.Image]], *, columns: int) -> Image.Image:
    """Pictures of one size in rows, each under its title, and words of another colour where it has any."""
    width, height = panels[0][2].size
    label = _LABEL + (_WORDS if any(words for _, words, _ in panels) else 0)
    cell, rows = max(width, 220), -(-len(panels) // columns)
    size = (columns * cell + (columns + 1) * _MARGIN, rows * (height + label + _MARGIN) + _MARGIN)
    whole = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(14)
    for k, (title, words, picture) in enumerate(panels):
        left = _MARGIN + (k % columns) * (cell + _MARGIN)
        top = _MARGIN + (k // columns) * (height + label + _MARGIN)
        draw.text((left, top), title, fill="black", font=font)
        if words:
            fitting = _fitting(words, lambda text: draw.textlength(text, font) <= cell)
            draw.text((left, top + _WORDS), fitting, fill="#b00020", font=font)
        whole.paste(picture, (left, top + label - 4))
    return whole


def _fitting(text: str, fits: Callable[[str], bool]) -> str:
    """The text in one line, cut where it is too long."""
    text = " ".join(text.split())
    if fits(text):
        return text
    while text and not fits(f"{text}..."):
        text = text[:-1]
    return f"{text}..."
