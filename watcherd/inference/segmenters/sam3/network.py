"""transformers' SAM 3 from a folder, and what it says about pictures and things: a row for each pair of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from watcherd.inference import loading, pretrained
from watcherd.inference.segmenters.sam3.words import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from watcherd.inference.base import Placement
    from watcherd.inference.segmenters.sam3.folder import Description

ROWS_AT_ONCE = 16
"""Rows that go through the decoder together: each takes about 0.3 GiB there in bfloat16."""
KEPT_THINGS = 256
"""Things whose text features are kept: a service is asked for the same few."""
NO_SPLIT = (
    "CLIPTextModelWithProjection", "Sam3DetrDecoder", "Sam3DetrEncoder", "Sam3GeometryEncoder", "Sam3MaskDecoder",
    "Sam3ViTLayer", "Sam3VisionNeck",
)  # fmt: skip
"""Classes whose parts add up what comes by several ways, which must lie on one device; transformers names none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The answers for some pairs. ``masks``: logits (rows, objects, height, width) at the run dtype. ``scores``:
    float32 (rows, objects + 1), the logits of the objects and, last, of presence: whether the thing is there at all.
    """

    masks: torch.Tensor
    scores: torch.Tensor


class Network:
    """A loaded model."""

    def __init__(self, description: Description, placement: Placement) -> None:
        """Load the weights straight to their devices. Raises `UnavailableError` with the names that do not fit."""
        self._tokenizer = Tokenizer(description.folder, description.length)
        self._model: Any = _load(description, placement)
        self.device = _home(self._model.vision_encoder, placement)
        self._words_device = _home(self._model.text_encoder, placement)
        self.dtype = loading.torch_dtype(placement.dtype)
        # Of each thing the features and the mask of its tokens: without the mask the model takes them, and errs.
        self._features = lru_cache(maxsize=KEPT_THINGS)(self._encode)

    def know(self, things: Sequence[str]) -> None:
        """Encode the words beforehand. Raises `InputError` for a thing with too many tokens."""
        for thing in things:
            self._features(thing)

    def _encode(self, thing: str) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        tokens = self._tokenizer.tokens(thing)
        ids, mask = tokens.ids.to(self._words_device), tokens.mask.to(self._words_device)
        with torch.inference_mode():
            said = self._model.get_text_features(input_ids=ids, attention_mask=mask)
        return said.pooler_output.to(self.device), mask.to(self.device)

    def see(self, pictures: torch.Tensor) -> Any:
        """The vision features of float32 pictures (pictures, 3, side, side)."""
        return self._model.get_vision_features(pixel_values=pictures.to(self.dtype))

    def ask(self, seen: Any, pairs: Sequence[tuple[int, str]]) -> Rows:
        """The answers for pairs of a picture's number in ``seen`` and a thing."""
        import torch

        parts = [self._ask(seen, pairs[begin : begin + ROWS_AT_ONCE]) for begin in range(0, len(pairs), ROWS_AT_ONCE)]
        masks = torch.cat([part.pred_masks for part in parts]) if len(parts) > 1 else parts[0].pred_masks
        scores = [torch.cat([part.pred_logits, part.presence_logits], dim=1).float() for part in parts]
        return Rows(masks=masks, scores=torch.cat(scores))

    def semantic(self, seen: Any, pairs: Sequence[tuple[int, str]]) -> torch.Tensor:
        """Logits (rows, 1, height, width) of "any of it", which do not regard presence: to compare models by."""
        logits: torch.Tensor = self._ask(seen, pairs).semantic_seg
        return logits

    def _ask(self, seen: Any, pairs: Sequence[tuple[int, str]]) -> Any:
        import torch

        features, masks = zip(*(self._features(thing) for _, thing in pairs), strict=True)
        return self._model(
            vision_embeds=_spread(seen, [picture for picture, _ in pairs]),
            text_embeds=_Text(torch.cat(features)),
            attention_mask=torch.cat(masks),
        )


def _home(part: Any, placement: Placement) -> torch.device:
    """Where a part of the model computes: beside its weights; if these are kept in host memory, on the first GPU."""
    import torch

    device: torch.device = next(part.parameters()).device
    if device.type != "meta":
        return device
    return torch.device(next((name for name in placement.devices if name != "cpu"), "cpu"))


@dataclass(frozen=True, slots=True)
class _Text:
    """Text features as the model reads them; a bare tensor, as transformers' own example has it, it cannot take."""

    pooler_output: torch.Tensor


def _spread(seen: Any, pictures: Sequence[int]) -> Any:
    """The features with a row for each pair: the model itself does not repeat them."""
    count = len(seen.fpn_hidden_states[0])
    if list(pictures) == list(range(count)):
        return seen

    def rows(tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        if len(set(pictures)) == 1:
            return tuple(each[pictures[0]].expand(len(pictures), *each.shape[1:]) for each in tensors)
        return tuple(each[list(pictures)] for each in tensors)

    return type(seen)(
        fpn_hidden_states=rows(seen.fpn_hidden_states), fpn_position_encoding=rows(seen.fpn_position_encoding)
    )


def _load(description: Description, placement: Placement) -> Any:
    from transformers import Sam3Model

    return pretrained.load(
        Sam3Model,
        description.folder,
        placement,
        fresh=description.skeleton,
        named="the SAM 3",
        hint="Download the whole folder again.",
        config=description.config,
    )
