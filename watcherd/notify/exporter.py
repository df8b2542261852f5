"""The figures of ``watcherd.notify.metrics``, kept up to date, and handed out: as a file, on a loopback port, or both.

What ended is read from the history's events every `Metrics.interval_seconds`, so that nothing on the way of a scan has
to report here. The rest is asked for when somebody looks. While neither a file nor a port is configured, the thread
sleeps and prometheus-client is not even imported.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watcherd.errors import ConfigError, StoreError, UnavailableError
from watcherd.inference.pool.interface import Phase
from watcherd.job import Fate
from watcherd.linux.threads import NamedThread
from watcherd.logs import get_logger
from watcherd.notify import metrics
from watcherd.store import history, hooks, overview, progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from http.server import ThreadingHTTPServer

    from watcherd.config import Config
    from watcherd.notify.metrics import Sample
    from watcherd.store import Database

LOOPBACK = "127.0.0.1"
PATIENCE_SECONDS = 5.0
"""Seconds that a request waits for another one's figures: a folder on a dead share may never answer."""
CONNECTION_SECONDS = 10.0
MIB = 1 << 20
WORK = "work"
PARTS = (WORK, "inbox", "spool", "state", "outbox")
"""What can be paused: by a person, or for want of the part (`watcherd.pauses`)."""


