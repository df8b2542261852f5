"""The replica's host memory: kept between batches, given back at rest.

On a CPU a batch takes hundreds of megabytes and frees them. The C library asks the kernel for each large block and
returns it at once, and the kernel clears every page that comes: a sixth of the time of the default model (see
docs/performance.md, "What limits each").
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of mallopt(3)."""


def keep_freed() -> None:
    """From now on keep freed memory for the next allocations. Has an effect with glibc only."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)  # large blocks come from the heap
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # whose end is not returned


def give_back() -> None:
    """Return the free memory to the kernel."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
