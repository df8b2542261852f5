"""The GPUs of this machine, asked through NVML and without torch; or made up, to plan for another machine.

A GPU is named by its UUID wherever it matters: indexes change with drivers, slots and ``CUDA_VISIBLE_DEVICES``.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Literal

import pynvml

from watcherd.errors import ConfigError, UnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

GIB = 2**30
MIB = 2**20
RELEASE_SECONDS = 10.0
"""Seconds that the driver may take to free a dead process's memory; in practice one or two."""
POLL_SECONDS = 0.1
MAX_PLANNED = 256
"""Made-up GPUs at most: more are a typing mistake."""

_NO_GPU = ("NVML_ERROR_LIBRARY_NOT_FOUND", "NVML_ERROR_DRIVER_NOT_LOADED")
"""NVML's errors on a machine without an NVIDIA driver, as opposed to one whose driver is broken."""
_KNOWS_NO_V2 = ("NVML_ERROR_FUNCTION_NOT_FOUND", "NVML_ERROR_ARGUMENT_VERSION_MISMATCH", "NVML_ERROR_NOT_SUPPORTED")
"""NVML's errors where the driver is older than its second memory call (before 510)."""
_HIDES_ALL = frozenset({"", "-1", "none", "void", "NoDevFiles"})
"""Values of ``CUDA_VISIBLE_DEVICES`` with which people and container runtimes hide every GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One GPU.

    ``index``: as ``nvidia-smi`` counts. ``free_gib``: not in use now. ``has_bfloat16``: computes in bfloat16 natively
    (compute capability 8.0, Ampere, and later). ``node``: the machine that it is in; empty: this one.
    """

    index: int
    uuid: str
    name: str
    total_gib: float
    free_gib: float
    has_bfloat16: bool = True
    node: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Card:
    """A GPU, by the little that every GPU is asked for.

    ``lost``: why it does not answer; then its UUID may be unknown.
    """

    index: int
    uuid: str = ""
    lost: str = ""

    def __str__(self) -> str:
        return f"{self.index} ({self.uuid or 'which does not answer'})"


BFLOAT16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})
"""Words of ``/proc/cpuinfo`` for units that multiply bfloat16."""
WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
"""Values of ``ONEDNN_MAX_CPU_ISA`` at which oneDNN leaves these units alone; bfloat16 is slow then."""


def cpu_has_bfloat16(
    *, environ: Mapping[str, str] = os.environ, cpuinfo: Path = Path("/proc/cpuinfo"), machine: str = ""
) -> bool:
    """Whether this CPU computes in bfloat16 natively, and torch's library for CPUs may use that.

    Without such units bfloat16 is several times slower than float32, so where it is not known the answer is no.
    ``machine``: as `platform.machine` says; empty: this one's. Only the units of Intel and AMD were tried.
    """
    if (machine or platform.machine()) not in ("x86_64", "AMD64"):
        return False
    if environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in WITHOUT_BFLOAT16:
        return False
    try:
        lines = cpuinfo.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    flags: list[str] = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return not BFLOAT16_FLAGS.isdisjoint(flags)


def _say_nothing(_: str) -> None:
    pass


