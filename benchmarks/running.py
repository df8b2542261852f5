"""A real daemon in a process of its own, for the benchmarks: fed, watched from outside, killed, stopped."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import time
import zlib
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

AT_REST = """
SELECT NOT EXISTS (SELECT 1 FROM job WHERE state IN ('queued', 'running', 'delivering'))
   AND NOT EXISTS (SELECT 1 FROM arrival WHERE delivery IN ('waiting', 'due', 'intended') OR disposal = 'pending')
   AND NOT EXISTS (SELECT 1 FROM scan WHERE spool_name IS NOT NULL
                   AND NOT EXISTS (SELECT 1 FROM job WHERE scan_id = scan.id AND state <> 'succeeded'))
"""


PNG_START = 33
"""The signature and the header chunk: other chunks may follow."""


class DaemonDiedError(Exception):
    """The daemon ended, and nobody had asked it to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What a process has used until now. ``pss_mib``, ``rss_mib``: memory, shared pages in parts and in whole."""

    cpu_seconds: float
    pss_mib: float
    rss_mib: float


class Running:
    """A daemon and its folders below ``folder``."""

    def __init__(self, folder: Path, **sections: Mapping[str, Any]) -> None:
        self.folder = folder
        self.inbox = folder / "inbox"
        self.outbox = folder / "outbox"
        self.archive = folder / "archive"
        self.state = folder / "state"
        self.config = folder / "config.toml"
        self.log = folder / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.inbox.mkdir(parents=True, exist_ok=True)
        lines = []
        for name, section in sections.items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in section.items())]
        self.config.write_text("\n".join(lines) + "\n")

    # --------------------------------------------------------------------------------------------------- the process

    def start(
        self,
        *arguments: str,
        module: Sequence[str] = ("watcherd",),
        environment: Mapping[str, str] | None = None,
        tree: Path | None = None,
    ) -> None:
        """Start it; `ready` waits until it works.

        ``module`` runs another module in its place, which is to run it in turn; ``environment`` is added to ours.
        ``tree``: a folder with another build of watcherd, which is run.
        """
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *module, "run", "--config", self.config, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **of_tree(tree), **(environment or {})},
                cwd=tree,
            )

    @property
    def pid(self) -> int:
        """Of the main process."""
        assert self.process is not None
        return self.process.pid

    @property
    def lives(self) -> bool:
        """Whether it runs: it was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def live(self) -> dict[str, Any]:
        """What this process says of itself; empty as long as it has said nothing. Raises `DaemonDiedError`."""
        self.must_live()
        try:
            status: dict[str, Any] = json.loads((self.state / "status.json").read_text())
        except (OSError, ValueError):
            return {}
        return status if status.get("pid") == self.pid else {}

    def must_live(self) -> None:
        """Raise `DaemonDiedError` with the end of its log when it has ended by itself."""
        assert self.process is not None
        if self.process.poll() is not None:
            tail = self.log.read_text(errors="replace")[-3000:]
            raise DaemonDiedError(f"The daemon ended with {self.process.returncode}:\n{tail}")

    def ready(self) -> None:
        """Wait until the model is loaded and the inbox open."""
        self.wait(lambda: self.live().get("phase") == "running", 240)

    def wait(self, look: Callable[[], object], seconds: float, *, every: float = 0.02) -> None:
        """Wait until ``look`` finds something. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while not look():
            self.must_live()
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds:.0f} s in vain")
            time.sleep(every)

    def say(self, command: str) -> None:
        """Run a command of watcherd's that speaks to it, as ``pause``."""
        words = [sys.executable, "-m", "watcherd", command, "--config", str(self.config)]
        subprocess.run(words, check=True, capture_output=True)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the main process."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as a power cut does."""
        assert self.process is not None
        self.signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """End it as systemd does; the exit code."""
        assert self.process is not None
        self.signal(signal.SIGTERM)
        return self.process.wait(60)

    def end(self) -> None:
        """Make sure that nothing goes on running."""
        if self.lives:
            self.kill()

    def usage(self) -> Usage:
        """Of the main process."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        sizes = {line.split()[0]: int(line.split()[1]) for line in rollup.splitlines()[1:]}
        return Usage(cpu_seconds=cpu_seconds(self.pid), pss_mib=sizes["Pss:"] / 1024, rss_mib=sizes["Rss:"] / 1024)

    # ------------------------------------------------------------------------------------------------------- history

    @property
    def database(self) -> Path:
        """The history."""
        return self.state / "watcherd.db"

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of the history as any other program reads them; none before its tables are made."""
        if not self.database.exists():
            return []
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=30)) as connection:
            try:
                return connection.execute(sql, values).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):
                    return []
                raise

    def totals(self) -> dict[str, int]:
        """How many arrivals of each fate and jobs in each state, as ``job.succeeded``."""
        return dict(self.rows("SELECT name, count FROM total"))

    def at_rest(self) -> bool:
        """Whether no job, delivery or disposal is open, and no copy that nobody needs lies in the spool."""
        return self.rows(AT_REST) == [(1,)]


def of_tree(tree: Path | None) -> dict[str, str]:
    """What has Python, run in that folder, and its children import another build's modules."""
    return {} if tree is None else {"PYTHONPATH": str(tree)}


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its threads, its children not counted: to the nanosecond, unlike ``/proc``'s ticks.

    The clock's number is that of ``clock_getcpuclockid(3)``, which Python does not offer.
    """
    return time.clock_gettime(~pid << 3 | 2)


def small_scan(number: int) -> bytes:
    """A PNG of 24 x 16 pixels of noise: no other number gives the same bytes, for they hold it as a text."""
    comment = b"tEXtComment\0%d" % number
    chunk = struct.pack(">I", len(comment) - 4) + comment + struct.pack(">I", zlib.crc32(comment))
    picture = noise()
    return picture[:PNG_START] + chunk + picture[PNG_START:]


@cache
def noise() -> bytes:
    """The picture that all small scans show."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
