"""Keeps a program running: what ends is started again, until we are told to stop. For Ray's nodes and for the bridge.

A node that was cut off for a while ends by itself, for the others have given it up; so does the bridge when the head
ends. Starting them again is all that is needed for them to join.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from watcherd.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PR_SET_PDEATHSIG = 1
FIRST_SECONDS, LONGEST_SECONDS = 1.0, 30.0
"""Seconds before a program is started again; doubled while it ends soon after its start."""
LASTING_SECONDS = 60.0
"""Seconds after which a program has lasted, and its next end is a first one."""
END_SECONDS = 20.0
"""Seconds for it to end when it is asked to."""
HOPELESS = (64, 69, 78)
"""Exit codes at the first start with which starting again would not help: wrong usage, something missing, a mistake in
the configuration."""


def keep(command: Sequence[str], environment: Mapping[str, str], *, name: str) -> int:
    """Run the program again and again until SIGTERM or SIGINT; returns our exit code.

    It dies with this process. One that cannot do anything at its first start (`HOPELESS`) ends this.
    """
    stop, log = threading.Event(), get_logger()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    pause, first = FIRST_SECONDS, True
    while not stop.is_set():
        began = time.monotonic()
        child = subprocess.Popen(
            [sys.executable, "-m", __name__, str(os.getpid()), *command], env=dict(environment), process_group=0
        )
        while child.poll() is None and not stop.wait(0.2):
            pass
        if stop.is_set():
            _end(child)
            break
        if first and child.returncode in HOPELESS:
            return child.returncode
        first = False
        pause = FIRST_SECONDS if time.monotonic() - began > LASTING_SECONDS else min(LONGEST_SECONDS, pause * 2)
        log.warning("cluster_part_ended", part=name, exit_code=child.returncode, seconds=pause)
        stop.wait(pause)
    return 0


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    with contextlib.suppress(ProcessLookupError):  # what it left in its group
        os.killpg(child.pid, signal.SIGKILL)


def main() -> None:
    """Become the program that is named, bound to the process whose pid is named first."""
    parent, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - a program of ours or of Ray's, by its path


if __name__ == "__main__":
    main()
