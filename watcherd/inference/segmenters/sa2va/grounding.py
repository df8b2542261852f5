"""SAM2: pictures to features, once each and in batches; features and ``[SEG]`` vectors to masks, all at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from watcherd.inference.segmenters.sa2va.hiera import unwindowed
from watcherd.inference.segmenters.sa2va.network import device_of
from watcherd.inference.segmenters.sa2va.preprocess import GROUNDING_SIDE, as_rgb, for_grounding, stacked
from watcherd.inference.transfer import pinned

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from watcherd.inference.segmenters.sa2va.hiera import Stages

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
        chosen = list(pictures)
        if chosen == list(range(len(self.coarse))):
            return self
        # An index may lie on the host whatever it points into, but then the host waits for the device.
        there = self.coarse.device
        index = pinned(torch.tensor(chosen, dtype=torch.long), there).to(there, non_blocking=True)
        return Features(fine=self.fine[index], middle=self.middle[index], coarse=self.coarse[index])

    def repeated(self, count: int) -> Features:
        """The features of a single picture ``count`` times."""
        return Features(
            fine=self.fine.expand(count, -1, -1, -1),
            middle=self.middle.expand(count, -1, -1, -1),
            coarse=self.coarse.expand(count, -1, -1, -1),
        )

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


class Neck:
    """What makes features of the trunk's stages: products over each token's channels, so that the order of tokens does
    not matter to them.

    Of the two finer maps only what the decoder's own first product makes of them is read: the two are folded into one.
    """

    def __init__(self, sam2: Any) -> None:
        neck, decoder = sam2.vision_encoder.neck, sam2.mask_decoder
        assert list(neck.fpn_top_down_levels) == [2, 3], "only SAM2's third map has the fourth added to it"
        top, coarse, middle, fine = map(_product, neck.convs)
        self._top, self._coarse = top, coarse
        self._middle = _folded(middle, _product(decoder.conv_s1))
        self._fine = _folded(fine, _product(decoder.conv_s0))

    def __call__(self, stages: Stages) -> Features:
        """The features of pictures that went through the trunk."""
        fine, middle, coarse, top = stages.tokens
        third = unwindowed(functional.linear(coarse, *self._coarse))
        fourth = unwindowed(functional.linear(top, *self._top))
        count, height, width, channels = fourth.shape
        # Each token of the fourth map is added to two by two of the third.
        third = third.view(count, height, 2, width, 2, channels) + fourth[:, :, None, :, None]
        return Features(
            fine=_channels_first(unwindowed(functional.linear(fine, *self._fine))),
            middle=_channels_first(unwindowed(functional.linear(middle, *self._middle))),
            coarse=_channels_first(third.view(count, 2 * height, 2 * width, channels)),
        )


def _product(convolution: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a convolution of 1 x 1, as those of a linear layer."""
    return convolution.weight.flatten(1), convolution.bias


def _folded(
    first: tuple[torch.Tensor, torch.Tensor], second: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two products that follow one another as one; multiplied in float32, so that it rounds less than they do."""
    weight = second[0].float() @ first[0].float()
    bias = second[0].float() @ first[1].float() + second[1].float()
    return weight.to(first[0].dtype), bias.to(first[0].dtype)


def _channels_first(maps: torch.Tensor) -> torch.Tensor:
    return maps.permute(0, 3, 1, 2).contiguous()


class Grounding:
    """Runs SAM2, which is on one device."""

    def __init__(self, sam2: Any) -> None:
        self.sam2 = sam2
        self._neck = Neck(sam2)
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
        parts = [
            self.encode_on_device(stacked(pictures[begin : begin + ENCODE_AT_ONCE], self.device))
            for begin in range(0, len(pictures), ENCODE_AT_ONCE)
        ]
        return parts[0] if len(parts) == 1 else Features.join(parts)

    def encode_on_device(self, pictures: torch.Tensor) -> Features:
        """The same for at most `ENCODE_AT_ONCE` pictures of bytes that are there already, as `preprocess.stacked` has
        them."""
        return self._neck(self.sam2.vision_encoder(for_grounding(as_rgb(pictures), self.dtype)))

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
