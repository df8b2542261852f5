"""Which of the objects that the model proposes count, and the masks that they make together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from numpy.typing import NDArray

    from watcherd.config import Sam3

MASK_VALUES = 64 * 2**20
"""Values of objects' masks at the scan's own size that are in memory at once: 256 MiB of float32."""
MOST_VALUES = 255
"""Label values of a mask."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What the model found of one thing in one picture.

    ``presence``: how sure it is that the thing is there at all, 0 to 1. ``best``: the best score of its objects.
    ``objects``: those that count, the best first, as places among the model's; empty: the thing is not there.
    ``scores``: theirs.
    """

    thing: str
    presence: float
    best: float
    objects: tuple[int, ...]
    scores: tuple[float, ...]

    @classmethod
    def of(cls, thing: str, logits: NDArray[np.float32], setting: Sam3) -> Self:
        """``logits``: those of the objects and, last, of presence. An object's score is the product of both chances,
        as in transformers' `post_process_instance_segmentation`."""
        import torch

        chances = torch.from_numpy(logits).sigmoid().numpy()
        presence, scores = float(chances[-1]), chances[:-1] * chances[-1]
        order = np.argsort(-scores, kind="stable")
        kept = order[scores[order] > setting.score] if presence >= setting.presence else order[:0]
        return cls(
            thing=thing,
            presence=presence,
            best=float(scores.max()),
            objects=tuple(map(int, kept)),
            scores=tuple(map(float, scores[kept])),
        )

    def words(self, setting: Sam3) -> str:
        """For the record."""
        sure = f"presence {self.presence:.2g}, best score {self.best:.2g}"
        if self.objects:
            return f"{self.thing}: {len(self.objects)} found ({sure})"
        low = f"presence is below {setting.presence:g}"
        why = low if self.presence < setting.presence else f"no score is above {setting.score:g}"
        return f"{self.thing}: not there ({sure}; {why})"


@dataclass(kw_only=True, slots=True)
class Painted:
    """Objects as label values. ``values``: uint8 (height, width). ``strongest``: the objects' probability, float32 of
    that size. ``count``: the highest label value. ``left_out``: objects for which there was no value."""

    values: torch.Tensor
    strongest: torch.Tensor
    count: int = 0
    left_out: int = 0


def union(masks: torch.Tensor, kept: Kept, size: tuple[int, int]) -> torch.Tensor:
    """Where any of the objects is: the largest of their probabilities, float32 (height, width) at ``size``.

    ``masks``: logits (objects, h, w) of all the model's objects.
    """
    import torch

    found: torch.Tensor | None = None
    for part in _scaled(masks, kept.objects, size):
        most = part.amax(dim=0)
        found = most if found is None else found.maximum(most)
    return torch.zeros(size, device=masks.device) if found is None else found


def paint(rows: Sequence[tuple[torch.Tensor, Kept]], size: tuple[int, int], threshold: float) -> Painted:
    """A label value for each object; where objects overlap, the one with the better score has the pixel.

    The n-th best object of the k-th of K things has the value (n - 1) K + k, in every frame of a run.
    """
    import torch

    first = rows[0][0]
    values = torch.zeros(size, dtype=torch.uint8, device=first.device)
    painted = Painted(values=values, strongest=torch.zeros(size, dtype=torch.float32, device=first.device))
    every = [
        (score, row, rank, place)
        for row, (_, kept) in enumerate(rows)
        for rank, (place, score) in enumerate(zip(kept.objects, kept.scores, strict=True))
    ]
    for _, row, rank, place in sorted(every, key=lambda each: -each[0]):
        value = rank * len(rows) + row + 1
        if value > MOST_VALUES:
            painted.left_out += 1
            continue
        (scaled,) = next(iter(_scaled(rows[row][0], (place,), size)))
        painted.values.masked_fill_((painted.values == 0) & (scaled > threshold), value)
        painted.strongest = painted.strongest.maximum(scaled)
        painted.count = max(painted.count, value)
    return painted


def names(things: Sequence[str], count: int) -> tuple[str, ...]:
    """Of the label values 1 to ``count`` that `paint` gives."""
    return tuple(f"{things[value % len(things)]} {value // len(things) + 1}" for value in range(count))


def _scaled(masks: torch.Tensor, objects: Sequence[int], size: tuple[int, int]) -> Iterator[torch.Tensor]:
    """Probabilities of the objects at ``size``, some at a time: float32 (some, height, width)."""
    from torch.nn.functional import interpolate

    step = max(1, MASK_VALUES // (size[0] * size[1]))
    for begin in range(0, len(objects), step):
        chances = masks[list(objects[begin : begin + step])].float().sigmoid()
        yield interpolate(chances[None], size=size, mode="bilinear", align_corners=False)[0]
