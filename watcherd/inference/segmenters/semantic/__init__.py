"""Any Hugging Face folder for semantic or universal segmentation: SegFormer, UPerNet, Mask2Former, OneFormer and kin.

processor.py   what preprocessor_config.json says, with what it leaves out, and what is refused
scaling.py     the size that a picture is scaled to
recipe.py      what a picture must look like, and how it is made so
classes.py     which of the model's classes become which label values
network.py     transformers' model: its skeleton, its weights, its answer as class probabilities
segmenter.py   the face that watcherd sees: whole pictures, sliding windows, flips
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watcherd.config import Model
    from watcherd.inference.base import Segmenter

__all__ = ["create"]


def create(model: Model) -> Segmenter:
    """The segmenter for the model folder at ``model.path``.

    Raises `ConfigError` when that is no such folder or ``model.semantic`` does not go with it.
    """
    from watcherd.inference.segmenters.semantic.segmenter import SemanticSegmenter

    return SemanticSegmenter(model)
