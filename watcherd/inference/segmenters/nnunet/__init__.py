"""nnU-Net v2: a trained results folder, whose own predictor stays loaded and is fed arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watcherd.config import Model
    from watcherd.inference.base import Segmenter


def create(model: Model) -> Segmenter:
    """The segmenter for ``model.path``. Raises `ConfigError` or `UnavailableError` for a folder that cannot be used."""
    from watcherd.inference.segmenters.nnunet.segmenter import NnunetSegmenter

    return NnunetSegmenter(model)
