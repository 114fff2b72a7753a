"""Make fastattack/assets/images/*.png from the freely licensed pictures inside scikit-image's package.

    pip install scikit-image
    python scripts/make_assets.py

Where they come from and under which licence: fastattack/assets/README.md.
"""

from __future__ import annotations

import argparse
import io
from importlib import resources
from pathlib import Path

from PIL import Image

from fastattack.files import write_atomic

# name -> (square to cut: left, top, side; side of the result)
CUTS = {
    "camera": (0, 0, 512, 256),
    "astronaut": (0, 0, 512, 192),
    "chelsea": (70, 0, 300, 192),
    "coffee": (120, 0, 400, 192),
}


def cut(name: str) -> bytes:
    """The PNG bytes of one asset: a square of the original, downscaled with Lanczos."""
    left, top, side, size = CUTS[name]
    with resources.as_file(resources.files("skimage") / "data" / f"{name}.png") as path, Image.open(path) as image:
        square = image.crop((left, top, left + side, top + side))
        small = square.resize((size, size), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, format="PNG", optimize=True)
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description="make the embedded test images from scikit-image's package")
    default = Path(__file__).resolve().parents[1] / "fastattack" / "assets" / "images"
    parser.add_argument("--out", type=Path, default=default, help="folder for the PNG files")
    args = parser.parse_args()
    for name in CUTS:
        content = cut(name)
        write_atomic(args.out / f"{name}.png", content)
        print(f"{args.out / name}.png  {len(content)} bytes")


if __name__ == "__main__":
    main()
