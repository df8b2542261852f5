"""The first thing an imaging worker does: limit itself, so that a bad scan costs one task and nothing else.

Hand `start_worker` to `pebble.ProcessPool` as its initializer, with a spawning context. This module imports nothing
heavy: numpy is loaded after its thread count is set.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from watcherd.values import quickly_pickled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Call: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...]]

    from watcherd.imaging.limits import DecodeLimits
    from watcherd.imaging.values import Decoded, Rendered, RenderRequest

PR_SET_PDEATHSIG = 1

ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""A worker computes nothing that needs more, and each thread of OpenBLAS takes address space."""


def start_worker(memory_mib: int, parent: int | None = None) -> None:
    """Make this process a worker that may take ``memory_mib`` beyond what it has when idle.

    It dies with the thread that started it: start the pool from one that lives as long. ``parent``: the process id that
    is expected to be the parent; when it is not any more, the parent has died already and so does the worker.
    Interrupts from the terminal are left to the parent: pebble sees to that.
    """
    die_with_parent(parent)
    for name in ONE_THREAD:
        os.environ[name] = "1"

    from watcherd.imaging import decode, encode  # noqa: F401 - loaded before the first scan comes
    from watcherd.imaging.readers import pillow_scan  # noqa: F401 - so is what reads most of them

    limit = _address_space() + memory_mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold a patient's picture


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when its parent's thread ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def _address_space() -> int:
    """Bytes of address space that this process uses now."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


@quickly_pickled
@dataclass(frozen=True, slots=True)
class Ended:
    """What came of a task: its result, or the error that it raised, and the seconds that it took."""

    result: Any
    error: Exception | None
    seconds: float


def run_group(calls: Sequence[Call]) -> list[Ended]:
    """Make these calls one after the other; what one raises is its own."""
    return [_ended(function, arguments) for function, arguments in calls]


def _ended(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Ended:
    began = time.monotonic()
    result, error = None, None
    try:
        result = function(*arguments)
    except Exception as raised:  # handed to whoever waits for the task
        error = raised
    return Ended(result, error, time.monotonic() - began)


def timed_decode(
    source: Path,
    sha256: str,
    target: Path,
    limits: DecodeLimits,
    tags: tuple[str, ...] = (),
    volume: Path | None = None,
) -> tuple[Decoded, int]:
    """`decode.decode` of the file with this hash, and the milliseconds that it took with the look at the hash.

    Raises what that raises, and `LostBytesError` for other bytes.
    """
    from watcherd.imaging.decode import decode
    from watcherd.imaging.verified import verified

    began = time.monotonic()
    with verified(source, sha256) as opened:
        decoded = decode(opened, target, limits, tags, volume)
    return decoded, round((time.monotonic() - began) * 1000)


def timed_render(request: RenderRequest) -> tuple[Rendered, int]:
    """`encode.render` and the milliseconds that it took."""
    from watcherd.imaging.encode import render

    began = time.monotonic()
    return render(request), round((time.monotonic() - began) * 1000)
