"""Put weights where a placement says, tensor by tensor, without a second copy of the model in host memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from watcherd.inference.devices import Device


def resolve_dtype(setting: str, devices: Sequence[Device]) -> str:
    """The run dtype, never the checkpoint's accident; ``auto`` is bfloat16 if every GPU computes in it, else float32.

    ``devices``: empty on a CPU.
    """
    if setting != "auto":
        return setting
    return "bfloat16" if devices and all(device.has_bfloat16 for device in devices) else "float32"


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of that name."""
    import torch

    dtype: torch.dtype = getattr(torch, name)
    return dtype


def device_of(name: str, device_map: Mapping[str, str]) -> str | None:
    """Where the map puts a tensor: the entry of the longest part of its name; None when there is none."""
    part = name
    while part:
        if part in device_map:
            return device_map[part]
        part = part.rpartition(".")[0]
    return device_map.get("")
