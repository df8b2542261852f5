"""The real daemon as a process: started with a configuration, fed, watched through what it writes, killed, stopped."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from watcherd.inference.fake import marked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

Found = TypeVar("Found")

PATIENCE = 120.0
"""Seconds that anything may take before a test gives up; the machine may be busy with other things."""

OPEN_STATES = "('queued', 'running', 'delivering')"


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """A scan that was put into the inbox. ``path``: below the inbox."""

    path: bytes
    sha256: str


class Service:
    """One daemon and its folders below ``folder``.

    ``environment`` and ``prefix`` (a program with its options that starts another) are for the starts to come.
    """

    def __init__(self, folder: Path, **sections: Mapping[str, Any]) -> None:
        self.folder = folder
        self.inbox = folder / "inbox"
        self.outbox = folder / "outbox"
        self.state = folder / "state"
        self.config = folder / "config.toml"
        self.logs = folder / "daemon.log"
        self.dropped: list[Dropped] = []
        self.environment: dict[str, str] = {}
        self.prefix: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.inbox.mkdir(parents=True, exist_ok=True)
        self.configure(**sections)

    def configure(self, **sections: Mapping[str, Any]) -> None:
        """Write the configuration: the quick defaults of these tests, with ``sections`` on top."""
        values: dict[str, dict[str, Any]] = {
            "inbox": {"settle_seconds": 0.1},
            "model": {"segmenter": "none"},
            "limits": {"workers": 1, "min_free_mib": 0},
            "log": {"format": "json"},
        }
        for name, section in sections.items():
            values.setdefault(name, {}).update(section)
        self.archive = self.folder / values["inbox"].get("archive_path", "archive")
        lines = []
        for name, section in values.items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in section.items())]
        self.config.write_text("\n".join(lines) + "\n")

    # --------------------------------------------------------------------------------------------------- the process

    def start(self, *arguments: str, crash_at: str = "") -> None:
        """Start the daemon, to be killed at a crash point if one is named."""
        extra = {"WATCHERD_CRASH_AT": crash_at} if crash_at else {}
        with self.logs.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "watcherd", "run", "--config", self.config, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(extra),
            )

    def _environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("WATCHERD_")}
        return inherited | {"OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"} | self.environment | extra

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def ready(self) -> None:
        """Wait until it works."""
        self.wait(lambda: self.live().get("phase") == "running", "the daemon to be ready")

    def live(self) -> dict[str, Any]:
        """What the daemon says of itself at the moment; empty when this process has written nothing yet."""
        self._must_live()
        try:
            status: dict[str, Any] = json.loads((self.state / "status.json").read_text())
        except (OSError, ValueError):
            return {}
        return status if status.get("pid") == self.pid else {}

    def _must_live(self) -> None:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.tail()}")

    def tail(self) -> str:
        return self.logs.read_text(errors="replace")[-6000:]

    def wait(self, look: Callable[[], Found], what: str, seconds: float = PATIENCE) -> Found:
        """What ``look`` finds, once it finds something; fails when the daemon ends first."""
        deadline = time.monotonic() + seconds
        while not (found := look()):
            self._must_live()
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds:.0f} s for {what}:\n{self.tail()}")
            time.sleep(0.03)
        return found

    def finished(self, count: int, seconds: float = PATIENCE) -> None:
        """Wait until ``count`` arrivals are taken, and all that is to be done with them is done."""
        self.wait(lambda: self.count_done() >= count and self.at_rest(), f"{count} scans to be done", seconds)

    def count_done(self) -> int:
        return sum(count for (count,) in self.rows("SELECT count(*) FROM arrival WHERE job_id IS NOT NULL"))

    def at_rest(self) -> bool:
        """Whether no job, delivery or disposal is open, and the spool holds nothing more than it should."""
        is_open = self.rows(
            f"SELECT 1 FROM job WHERE state IN {OPEN_STATES} UNION ALL "  # noqa: S608 - words of our own
            "SELECT 1 FROM arrival WHERE delivery IN ('waiting', 'due', 'intended') OR disposal = 'pending' UNION ALL "
            "SELECT 1 FROM scan WHERE spool_name IS NOT NULL AND NOT EXISTS "
            "(SELECT 1 FROM job WHERE scan_id = scan.id AND state <> 'succeeded') LIMIT 1"
        )
        kept = sum(1 for _ in (self.state / "spool").glob("??/*"))
        return not is_open and kept == len(self.rows("SELECT 1 FROM scan WHERE spool_name IS NOT NULL"))

    def ended(self, seconds: float = PATIENCE) -> int:
        """Wait for the end of the process; its exit code."""
        assert self.process is not None
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the daemon did not end within {seconds:.0f} s:\n{self.tail()}") from None

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """As a power cut does it."""
        self.signal(signal.SIGKILL)
        self.ended()

    def stop(self) -> int:
        """As systemd does it; the exit code."""
        self.signal(signal.SIGTERM)
        return self.ended()

    def end(self) -> None:
        """Make sure that nothing is left."""
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.kill()

    def once(self, seconds: float = PATIENCE) -> int:
        """``watcherd run --once``; the exit code."""
        self.start("--once")
        return self.ended(seconds)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of the command line, in a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", "watcherd", *arguments, "--config", self.config],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=self._environment({}),
        )

    def json(self, *arguments: str) -> Any:
        """What a command prints with ``--json``."""
        answer = self.command(*arguments, "--json")
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout)

    # ------------------------------------------------------------------------------------------------- what it wrote

    @property
    def database(self) -> Path:
        return self.state / "watcherd.db"

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of the history, read as any other program would; none while there is no database."""
        if not self.database.exists():
            return []
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=30)) as connection:
            try:
                return connection.execute(sql, values).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):  # the very first start is still making them
                    return []
                raise

    def states(self) -> dict[str, int]:
        """How many jobs are in which state."""
        return dict(self.rows("SELECT state, count(*) FROM job GROUP BY state"))  # type: ignore[arg-type]

    def log(self, event: str = "") -> list[dict[str, Any]]:
        """The lines of the log, of all starts; only those of one event when it is named."""
        found = []
        for line in self.logs.read_bytes().splitlines():
            if line.startswith(b"{"):
                entry = json.loads(line)
                if not event or entry.get("event") == event:
                    found.append(entry)
        return found

    # ---------------------------------------------------------------------------------------------------- the inbox

    def drop(self, name: str | bytes, content: bytes) -> Dropped:
        """Write a file into the inbox under ``name``, which may have folders in it."""
        target = self.inbox / os.fsdecode(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return self.remember(name, content)

    def remember(self, name: str | bytes, content: bytes) -> Dropped:
        """Note that these bytes come, or came, into the inbox under this name."""
        dropped = Dropped(path=os.fsencode(name), sha256=hashlib.sha256(content).hexdigest())
        self.dropped.append(dropped)
        return dropped


@cache
def png(number: int, width: int = 24, height: int = 16) -> bytes:
    """A small scan of its own: no other number gives the same bytes."""
    return _png(_pixels(number, width, height))


@cache
def marked_png(number: int, fault: str) -> bytes:
    """A small scan at which the fake segmenter shows one of its faults (`watcherd.inference.fake.FAULTS`)."""
    return _png(marked(_pixels(number, 24, 16), fault))


def _pixels(number: int, width: int, height: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (height, width), np.uint8)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def broken(number: int) -> bytes:
    """Text that is called a picture."""
    return b"This is no picture, but number %d of some lines of text.\n" % number * 3