def inventory(
    use: Literal["auto", "cpu"] | Sequence[int | str] = "auto",
    *,
    environ: Mapping[str, str] = os.environ,
    warn: Callable[[str], None] = _say_nothing,
) -> tuple[Device, ...]:
    """The GPUs that may be used, in the order asked for; empty on a machine without.

    ``use``: ``auto`` (every GPU), ``cpu`` (none), or a list of indexes and UUIDs (their beginnings suffice).
    A ``CUDA_VISIBLE_DEVICES`` in ``environ`` hides GPUs, as it does from every CUDA program. ``warn`` is told, in a
    sentence, of each GPU that ``auto`` leaves out because it does not answer. Unwanted GPUs are not asked.

    Raises `ConfigError` when the list names a missing GPU or names one twice, and `UnavailableError` when the driver, a
    GPU of the list, or every GPU does not answer, or when ``CUDA_VISIBLE_DEVICES`` names none of this machine's: to
    compute on the CPU then would hide a fault.
    """
    if use == "cpu" or not _has_driver():
        return ()
    try:
        cards = _visible(_cards(), environ.get("CUDA_VISIBLE_DEVICES"))
        wanted = cards if use == "auto" else [_pick(cards, item) for item in use]
        if len({card.index for card in wanted}) < len(wanted):
            where = "CUDA_VISIBLE_DEVICES" if use == "auto" else f"devices.use = {list(use)!r}"
            raise ConfigError(f"{where} names the same GPU twice.", hint=_list(cards))
        answers = [_described(card) for card in wanted]
    finally:
        pynvml.nvmlShutdown()
    found = tuple(answer for answer in answers if isinstance(answer, Device))
    lost = [answer for answer in answers if isinstance(answer, _Card)]
    if lost and (use != "auto" or not found):
        raise UnavailableError(
            f"GPU {lost[0].index} does not answer: {lost[0].lost}.",
            hint='See what nvidia-smi says; leave the GPU out with devices.use, or set devices.use = "cpu".',
        )
    for card in lost:
        warn(f"GPU {card.index} does not answer ({card.lost}) and is left out; see what nvidia-smi says")
    return found


def parse_inventory(text: str) -> tuple[Device, ...]:
    """A made-up machine from words like ``4x24GiB,2x12GiB``: GPUs of which all memory is free.

    Raises `UsageError` for anything else.
    """
    sizes: list[float] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(?:(\d+)\s*[xX*]\s*)?(\d+(?:\.\d+)?)\s*(?:GiB|GB|G)?\s*", part, re.IGNORECASE)
        count = int(match[1] or 1) if match else 0
        size = float(match[2]) if match else 0.0
        if count < 1 or size <= 0 or len(sizes) + count > MAX_PLANNED:
            raise UsageError(
                f"{part.strip() or text!r} is not a number of GPUs and their memory.",
                hint='Write for example --gpus "4x24GiB" or --gpus "2x24GiB,2x12GiB".',
            )
        sizes += [size] * count
    return tuple(
        Device(index=index, uuid=f"planned-{index}", name=f"{size:g} GiB", total_gib=size, free_gib=size)
        for index, size in enumerate(sizes)
    )


def wait_released(
    uuids: Sequence[str], pid: int, *, stop: Event | None = None, seconds: float = RELEASE_SECONDS
) -> bool:
    """Wait until the driver no longer counts the dead process ``pid`` among the users of these GPUs.

    False when it still does after ``seconds``, or when ``stop`` was set meanwhile. Where NVML is not there, or does
    not show this process (in a container it counts in other numbers), there is nothing to wait for.
    """
    stop = stop or Event()
    for _ in range(max(1, round(seconds / POLL_SECONDS))):
        if not any(_processes(uuid, pid) for uuid in uuids):
            return True
        if stop.wait(POLL_SECONDS):
            return False
    return False


def process_mib(uuid: str, pid: int) -> float | None:
    """MiB that the process holds on the GPU by the driver's own count; None where the driver does not say."""
    used = [process.usedGpuMemory for process in _processes(uuid, pid)]
    return sum(used) / MIB if used and None not in used else None


def used_mib(uuid: str) -> float | None:
    """MiB in use on the GPU by all processes; None where the driver does not say."""
    memory = _query(uuid, memory_of)
    return None if memory is None else float(memory.used / MIB)


def memory_of(handle: Any) -> Any:
    """NVML's ``total``, ``free`` and ``used`` bytes of a GPU; used by processes, as nvidia-smi says.

    The driver keeps some hundred MiB to itself, which the first version of the call counts as used. Older drivers know
    no other. NVML is open; raises `pynvml.NVMLError`.
    """
    try:
        return pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    except pynvml.NVMLError as error:
        if error.value not in {getattr(pynvml, name) for name in _KNOWS_NO_V2}:
            raise
    return pynvml.nvmlDeviceGetMemoryInfo(handle)


def index_of(uuid: str) -> int | None:
    """The GPU's number as ``nvidia-smi`` counts; None where NVML does not know it."""
    index = _query(uuid, pynvml.nvmlDeviceGetIndex)
    return None if index is None else int(index)


