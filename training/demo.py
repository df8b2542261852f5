"""Make the pictures of ``watcherd demo``: ``python -m training.demo --chase FOLDER --out watcherd/demo``.

Three made-up angiograms and three photographs of CHASE_DB1's test children, which no model here was trained on.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from PIL import Image

from training.synth import make

ANGIOGRAMS = (4_000_007, 4_000_009, 4_000_014)
"""Seeds, chosen by eye for being typical."""
PHOTOGRAPHS = ("Image_11L", "Image_12R", "Image_14L")
SIDE = 512


def write_angiogram(path: Path, seed: int, *, side: int = SIDE) -> None:
    """A made-up angiogram as a grey JPEG; the same seed gives the same picture."""
    Image.fromarray(make("xray", seed, size=side).image).save(path, quality=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chase", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(ANGIOGRAMS, 1):
        write_angiogram(given.out / f"angiogram-{number}.jpg", seed)
    for name in PHOTOGRAPHS:
        shutil.copyfile(given.chase / "images" / f"{name}.jpg", given.out / f"{name}.jpg")


if __name__ == "__main__":
    main()
