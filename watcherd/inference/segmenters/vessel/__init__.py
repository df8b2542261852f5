"""The default model: a small network for vessels in X-ray angiograms and fundus photographs, shipped with its weights.

`README.md` beside this file is its model card. A user's own folder of the same format (``model.path``) is loaded by
the same way: ``config.json``, ``model.safetensors``, and if it likes ``golden.png`` with ``golden-mask.png``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watcherd.config import Model
    from watcherd.inference.base import Segmenter

__all__ = ["create"]


def create(model: Model) -> Segmenter:
    """The segmenter for ``[model]``; ``path`` empty means the weights in this package.

    Raises `UnavailableError` when the folder lacks something or its `config.json` is wrong.
    """
    from watcherd.inference.segmenters.vessel.segmenter import PACKAGED, VesselSegmenter

    return VesselSegmenter(model.path or PACKAGED)