def _processes(uuid: str, pid: int) -> list[Any]:
    processes = _query(uuid, pynvml.nvmlDeviceGetComputeRunningProcesses) or []
    return [process for process in processes if process.pid == pid]


def _query(uuid: str, question: Callable[[Any], Any]) -> Any:
    """NVML's answer about the GPU, or None. NVML counts its users, so opening it again is cheap."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return question(pynvml.nvmlDeviceGetHandleByUUID(uuid))
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _has_driver() -> bool:
    """Whether there is a driver; if so, NVML is open and the caller shuts it down."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if error.value in {getattr(pynvml, name) for name in _NO_GPU}:
            return False
        raise UnavailableError(
            f"The NVIDIA driver does not answer: {error}.",
            hint='Repair the driver (nvidia-smi must work), or set devices.use = "cpu" to do without GPUs.',
        ) from error
    return True


def _cards() -> list[_Card]:
    """Every GPU that the driver counts, whether it answers or not."""
    try:
        return [_card(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        raise UnavailableError(
            f"The NVIDIA driver does not count its GPUs: {error}.",
            hint='Repair the driver (nvidia-smi must work), or set devices.use = "cpu" to do without GPUs.',
        ) from error


def _card(index: int) -> _Card:
    try:
        return _Card(index=index, uuid=str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index))))
    except pynvml.NVMLError as error:
        return _Card(index=index, lost=str(error))


def _described(card: _Card) -> Device | _Card:
    """All about a GPU, or that it is lost."""
    if card.lost:
        return card
    try:
        return _describe(card.index)
    except pynvml.NVMLError as error:
        return replace(card, lost=str(error))


def _describe(index: int) -> Device:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = memory_of(handle)
    return Device(
        index=index,
        uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
        name=str(pynvml.nvmlDeviceGetName(handle)),
        total_gib=memory.total / GIB,
        free_gib=memory.free / GIB,
        has_bfloat16=pynvml.nvmlDeviceGetCudaComputeCapability(handle)[0] >= 8,
    )


def _visible(found: list[_Card], names: str | None) -> list[_Card]:
    """The part of ``found`` that ``CUDA_VISIBLE_DEVICES`` shows; like CUDA, it stops at the first unknown name.

    Raises `UnavailableError` when nothing is left, unless the variable hides every GPU on purpose (empty, or -1).
    """
    if names is None:
        return found
    left: list[_Card] = []
    for name in names.split(","):
        matches = _matches(found, name.strip())
        if len(matches) != 1:
            break
        left += matches
    if found and not left and names.strip() not in _HIDES_ALL:
        mig = " A part of a GPU (MIG) cannot be used: give it a whole one." if "MIG-" in names else ""
        raise UnavailableError(
            f"CUDA_VISIBLE_DEVICES = {names!r} names no GPU of this machine.",
            hint=f'{_list(found)}{mig} Correct the variable, or set devices.use = "cpu".',
        )
    return left


def _pick(found: Sequence[_Card], item: int | str) -> _Card:
    matches = _matches(found, item)
    if len(matches) == 1:
        return matches[0]
    if not matches and isinstance(item, str) and (lost := [card for card in found if card.lost]):
        raise UnavailableError(
            f"devices.use: no GPU that answers is {item!r}; GPU {lost[0].index} does not: {lost[0].lost}.",
            hint=f"See what nvidia-smi says. {_list(found)}",
        )
    what = "is not a GPU of this machine" if not matches else "is the beginning of several GPUs' UUIDs"
    raise ConfigError(f"devices.use: {item!r} {what}.", hint=_list(found))


def _matches(found: Sequence[_Card], item: int | str) -> list[_Card]:
    if isinstance(item, int) or re.fullmatch(r"\d+", item):
        return [card for card in found if card.index == int(item)]
    return [card for card in found if item and card.uuid.startswith(item)]


def _list(found: Sequence[_Card]) -> str:
    if not found:
        return 'There is no GPU that may be used; "auto" takes every GPU and else the CPU, "cpu" none.'
    return "There are " + ", ".join(map(str, found)) + "."
