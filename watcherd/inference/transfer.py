"""Results from a device to the host: one copy for a batch, through memory that the device can write to directly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Copies:
    """Copies under way. ``done``: whether they are there. ``result``: waits, and gives them as arrays, in order."""

    done: Callable[[], bool]
    result: Callable[[], list[NDArray[Any]]]


def to_host(tensors: Sequence[torch.Tensor] | torch.Tensor) -> Copies:
    """Start to copy the tensors, or those of which one is made up.

    From a GPU those of one shape are copied together into page-locked memory, which is several times faster than one
    by one into ordinary memory, and goes on while the host does something else. The memory comes from torch's cache
    of such memory and goes back there when the last of its arrays is dropped.
    """
    if not len(tensors) or tensors[0].device.type != "cuda":
        arrays = [tensor.cpu().numpy() for tensor in tensors]
        return Copies(lambda: True, lambda: arrays)
    if len({tensor.shape for tensor in tensors}) > 1:
        each = [to_host([tensor]) for tensor in tensors]
        return Copies(each[-1].done, lambda: [array for copies in each for array in copies.result()])
    return _locked(tensors)


def _locked(tensors: Sequence[torch.Tensor] | torch.Tensor) -> Copies:
    import torch

    together = tensors if isinstance(tensors, torch.Tensor) else torch.stack(list(tensors))
    host = torch.empty(together.shape, dtype=together.dtype, pin_memory=True)
    host.copy_(together, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(together.device))

    def arrays() -> list[NDArray[Any]]:
        copied.synchronize()
        return list(host.numpy())

    return Copies(copied.query, arrays)
