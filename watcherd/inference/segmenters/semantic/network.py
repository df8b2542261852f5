"""transformers' model for a folder, and its answer as probabilities of classes, however it is made inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from watcherd.errors import ConfigError, UnavailableError
from watcherd.inference import folders, loading, pretrained

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import nn

    from watcherd.inference.base import Placement

TASK = "the task is semantic"
"""What OneFormer is told (Jain et al. 2023, section 3.1)."""


MASK2FORMER = (384, 384)
"""Size to which transformers scales Mask2Former's masks before it makes probabilities of them, whatever the picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """A folder's ``config.json``: transformers' configuration, and the auto class that builds its model."""

    folder: Path
    config: Any
    auto: Any
    gives_masks: bool
    """Whether the model answers with masks and their classes (universal), not with a class for each pixel."""

    def skeleton(self) -> nn.Module:
        """The modules, with parameters on the meta device and buffers computed."""
        return loading.skeleton(lambda: self.auto.from_config(self.config))

    def no_split(self, skeleton: nn.Module) -> tuple[str, ...]:
        """What the model says must stay together; one that says nothing is cut between its largest parts only."""
        declared = getattr(skeleton, "_no_split_modules", None)
        return tuple(sorted(declared)) if declared else tuple(type(part).__name__ for part in skeleton.children())


def describe(folder: Path | None) -> Description:
    """Read the folder's ``config.json``.

    Raises `ConfigError` when there is none, it is not of a semantic or universal segmentation model, or the folder
    holds more than one model; `UnavailableError` when it may not be read.
    """
    from transformers import AutoConfig, AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation

    if folder is not None:
        folders.refuse_unreadable(folder)
    if folder is None or not (folder / "config.json").is_file():
        where = "is empty" if folder is None else f"= {str(folder)!r} has no config.json"
        raise ConfigError(
            f"model.path {where}; the semantic segmenter needs a Hugging Face model folder.",
            hint="Give the folder that holds config.json, preprocessor_config.json and model.safetensors.",
        )
    folders.refuse_ambiguous(folder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"model.path: transformers cannot read {folder / 'config.json'}: {error}.") from error
    for auto in (AutoModelForUniversalSegmentation, AutoModelForSemanticSegmentation):
        if type(config) in auto._model_mapping:
            universal = auto is AutoModelForUniversalSegmentation
            return Description(folder=folder, config=config, auto=auto, gives_masks=universal)
    raise ConfigError(
        f"model.path = {str(folder)!r} holds a {config.model_type} model, which does not segment pictures.",
        hint="The semantic segmenter runs SegFormer, UPerNet, BEiT, DPT, MaskFormer, Mask2Former, OneFormer and kin.",
    )


class Network:
    """A loaded model."""

    def __init__(self, description: Description, placement: Placement) -> None:
        """Load the weights straight to their devices. Raises `UnavailableError` with the names that do not fit."""
        self._model: Any = _load(description, placement)
        self.device: torch.device = next(self._model.parameters()).device
        self.dtype = loading.torch_dtype(placement.dtype)
        self.parameters = sum(parameter.numel() for parameter in self._model.parameters())
        self._gives_masks = description.gives_masks
        self._type = str(description.config.model_type)
        self._task: torch.Tensor | None = None
        if self._type == "oneformer":
            length = int(description.config.task_seq_len)
            self._task = _task_tokens(description.folder, length).to(self.device)

    def scores(self, pictures: torch.Tensor) -> torch.Tensor:
        """The model's answer to float32 pictures at its own resolution, float32 (pictures, classes, height, width).

        Logits; or, of models that give masks with classes, the sum over queries of p(class) p(pixel) without the class
        "nothing" (Cheng et al. 2021, "Per-Pixel Classification is Not All You Need for Semantic Segmentation").
        """
        import torch

        extra = {} if self._task is None else {"task_inputs": self._task.expand(len(pictures), -1)}
        answer = self._model(pixel_values=pictures.to(self.dtype), **extra)
        if not self._gives_masks:
            return self._here(answer.logits)
        detr = "pred_masks" in answer
        classes = self._here(answer.logits if detr else answer.class_queries_logits)
        masks = self._here(answer.pred_masks if detr else answer.masks_queries_logits)
        masks = self._rescaled(masks, (pictures.shape[-2], pictures.shape[-1]))
        return torch.einsum("bqc,bqhw->bchw", classes.softmax(dim=-1)[..., :-1], masks.sigmoid())

    def _rescaled(self, masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Masks at the size at which transformers' processor of this model makes probabilities of them.

        ``size``: the picture's, which is EoMT's. The other models' masks are left as they are.
        """
        from torch.nn.functional import interpolate

        if self._type == "mask2former":
            return interpolate(masks, size=MASK2FORMER, mode="bilinear")
        return interpolate(masks, size=size, mode="bilinear") if self._type.startswith("eomt") else masks

    def probability(self, scores: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """What `scores` gave, scaled to (height, width), as probabilities.

        Sums over queries can pass 1 where masks overlap; they stay so, for the largest tells the class.
        """
        from torch.nn.functional import interpolate

        scaled = interpolate(scores, size=size, mode="bilinear") if scores.shape[-2:] != size else scores
        if self._gives_masks:
            return scaled
        return scaled.sigmoid() if scaled.shape[1] == 1 else scaled.softmax(dim=1)

    def _here(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.device).float()


def _load(description: Description, placement: Placement) -> Any:
    return pretrained.load(
        description.auto,
        description.folder,
        placement,
        fresh=description.skeleton,
        named="the model",
        hint="A backbone alone cannot segment; take the folder of a model trained for segmentation, whole.",
        trust_remote_code=False,
    )


def _task_tokens(folder: Path, length: int) -> torch.Tensor:
    """OneFormer's task as token numbers (1, length), padding as 0, as its processor makes them."""
    import torch
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UnavailableError(
            f"The tokenizer in {folder} cannot be read: {error}.",
            hint="OneFormer is told its task in words: the folder needs vocab.json and merges.txt.",
        ) from error
    words = tokenizer([TASK], padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return torch.as_tensor(words["input_ids"] * words["attention_mask"])
