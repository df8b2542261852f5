"""What a batch used of each device's memory, by torch's own allocator and by the driver.

Allocated is reproducible; reserved depends on what the process did before; what the driver says also counts the
CUDA context and other programs. All are recorded, None where unknown, never 0 in its place.

torch's allocator counts when memory is asked for, not when a device gets to use it: its figures are complete once a
batch is dispatched, and nothing here waits for a device.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pynvml

from watcherd.inference.machine import devices
from watcherd.inference.machine.devices import MIB
from watcherd.values import DeviceUse

if TYPE_CHECKING:
    from collections.abc import Sequence

STATUS: Final = Path("/proc/self/status")
CLEAR_REFS: Final = Path("/proc/self/clear_refs")
RESET_PEAK_RSS: Final = "5"
"""Written to clear_refs this puts VmHWM back to the present RSS (proc(5), Linux 4.0)."""


class Meter:
    """The memory of one replica's devices, batch by batch: `before` it, then `after` it.

    ``names``: torch device names as in `Placement.devices`. ``uuids``: of its GPUs, in the same order; may be empty,
    then the driver's figures stay unknown. torch counts for the process, so one meter serves one process and one
    batch at a time.
    """

    def __init__(self, names: Sequence[str], uuids: Sequence[str] = ()) -> None:
        gpus = [name for name in names if name != "cpu"]
        self._gpus = [_Gpu(name, uuid) for name, uuid in zip(gpus, _padded(uuids, len(gpus)), strict=True)]
        self._before: list[float] = []
        if self._gpus and uuids:
            _hold_nvml()

    def before(self) -> None:
        """Note what is allocated and start the peaks anew."""
        _reset_peak_rss()
        self._before = [gpu.reset() for gpu in self._gpus]

    def after(self) -> tuple[DeviceUse, ...]:
        """What each device's memory came to since `before`; without a GPU one entry for the CPU, with no figures."""
        if not self._gpus:
            return (DeviceUse(device="cpu", name="cpu"),)
        return tuple(gpu.use(before) for gpu, before in zip(self._gpus, self._before, strict=True))

    def host_peak_rss_mib(self) -> float | None:
        """The process's peak resident memory since `before`; since its start where the kernel cannot begin anew.

        None where the kernel does not say: getrusage(2) would give the size of whoever started the process, if larger.
        """
        return _status_mib("VmHWM")


def larger(one: Sequence[DeviceUse], other: Sequence[DeviceUse]) -> tuple[DeviceUse, ...]:
    """The use of devices over two stretches of a batch's work: what was there before the first, the higher peaks."""
    return tuple(
        replace(
            first,
            vram_peak_allocated_mib=_higher(first.vram_peak_allocated_mib, second.vram_peak_allocated_mib),
            vram_peak_reserved_mib=_higher(first.vram_peak_reserved_mib, second.vram_peak_reserved_mib),
            nvml_used_mib=_higher(first.nvml_used_mib, second.nvml_used_mib),
            nvml_process_mib=_higher(first.nvml_process_mib, second.nvml_process_mib),
        )
        for first, second in zip(one, other, strict=True)
    )


def _higher(one: float | None, other: float | None) -> float | None:
    return max((figure for figure in (one, other) if figure is not None), default=None)


class _Gpu:
    """One GPU: torch's allocator figures by its name here, the driver's by its UUID."""

    def __init__(self, name: str, uuid: str | None) -> None:
        import torch

        self._name = name
        self._uuid = uuid
        index = devices.index_of(uuid) if uuid else None
        self._label = name if index is None else f"cuda:{index}"
        card = torch.cuda.get_device_name(name)
        self._card = f"{card} ({uuid[:12]})" if uuid else card

    def reset(self) -> float:
        import torch

        torch.cuda.reset_peak_memory_stats(self._name)
        return torch.cuda.memory_allocated(self._name) / MIB

    def use(self, before: float) -> DeviceUse:
        import torch

        return DeviceUse(
            device=self._label,
            name=self._card,
            vram_before_mib=round(before, 2),
            vram_peak_allocated_mib=round(torch.cuda.max_memory_allocated(self._name) / MIB, 2),
            vram_peak_reserved_mib=round(torch.cuda.max_memory_reserved(self._name) / MIB, 2),
            nvml_used_mib=devices.used_mib(self._uuid) if self._uuid else None,
            nvml_process_mib=devices.process_mib(self._uuid, os.getpid()) if self._uuid else None,
        )


def _padded(uuids: Sequence[str], count: int) -> list[str | None]:
    return list(uuids) if len(uuids) == count else [None] * count


def _hold_nvml() -> None:
    """Keep NVML open for the life of the process; opening it anew for each figure takes tens of milliseconds."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return


def _reset_peak_rss() -> bool:
    """Begin the peak anew; False where the kernel refuses: it is then that since the process began."""
    try:
        CLEAR_REFS.write_text(RESET_PEAK_RSS)
    except OSError:
        return False
    return True


def _status_mib(key: str) -> float | None:
    """A figure of /proc/self/status, which the kernel gives in KiB."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{key}:")]
    return int(found[0]) / 1024 if found else None
