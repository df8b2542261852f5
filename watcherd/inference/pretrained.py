"""transformers' own loader for a model folder, with what it lets pass looked at here."""

from __future__ import annotations

from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from watcherd.errors import UnavailableError
from watcherd.inference import checks, folders, loading

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import nn

    from watcherd.inference.base import Placement


def load(
    kind: Any, folder: Path, placement: Placement, *, fresh: Callable[[], nn.Module], named: str, hint: str, **more: Any
) -> Any:
    """The model of ``folder`` on the devices of ``placement``, ready to compute.

    ``kind``: transformers' class, which knows the names of published and of older files; ``more``: for its loader.
    ``fresh``: builds the model without weights. ``named``: how messages call the model that the folder should hold;
    ``hint``: what to do when its weights are others.

    Raises `UnavailableError` for a folder that cannot be loaded, or whose weights are not all of the model's.
    """
    import torch
    from transformers.utils import logging

    if placement.dtype == "float32":
        # Convolutions would otherwise run in TF32 on a GPU, with 10 bits of mantissa.
        torch.backends.cudnn.allow_tf32 = False
    folders.refuse_faulty(folders.weights(folder))
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model, report = kind.from_pretrained(
            folder,
            dtype=loading.torch_dtype(placement.dtype),
            device_map=dict(placement.device_map),
            local_files_only=True,
            output_loading_info=True,
            **more,
        )
    except (OSError, ValueError, SafetensorError, UnpicklingError) as error:
        raise UnavailableError(
            f"The model in {folder} cannot be loaded: {error}",
            hint="Download the whole folder again; weights must be there as model.safetensors or its parts.",
        ) from error
    if lines := _unlike(report):
        words = f"The weights in {folder} are not those of {named} that its config.json describes:"
        raise UnavailableError("\n".join([words, *lines]), hint=hint)
    loading.own_memory(model)
    checks.after_load(model, fresh=fresh)
    return model.eval()


def _unlike(report: Mapping[str, Any]) -> list[str]:
    """A line for each kind of parameters that the weights do not have, or have for nothing.

    transformers fills missing ones with random numbers: a backbone without its trained head "works".
    """
    missing = [str(name) for name in report["missing_keys"]]
    misfits = [str(entry[0] if isinstance(entry, tuple) else entry) for entry in report["mismatched_keys"]]
    left_over = [str(name) for name in report["unexpected_keys"] if str(name).endswith((".weight", ".bias"))]
    return [
        f"  {what} ({len(names)}): {loading.listed(names)}"
        for what, names in (("missing", missing), ("of another shape", misfits), ("left over", left_over))
        if names
    ]
