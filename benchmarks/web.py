"""The page of `watcherd web`: its first answers however long the history is, and what watchers cost the daemon."""

from __future__ import annotations

import http.client
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import long_history
from benchmarks.feeding import daemon, feed, make_small
from benchmarks.figure import Figure, Target

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PATIENCE = 120.0
"""Seconds that the page may take to answer at all."""
ASKED = ("/", "/history")
"""The first pages: what goes on now, and the newest jobs."""


class Page:
    """A page's process, and somebody who has logged in."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        config = folder / "config.toml"
        with config.open("a") as file:
            file.write(f"[web]\nport = {self.port}\n")
        command = [sys.executable, "-m", "watcherd", "web", "--config", str(config)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError("the page did not start")
            time.sleep(0.05)
        token = (folder / "state" / "web.token").read_text().strip()
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = self.open().ask("POST", "/login", f"secret={token}", kind)
        self.cookie = {"Cookie": str(answer.headers["set-cookie"]).partition(";")[0]}

    def _answers(self) -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", self.port)) == 0

    def open(self) -> Connection:
        return Connection(self.port)

    def seconds(self, path: str) -> float:
        """From asking to the last byte, over a connection that is open."""
        connection = self.open()
        connection.ask("GET", "/login", None, {}).read()
        began = time.perf_counter()
        answer = connection.ask("GET", path, None, self.cookie)
        answer.read()
        took = time.perf_counter() - began
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status}")
        connection.close()
        return took


class Connection(http.client.HTTPConnection):
    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port, timeout=PATIENCE)

    def ask(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> http.client.HTTPResponse:
        self.request(method, path, body, headers)
        return self.getresponse()


@contextmanager
def page(folder: Path) -> Iterator[Page]:
    """The page on a folder's configuration; ended with the block."""
    shown = Page(folder)
    try:
        yield shown
    finally:
        shown.process.terminate()
        shown.process.wait()


def first_pages(sizes: Sequence[int], runs: int) -> list[Figure]:
    """The same pages over histories of these lengths, by turns. The first of ``sizes`` is the measure of the others."""
    taken: dict[tuple[int, str], list[float]] = {(size, path): [] for size in sizes for path in ASKED}
    with ExitStack() as opened:
        pages = {size: opened.enter_context(page(opened.enter_context(_history(size)))) for size in sizes}
        for turn in range(runs + 1):
            for size, shown in pages.items():
                for path in ASKED:
                    took = shown.seconds(path)
                    if turn:  # the first warms templates and the disk's cache
                        taken[size, path].append(1000 * took)
    figures = [
        Figure(
            name=f"page {path}, {size:,} jobs in history",
            unit="ms",
            values=values,
            definition="from the request to the last byte, over an open connection; no daemon runs",
        )
        for (size, path), values in taken.items()
    ]
    shortest = sizes[0]
    for path in ASKED:
        ratios = [long / short for long, short in zip(taken[sizes[-1], path], taken[shortest, path], strict=True)]
        figures.append(
            Figure(
                name=f"page {path}, {sizes[-1]:,} jobs against {shortest:,}",
                unit="",
                values=ratios,
                overall=statistics.median(taken[sizes[-1], path]) / statistics.median(taken[shortest, path]),
                definition="ratio of the medians; smallest and largest are of single turns",
                target=Target(most=1.5),
            )
        )
    return figures


@contextmanager
def _history(jobs: int) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        for name in ("inbox", "outbox", "state"):
            (folder / name).mkdir()
        (folder / "config.toml").write_text("")
        long_history.make(folder / "state" / "watcherd.db", jobs, now=datetime.now(UTC), waiting=100)
        yield folder
    finally:
        shutil.rmtree(folder)


def watchers(runs: int, files: int, watching: int) -> list[Figure]:
    """The daemon's own CPU for a job with ``watching`` people before the page, and with none, by turns."""
    cost: dict[bool, list[float]] = {True: [], False: []}
    nobody: list[float] = []
    with daemon() as running, page(running.folder) as shown:
        for turn in range(3 * runs):
            watched = turn % 3 == 1
            scans = make_small(running.folder / "outside" / f"scans-{turn}", files, first=turn * files)
            with _watched(shown, watching if watched else 0):
                before = running.usage().cpu_seconds
                feed(running, scans)
                spent = 1000 * (running.usage().cpu_seconds - before) / files
            (nobody if turn % 3 == 2 else cost[watched]).append(spent)
    what = f"CPU of the daemon's main process over {files:,} small scans, segmenter none"
    ratio = statistics.median(cost[True]) / statistics.median(cost[False])
    same = statistics.median(nobody) / statistics.median(cost[False])
    return [
        Figure(name="daemon's own CPU for a job, nobody watches", unit="ms", values=cost[False], definition=what),
        Figure(name=f"daemon's own CPU for a job, {watching} watch", unit="ms", values=cost[True], definition=what),
        Figure(
            name=f"{watching} who watch against none",
            unit="",
            values=[one / other for one, other in zip(cost[True], cost[False], strict=True)],
            overall=ratio,
            definition=f"ratio of the medians; none against none, in the same turns, is {same:.3f}",
            target=Target(most=1.05),
        ),
    ]


@contextmanager
def _watched(shown: Page, count: int) -> Iterator[None]:
    """So many event streams that are read as they come."""
    connections = [shown.open() for _ in range(count)]

    def read(connection: Connection) -> None:
        with suppress(OSError, http.client.HTTPException, ValueError, AttributeError):  # it was closed under us
            answer = connection.ask("GET", "/events", None, shown.cookie)
            while answer.readline():
                pass

    readers = [threading.Thread(target=read, args=(one,), daemon=True) for one in connections]
    for reader in readers:
        reader.start()
    try:
        yield
    finally:
        for connection in connections:
            if connection.sock is not None:
                with suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)
        for reader in readers:
            reader.join(PATIENCE)
        for connection in connections:
            connection.close()
