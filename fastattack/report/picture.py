"""One picture for an image: clean, noisy and attacked input above; both outputs and the perturbation below."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..job import ImageResult

_MARGIN, _LABEL = 8, 26


def _panel(image: Tensor) -> Image.Image:
    levels = (image.double().clamp(0, 1) * 255).round().to(torch.uint8)
    array = levels[0].numpy() if levels.shape[0] == 1 else levels.permute(1, 2, 0).numpy()
    return Image.fromarray(array).convert("RGB")


def comparison(result: ImageResult) -> Image.Image:
    """Six labelled panels; the perturbation is scaled so that its largest value fills the range around grey."""
    row = result.row
    delta = result.attacked - result.noisy
    gain = 0.5 / max(float(delta.abs().max()), 1e-12)
    panels = [
        ("clean", result.clean),
        (f"noisy  {float(row['psnr_noisy']):.2f} dB", result.noisy),
        ("attacked input", result.attacked),
        (f"denoised  {float(row['psnr_denoised']):.2f} dB", result.denoised),
        (f"denoised, attacked  {float(row['psnr_attacked']):.2f} dB", result.denoised_attacked),
        (f"perturbation, x{gain:.0f}", 0.5 + gain * delta),
    ]
    height, width = result.clean.shape[-2:]
    cell = max(width, 220)
    sheet = Image.new("RGB", (3 * cell + 4 * _MARGIN, 2 * (height + _LABEL + _MARGIN) + _MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for k, (label, image) in enumerate(panels):
        left = _MARGIN + (k % 3) * (cell + _MARGIN)
        top = _MARGIN + (k // 3) * (height + _LABEL + _MARGIN)
        draw.text((left, top), label, fill="black", font=font)
        sheet.paste(_panel(image), (left, top + _LABEL - 4))
    return sheet
