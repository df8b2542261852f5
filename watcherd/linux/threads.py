"""Names of threads that the kernel knows: top -H, ps -L, perf, gdb and /proc/PID/task/*/comm show them.

Python before 3.14 keeps a thread's name to itself.
"""

from __future__ import annotations

import ctypes
import threading

PR_SET_NAME = 15
"""Option of prctl(2)."""

_libc = ctypes.CDLL(None)


def name_thread(name: str) -> None:
    """Name the calling thread. The kernel keeps 15 bytes; threads that this one starts begin with the same name."""
    _libc.prctl(PR_SET_NAME, ctypes.create_string_buffer(name.encode()), 0, 0, 0)


class NamedThread(threading.Thread):
    """A thread whose name the kernel knows too."""

    def run(self) -> None:
        """Take the name, then do the work."""
        name_thread(self.name)
        super().run()
