"""Made-up angiograms and fundus images with exact masks; numpy, SciPy and Pillow only.

    scene = make("xray", seed=7)          # the same seed gives the same scene
    scene.image                           # uint8 (size, size)

Everything is drawn in the unit square (the picture's side is 1), so that a width is a share of the picture and the
same tree can be drawn at any size.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from training.synth.angiogram import STYLES as XRAY_STYLES
from training.synth.angiogram import angiogram
from training.synth.fundus import STYLES as FUNDUS_STYLES
from training.synth.fundus import fundus
from training.synth.scene import Scene

__all__ = ["FUNDUS_STYLES", "XRAY_STYLES", "Kind", "Scene", "make"]

Kind = Literal["fundus", "xray"]
_STREAM = {"xray": 1, "fundus": 2}


def make(kind: Kind, seed: int, *, size: int = 384, style: str | None = None) -> Scene:
    """The scene number ``seed`` of ``kind``, ``size`` pixels a side; ``style`` is one of the difficulties, or mixed."""
    rng = np.random.default_rng((_STREAM[kind], seed))
    if kind == "xray":
        return angiogram(rng, size=size, style=XRAY_STYLES[style or "mixed"])
    return fundus(rng, size=size, style=FUNDUS_STYLES[style or "mixed"])
