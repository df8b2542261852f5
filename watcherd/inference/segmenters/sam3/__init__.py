"""SAM 3, which is told in a few words what to look for, and says also when it is not there.

folder.py      which model folders are taken, and why others are not
words.py       a prompt as the things that it names, and as tokens
picture.py     frames as the processor prepares them
network.py     transformers' model: its weights, and its answers for pairs of picture and words
kept.py        which of the model's objects count, and the masks that they make together
segmenter.py   the face that watcherd sees
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watcherd.config import Model
    from watcherd.inference.base import Segmenter

__all__ = ["create"]


def create(model: Model) -> Segmenter:
    """The segmenter for the model folder at ``model.path``. Raises `ConfigError` when that holds no SAM 3."""
    from watcherd.inference.segmenters.sam3.segmenter import Sam3Segmenter

    return Sam3Segmenter(model)
