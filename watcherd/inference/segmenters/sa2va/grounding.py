"""SAM2: pictures to features, once each and in batches; features and ``[SEG]`` vectors to masks, all at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from watcherd.inference.segmenters.sa2va.network import device_of
from watcherd.inference.segmenters.sa2va.preprocess import GROUNDING_SIDE, for_grounding, upload

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

ENCODE_AT_ONCE = 8
"""Pictures that go through the encoder together: beyond this a GPU is full and only memory grows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """What the encoder saw in n pictures: (n, 32, 256, 256) and (n, 64, 128, 128) for the decoder's upscaling, and the
    plain map (n, 256, 64, 64)."""

    fine: torch.Tensor
    middle: torch.Tensor
    coarse: torch.Tensor

    def pick(self, pictures: Sequence[int]) -> Features:
        """The features of these pictures, in this order."""
        index = torch.tensor(list(pictures), dtype=torch.long)
        return Features(fine=self.fine[index], middle=self.middle[index], coarse=self.coarse[index])

    @staticmethod
    def join(parts: Sequence[Features]) -> Features:
        """The features of several batches as one."""
        return Features(
            fine=torch.cat([part.fine for part in parts]),
            middle=torch.cat([part.middle for part in parts]),
            coarse=torch.cat([part.coarse for part in parts]),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Masks:
    """The decoder's best of three masks for each prompt: logits (n, 256, 256), the scores of the three (n, 3), which
    one was chosen (n,), the object score (n,), and its token (n, 256), from which tracking makes a pointer."""

    logits: torch.Tensor
    scores: torch.Tensor
    chosen: torch.Tensor
    object_score: torch.Tensor
    token: torch.Tensor


class Grounding:
    """Runs SAM2, which is on one device."""

    def __init__(self, sam2: Any) -> None:
        self.sam2 = sam2
        # Fourier features of positions lose their meaning in bfloat16: built in float32, cast afterwards.
        self._positions: torch.Tensor = sam2.get_image_wide_positional_embeddings()

    @property
    def device(self) -> torch.device:
        """Where all inputs must be."""
        return device_of(self.sam2)

    @property
    def dtype(self) -> torch.dtype:
        """At what the parameters are."""
        return next(self.sam2.parameters()).dtype  # type: ignore[no-any-return]

    def encode(self, pictures: Sequence[NDArray[np.uint8]]) -> Features:
        """Features of pictures that were squashed to 1024 x 1024."""
        parts = []
        for begin in range(0, len(pictures), ENCODE_AT_ONCE):
            batch = upload(pictures[begin : begin + ENCODE_AT_ONCE], self.device)
            fine, middle, coarse = self.sam2.vision_encoder(for_grounding(batch, self.dtype)).fpn_hidden_states
            decoder = self.sam2.mask_decoder
            parts.append(Features(fine=decoder.conv_s0(fine), middle=decoder.conv_s1(middle), coarse=coarse))
        return parts[0] if len(parts) == 1 else Features.join(parts)

    def prompted(self, features: Features) -> torch.Tensor:
        """The map (n, 256, 64, 64) that the decoder reads on frames that have a prompt, where no memory speaks."""
        embedding: torch.Tensor = self.sam2.no_memory_embedding
        return features.coarse + embedding.view(1, -1, 1, 1)

    def decode(self, coarse: torch.Tensor, features: Features, vectors: torch.Tensor | None) -> Masks:
        """Masks for n prompts at once, each on its own picture.

        ``coarse`` (n, 256, 64, 64) and ``features`` hold one entry for each prompt; ``vectors`` (n, 256) are the
        ``[SEG]`` vectors, None for tracked frames. The best of three masks is the one with the highest predicted IoU;
        the object score hides none.
        """
        encoder = self.sam2.prompt_encoder
        count = len(coarse)
        # An empty click and its padding: the reference code passes a point labelled "none".
        sparse = encoder.not_a_point_embed.weight.expand(count, 1, 2, -1)
        if vectors is not None:
            sparse = torch.cat([sparse, vectors.to(self.device, self.dtype)[:, None, None, :]], dim=2)
        masks, scores, tokens, object_score = self.sam2.mask_decoder(
            image_embeddings=coarse,
            image_positional_embeddings=self._positions.to(coarse.dtype).expand(count, -1, -1, -1),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=encoder.no_mask_embed.weight.view(1, -1, 1, 1).expand(count, -1, *coarse.shape[2:]),
            multimask_output=True,
            high_resolution_features=[features.fine, features.middle],
        )
        chosen = scores[:, 0].argmax(-1)
        each = torch.arange(count, device=self.device)
        return Masks(
            logits=masks[each, 0, chosen],
            scores=scores[:, 0],
            chosen=chosen,
            object_score=object_score[:, 0, 0],
            token=tokens[each, 0, chosen],
        )


def enlarge(logits: torch.Tensor) -> torch.Tensor:
    """Logits (n, 256, 256) at SAM2's own size, float32 (n, 1024, 1024)."""
    side = (GROUNDING_SIDE, GROUNDING_SIDE)
    return functional.interpolate(logits[:, None].float(), size=side, mode="bilinear", align_corners=False)[:, 0]


def probability(logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Probabilities, float32 (n, height, width), of logits (n, 256, 256).

    In two steps, over 1024 x 1024, as the reference code does it: one step moves thousands of a mask's pixels.
    """
    full = functional.interpolate(enlarge(logits)[:, None], size=(height, width), mode="bilinear", align_corners=False)
    return full[:, 0].sigmoid()
