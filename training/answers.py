"""Answers of a network on real angiograms it has not seen, small enough to be kept for every fold.

Logits at the frame's own size, for each side at the network's input, as bytes: 128 is 0, four steps are 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from watcherd.inference.segmenters.vessel.network import inputs
from watcherd.inference.segmenters.vessel.picture import field_of
from watcherd.inference.segmenters.vessel.segmenter import scaled

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from training.data import Angiogram

VIEWS = ((320, False), (384, False), (448, False), (384, True))
"""Sides of the frame at the network's input, and whether it was seen in a mirror."""
STEPS = 4


@torch.inference_mode()
def logits_of(net: nn.Module, image: NDArray[np.uint8], *, device: str) -> NDArray[np.uint8]:
    """(views, h, w) as bytes."""
    grey = torch.from_numpy(image.copy())[None, None].to(device).float() / 255
    field = torch.from_numpy(field_of(image, "xray"))[None, None].to(device).float()
    out = []
    for side, mirrored in VIEWS:
        size = (side, side)
        given = inputs(scaled(grey, size), scaled(field, size, nearest=True), torch.ones(1, device=device))
        given = given.flip(3) if mirrored else given
        found = net(given.contiguous(memory_format=torch.channels_last))
        found = scaled(found.flip(3) if mirrored else found, (grey.shape[-2], grey.shape[-1]))
        out.append((found[0, 0] * STEPS + 128).round().clamp(0, 255).to(torch.uint8).cpu().numpy())
    return np.stack(out)


def keep(path: Path, frames: list[Angiogram], logits: list[NDArray[np.uint8]]) -> None:
    """Write them, by the frames' names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{frame.name: each for frame, each in zip(frames, logits, strict=True)})


def kept(path: Path) -> dict[str, NDArray[np.float32]]:
    """Logits (views, h, w) by the frames' names, as `keep` left them."""
    with np.load(path) as file:
        return {name: (file[name].astype(np.float32) - 128) / STEPS for name in file.files}
