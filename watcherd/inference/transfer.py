"""Results from a device to the host: one copy for a batch, through memory that the device can write to directly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import NDArray


def to_host(tensors: Sequence[torch.Tensor]) -> list[NDArray[Any]]:
    """The tensors as arrays, in order.

    From a GPU those of one shape are copied together into page-locked memory, which is several times faster than one
    by one into ordinary memory. It comes from torch's cache of such memory and goes back there when the last of its
    arrays is dropped.
    """
    if not tensors:
        return []
    if tensors[0].device.type != "cuda":
        return [tensor.cpu().numpy() for tensor in tensors]
    if len({tensor.shape for tensor in tensors}) > 1:
        return [array for tensor in tensors for array in to_host([tensor])]
    return list(_locked(tensors).numpy())


def _locked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    import torch

    together = torch.stack(list(tensors))
    host = torch.empty(together.shape, dtype=together.dtype, pin_memory=True)
    host.copy_(together, non_blocking=True)
    torch.cuda.current_stream(together.device).synchronize()
    return host
