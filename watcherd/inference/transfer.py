"""Between the host and a device, through memory that the device can read and write by itself: nobody waits but who
reads results, and those go in one copy for a batch."""

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


def pinned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The host's ``tensor`` where ``device`` can read it by itself, so that ``.to(device, non_blocking=True)`` does not
    wait; otherwise it waits until the device has done all that it was asked for before.
    """
    return tensor.pin_memory() if device.type == "cuda" else tensor


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
    # Who waits for it sleeps; the default asks again and again, which takes a core.
    copied = torch.cuda.Event(blocking=True)
    copied.record(torch.cuda.current_stream(together.device))

    def arrays() -> list[NDArray[Any]]:
        copied.synchronize()
        return list(host.numpy())

    return Copies(copied.query, arrays)