class Exporter:
    """The figures of one run of the daemon.

    ``status``: what `watcherd.state.live` shows, as it is now. ``hook_calls``: calls made by target and outcome.
    ``set_aside``: how often something was set aside, by loop.
    """

    def __init__(
        self,
        config: Config,
        database: Database,
        status: Callable[[], Mapping[str, Any]],
        *,
        hook_calls: Callable[[], Mapping[tuple[str, str], int]] = dict,
        set_aside: Callable[[], Mapping[str, int]] = dict,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._database = database
        self._status = status
        self._hook_calls = hook_calls
        self._set_aside = set_aside
        self._clock = clock
        self._log = get_logger()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._counting = threading.Lock()
        self._tally = metrics.Tally()
        self._server: ThreadingHTTPServer | None = None
        self._file: Path | None = None
        self._troubles: dict[str, str] = {}
        with database.reader() as connection:
            self._counted_to = progress.last_event(connection)

    def reconfigure(self, config: Config) -> None:
        """Use another configuration at once."""
        if not self._wanted and _wanted(config):  # what happened while nobody counted is not made up for
            with contextlib.suppress(StoreError), self._database.reader() as connection, self._counting:
                self._counted_to = progress.last_event(connection)
        self._config = config
        self._wake.set()

    def run(self) -> None:
        """Count, write and serve until `stop`."""
        try:
            while not self._stopping.is_set():
                self._wake.clear()
                with self._troubling("figures", Exception):
                    self.turn()
                self._wake.wait(self._config.metrics.interval_seconds if self._wanted else None)
        finally:
            self._close()

    def stop(self) -> None:
        """Hand out nothing any more: figures of a service that does not run are no figures."""
        self._stopping.set()
        self._wake.set()

    def turn(self) -> None:
        """Do once what is to be done every interval."""
        wanted = self._config.metrics
        self._serve_on(wanted.port)
        if self._file not in (None, wanted.file):
            self._take_away_file()
        if not self._wanted:
            return
        with self._troubling("history", StoreError), self._counting:
            self._count()
        if wanted.file is not None:
            with self._troubling("file", OSError, UnavailableError):
                _publish(wanted.file, self.text())
                self._file = wanted.file

    def text(self) -> bytes:
        """The figures as they are now. Raises `UnavailableError` when somebody else waits for them in vain."""
        if not self._counting.acquire(timeout=PATIENCE_SECONDS):
            raise UnavailableError("The figures are not to be had: a folder does not answer.")
        try:
            with contextlib.suppress(StoreError):
                self._count()
            return metrics.text(self._samples(), self._tally.stages)
        finally:
            self._counting.release()

    # ------------------------------------------------------------------------------------------------------- figures

    @property
    def _wanted(self) -> bool:
        return _wanted(self._config)

    def _count(self) -> None:
        with self._database.reader() as connection:
            news = progress.since(connection, self._counted_to)
        self._counted_to = news.until
        for ended in news.ended:
            self._tally.count_end(ended.state, ended.error_class, ended.durations_ms, ended.model)
        for error_class, count in news.retried.items():
            self._tally.retried[error_class] += count
        for used in news.used:
            self._tally.count_device(
                (used.device, used.name),
                busy_ms=used.busy_ms,
                allocated_bytes=used.allocated_bytes,
                reserved_bytes=used.reserved_bytes,
            )

    def _samples(self) -> Iterator[Sample]:
        now, status = self._clock(), self._status()
        yield from self._tally.samples()
        yield from (("watcherd_hook_calls_total", labels, count) for labels, count in self._hook_calls().items())
        yield from (("watcherd_set_aside_total", (loop,), count) for loop, count in self._set_aside().items())
        yield from _of_the_process(status, now)
        yield from _of_replicas(status)
        yield from _of_models(status)
        yield from _of_the_inbox(status)
        yield from _of_disks(self._config, inbox_online=bool((status.get("inbox") or {}).get("online")))
        with contextlib.suppress(StoreError):  # a database that does not answer must not hide what is known without it
            yield from list(self._of_the_history(now))

    def _of_the_history(self, now: float) -> Iterator[Sample]:
        with self._database.reader() as connection:
            jobs, fates = history.counts(connection), history.fates(connection)
            oldest = history.oldest_queued(connection)
            waiting = hooks.waiting(connection)
            queued = overview.queued_by_model(connection)
        for name in dict.fromkeys((*(model["name"] for model in self._status().get("models", [])), *queued)):
            yield "watcherd_model_jobs_queued", (name,), queued.get(name, 0)
        yield from (("watcherd_jobs", (state.value,), count) for state, count in jobs.items())
        taken = sum(jobs.values())
        for fate, count in ((Fate.QUEUED, taken), *((fate, fates[fate]) for fate in Fate if fate is not Fate.QUEUED)):
            yield "watcherd_arrivals", (fate.value,), count
        age = 0.0 if oldest is None else max(0.0, now - datetime.fromisoformat(oldest).timestamp())
        yield "watcherd_queue_oldest_age_seconds", (), age
        yield "watcherd_hook_calls_waiting", (), waiting

    # ------------------------------------------------------------------------------------------------- file and port

    def _serve_on(self, port: int) -> None:
        if self._server is not None and self._server.server_port != port:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        if port and self._server is None:
            with self._troubling("port", OSError):
                self._server = _server(port, self.text)
                NamedThread(target=self._server.serve_forever, name="metrics-port", daemon=True).start()

    def _take_away_file(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)
            self._file = None

    def _close(self) -> None:
        self._serve_on(0)
        self._take_away_file()

    @contextlib.contextmanager
    def _troubling(self, kind: str, *errors: type[Exception]) -> Iterator[None]:
        """Say once that something does not work, and go on: figures must never stop the work."""
        try:
            yield
        except errors as error:
            if self._troubles.get(kind) != str(error):
                self._troubles[kind] = str(error)
                self._log.warning("metrics_unavailable", kind=kind, error=" ".join(str(error).split()))
        else:
            self._troubles.pop(kind, None)


def _wanted(config: Config) -> bool:
    return config.metrics.file is not None or config.metrics.port != 0


def refuse_unusable(config: Config) -> None:
    """Raise `ConfigError` when the file's folder is not there."""
    file = config.metrics.file
    if file is not None and not file.parent.is_dir():
        raise ConfigError(
            f"metrics.file = {str(file)!r}: there is no folder {file.parent}.",
            hint="Give the folder that node_exporter reads, or make it: its --collector.textfile.directory.",
        )


def _of_the_process(status: Mapping[str, Any], now: float) -> Iterator[Sample]:
    model = status.get("model") or {}
    build = (status["version"], *(model.get(key) or "" for key in ("segmenter", "revision", "dtype")))
    yield "watcherd_build_info", build, 1
    yield "watcherd_start_timestamp_seconds", (), datetime.fromisoformat(status["started_at"]).timestamp()
    yield "watcherd_refreshed_timestamp_seconds", (), now
    yield "watcherd_ready", (), status["phase"] == "running"
    times = os.times()
    yield "watcherd_process_cpu_seconds_total", (), times.user + times.system
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    yield "watcherd_process_resident_memory_bytes", (), pages * os.sysconf("SC_PAGE_SIZE")
    paused = {**status["paused"], **({WORK: ""} if status["held"] else {})}
    yield from (("watcherd_paused", (part,), part in paused) for part in (*PARTS, *sorted(paused.keys() - {*PARTS})))


def _of_replicas(status: Mapping[str, Any]) -> Iterator[Sample]:
    phases = [replica["phase"] for replica in status["replicas"]]
    yield from (("watcherd_replicas", (phase.value,), phases.count(phase)) for phase in Phase)
    for replica in status["replicas"]:
        yield "watcherd_replica_restarts_total", (str(replica["number"]),), replica["restarts"]
    for card in status.get("cards") or ():
        device = (card["uuid"], card["name"] or "")
        for name, mib in (("used", card["used_mib"]), ("size", card["total_mib"])):
            if mib is not None:
                yield f"watcherd_device_memory_{name}_bytes", device, mib * MIB


def _of_models(status: Mapping[str, Any]) -> Iterator[Sample]:
    for model in status.get("models", []):
        yield "watcherd_model_ready", (model["name"],), model["state"] == "ready"
        yield "watcherd_model_computing_seconds_total", (model["name"],), model["computed_s"]


def _of_the_inbox(status: Mapping[str, Any]) -> Iterator[Sample]:
    inbox = status.get("inbox")
    if inbox is None:
        return
    yield "watcherd_inbox_online", (), inbox["online"]
    yield "watcherd_inbox_settling_files", (), inbox["settling"]
    if inbox["last_sweep_ms"] is not None:
        yield "watcherd_inbox_sweep_duration_seconds", (), inbox["last_sweep_ms"] / 1000
    if inbox["swept_at"] is not None:
        swept_at = datetime.fromisoformat(inbox["swept_at"]).astimezone(UTC)
        yield "watcherd_inbox_swept_timestamp_seconds", (), swept_at.timestamp()


def _of_disks(config: Config, *, inbox_online: bool) -> Iterable[Sample]:
    folders = {"state": config.state.path, "outbox": config.outbox.path, "archive": config.inbox.archive_path}
    if inbox_online:
        folders["inbox"] = config.inbox.path
    for name, folder in folders.items():
        with contextlib.suppress(OSError):
            usage = shutil.disk_usage(folder)
            yield "watcherd_disk_free_bytes", (name,), usage.free
            yield "watcherd_disk_size_bytes", (name,), usage.total
    database = config.state.database
    sizes = [file.stat().st_size for file in (database, database.with_name(f"{database.name}-wal")) if file.exists()]
    yield "watcherd_database_size_bytes", (), sum(sizes)


def _publish(path: Path, content: bytes) -> None:
    """Replace the file as a whole; node_exporter, another user, may read it. It need not outlive a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(content)
    temporary.replace(path)


def _server(port: int, text: Callable[[], bytes]) -> ThreadingHTTPServer:
    """A server of ``/metrics`` on loopback. Raises OSError when the port is taken."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    from prometheus_client import CONTENT_TYPE_LATEST

    class Handler(BaseHTTPRequestHandler):
        timeout = CONNECTION_SECONDS
        server_version = "watcherd"
        sys_version = ""

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self.send_error(404, explain="The figures are at /metrics.")
                return
            try:
                content = text()
            except UnavailableError as error:
                self.send_error(503, explain=error.message)
                return
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE_LATEST)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing: a line for every scrape helps nobody."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Nothing: who asks may go away before the answer."""

    return Server((LOOPBACK, port), Handler)
