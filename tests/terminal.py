"""watcherd on a terminal of 80 columns: what a person would see."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from contextlib import suppress

COLUMNS, LINES = 80, 40


def _take_terminal() -> None:
    """Make standard input the terminal that keys such as Ctrl-C are typed on, and heed them, as under a shell there:
    tests that run in the background have been told to ignore them, and so would their children be."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def on_a_terminal(*arguments: str, until: str = "", times: int = 1, keys: str = "\x03") -> list[str]:
    """The lines that a command shows, without colours and without moves of the cursor.

    ``until``: when it has shown these words so many ``times`` it is ended by ``keys`` (Ctrl-C); else it ends by itself.
    """
    keeper, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (LINES, COLUMNS))
    with subprocess.Popen(
        [sys.executable, "-m", "watcherd", *arguments],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=_take_terminal,  # noqa: PLW1509 - it makes two system calls
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(LINES)},
    ):
        os.close(terminal)
        shown, ended = b"", False
        with suppress(OSError):  # that is how the end of a terminal's output looks
            while piece := os.read(keeper, 65536):
                shown += piece
                if until and not ended and shown.count(until.encode()) >= times:
                    os.write(keeper, keys.encode())
                    ended = True
    os.close(keeper)
    text = re.sub(r"\x1b\][^\x07]*\x07|\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]", "", shown.decode(errors="replace"))
    return [line.rstrip() for line in re.split(r"[\r\n]+", text)]
