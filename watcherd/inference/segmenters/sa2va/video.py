"""SAM2 on a run of frames: the first five are prompted with what the language model said, the rest are tracked with
memory.

A tracked frame attends to the prompted frames and to the last six tracked ones, and to small vectors ("pointers") of
the prompted frames and the last fifteen tracked ones. Nothing older is kept, so memory does not grow with the run.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

import torch
from transformers.models.sam2.modeling_sam2 import Sam2SinePositionEmbedding

from watcherd.inference.segmenters.sa2va.engine import shape_maps
from watcherd.inference.segmenters.sa2va.grounding import Features, Masks, enlarge, probability

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from watcherd.inference.base import Frame
    from watcherd.inference.segmenters.sa2va.engine import Engine, Reply
    from watcherd.inference.segmenters.sa2va.grounding import Grounding

CONDITIONING = 5
"""Frames that the language model sees and that are prompted."""

TRACKED_MAPS = 6
TRACKED_POINTERS = 15
WINDOW = 4
"""Tracked frames that are encoded together; tracking itself goes one by one."""

MASK_SCALE, MASK_BIAS = 20.0, -10.0
"""How a mask's probability enters the memory: stretched from 0..1 to -10..10, and not made binary."""

POINTER_TOKENS = 4
"""A pointer of 256 values stands in the memory as four tokens of 64."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracked:
    """One frame's maps, (height, width) or (objects, height, width), and the reply that they all go back to."""

    reply: Reply
    probability: NDArray[np.float32] | None


@torch.inference_mode()
def follow(engine: Engine, frames: Iterable[Frame]) -> Iterator[Tracked]:
    """Maps for every frame of a run, in order. The first frame's options hold for all."""
    rest = iter(frames)
    first = list(islice(rest, CONDITIONING))
    if not first:
        return
    reply = engine.ask_run([frame.pixels for frame in first], first[0].options)
    if not len(reply.vectors):
        yield from (Tracked(reply=reply, probability=None) for _ in chain(first, rest))
        return
    tracker = Tracker(engine.grounding, reply.vectors)
    window = first
    while window:
        features = engine.encode([frame.pixels for frame in window])
        for place, frame in enumerate(window):
            logits = tracker.step(features.pick([place])).logits
            maps = probability(logits, *frame.pixels.shape[:2]).cpu().numpy()
            yield Tracked(reply=reply, probability=shape_maps(maps))
        window = list(islice(rest, WINDOW))


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """What is kept of one frame for n objects: its map (4096, n, 64) and its pointers (n, 256)."""

    tokens: torch.Tensor
    pointers: torch.Tensor


class Tracker:
    """Follows the objects that ``vectors`` (n, 256) name through frames given one by one."""

    def __init__(self, grounding: Grounding, vectors: torch.Tensor) -> None:
        self._grounding = grounding
        self._sam2 = grounding.sam2
        self._vectors = vectors
        self._prompted: list[Memory] = []
        self._tracked: deque[Memory] = deque(maxlen=TRACKED_MAPS)
        self._pointers: deque[torch.Tensor] = deque(maxlen=TRACKED_POINTERS)
        # Both grids are 64 x 64. Sines of large arguments need float32; they are cast where they are used.
        self._frame_positions = self._positions(256)
        self._memory_positions = self._positions(64)

    def step(self, features: Features) -> Masks:
        """Masks of all objects in the next frame, whose ``features`` are given (of one picture)."""
        each = features.pick([0] * len(self._vectors))
        if len(self._prompted) < CONDITIONING:
            masks = self._grounding.decode(self._grounding.prompted(each), each, self._vectors)
            self._prompted.append(self._memory(each, masks))
        else:
            masks = self._grounding.decode(self._remember(each.coarse), each, None)
            memory = self._memory(each, masks)
            self._tracked.append(memory)
            self._pointers.append(memory.pointers)
        return masks

    def _remember(self, coarse: torch.Tensor) -> torch.Tensor:
        """The frame's map (n, 256, 64, 64), having looked into the memory."""
        newest = len(self._tracked)
        # Prompted frames share the last place in time; a tracked frame's place is how many frames ago it was, less one.
        placed = [(memory, -1) for memory in self._prompted]
        placed += [(memory, newest - age - 1) for age, memory in enumerate(self._tracked)]
        times = self._sam2.memory_temporal_positional_encoding
        spatial = self._memory_positions.to(coarse.dtype)
        tokens = [memory.tokens.to(coarse.dtype) for memory, _ in placed]
        positions = [(spatial + times[place]).expand_as(tokens[0]) for _, place in placed]
        pointers = self._pointer_tokens().to(coarse.dtype)
        attended = self._sam2.memory_attention(
            current_vision_features=coarse.flatten(2).permute(2, 0, 1),
            current_vision_position_embeddings=self._frame_positions.to(coarse.dtype),
            memory=torch.cat([*tokens, pointers]),
            memory_posision_embeddings=torch.cat([*positions, torch.zeros_like(pointers)]),
            num_object_pointer_tokens=len(pointers),
        )
        return attended.reshape(len(coarse), -1, coarse.shape[1]).transpose(1, 2).reshape(coarse.shape)  # type: ignore[no-any-return]

    def _pointer_tokens(self) -> torch.Tensor:
        """(tokens, n, 64): pointers of the prompted frames, then of tracked ones, the newest first."""
        pointers = torch.stack([*(memory.pointers for memory in self._prompted), *reversed(self._pointers)])
        frames, objects, _ = pointers.shape
        return pointers.view(frames, objects, POINTER_TOKENS, -1).transpose(1, 2).flatten(0, 1)

    def _memory(self, features: Features, masks: Masks) -> Memory:
        dtype = features.coarse.dtype
        stretched = enlarge(masks.logits).sigmoid() * MASK_SCALE + MASK_BIAS
        maps, _ = self._sam2.memory_encoder(features.coarse, stretched[:, None].to(dtype))
        pointers = self._sam2.object_pointer_proj(masks.token)
        seen = (masks.object_score > 0)[:, None]
        return Memory(
            # At every dtype: the model was trained with a memory in bfloat16.
            tokens=maps.bfloat16().flatten(2).permute(2, 0, 1),
            pointers=torch.where(seen, pointers, self._sam2.no_object_pointer),
        )

    def _positions(self, width: int) -> torch.Tensor:
        """Sine positions (4096, 1, width) of a 64 x 64 map."""
        encode = Sam2SinePositionEmbedding(num_position_features=width // 2, normalize=True)
        grid: torch.Tensor = encode(torch.Size((1, width, 64, 64)), self._grounding.device, torch.float32)
        return grid.flatten(2).permute(2, 0, 1)
