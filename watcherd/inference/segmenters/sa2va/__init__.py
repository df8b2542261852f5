"""Sa2VA, a language model with eyes and SAM2's hands, composed of transformers' own modules.

families.py     what the language-and-vision parts are built on, and in what they differ
config.py       which model folders are taken, and why others are not
checkpoint.py   names, shapes and tensors of a folder; LoRA merged on the way
trained.py      a training's checkpoint on top of its base, as such tensors
pickled.py      the checkpoint's file, read without trusting it
run_notes.py    what the training wrote beside its weights
export.py       the folder that they make together
inspection.py   what a folder or a file is, in words
renames.py      our names to the checkpoint's
weights.py      every tensor to its device, every name accounted for
network.py      the modules, and where they may be cut apart
internvl.py     those of a family that sees tiles
qwen_vl.py      those of a family that sees whole pictures in patches
hiera.py        SAM2's trunk, its tokens in the order of their windows
tiling.py, preprocess.py    pictures to the inputs of both vision branches
eyes.py         the seam between pictures and the language model; seeing tiles
patches.py      seeing patches
prompt.py       words to tokens and back
decoder.py      the language model's layers in fewer steps
fp8.py          its MLPs at eight bits, on request
language.py     a drafted answer checked in one pass, or a generated one
grounding.py    SAM2 on single pictures
video.py        SAM2 on runs of frames, with memory
compiled.py     torch.compile where it gives the same
graphs.py       one picture alone, as CUDA graphs
engine.py       the parts in the order in which they work
segmenter.py    the face that watcherd sees
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watcherd.config import Model
    from watcherd.inference.base import Segmenter

__all__ = ["create"]


def create(model: Model) -> Segmenter:
    """The segmenter for the model folder at ``model.path``. Raises `ConfigError` when that is none of ours."""
    from watcherd.inference.segmenters.sa2va.segmenter import Sa2vaSegmenter

    return Sa2vaSegmenter(model)
