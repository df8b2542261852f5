"""What only the kernel can say of a machine: whether its clock is kept right, whether file events can be had."""

from __future__ import annotations

import ctypes
import os

TIME_ERROR = 5
"""Answer of adjtimex(2) for a clock that nothing keeps right."""

TIMEX_BYTES = 512
"""Bytes given for `struct timex`, which has 208; all zero they ask, and change nothing."""

_libc = ctypes.CDLL(None, use_errno=True)


def clock_is_kept() -> bool:
    """Whether a time server keeps the clock right. True, too, where the kernel does not say."""
    answer: int = _libc.adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    return answer != TIME_ERROR


def try_file_events() -> None:
    """Open one inotify instance and close it.

    Raises:
        OSError: EMFILE when this user has all of ``fs.inotify.max_user_instances``, or no descriptor is left.
    """
    descriptor: int = _libc.inotify_init1(os.O_CLOEXEC)
    if descriptor < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    os.close(descriptor)
