"""Hooks over a real database, with real programs and a real web server: at least once, one key, never in the way."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, cast

import psutil
import pytest

from tests.asides import aside
from tests.integration.store.helpers import NOW, claim_one, enqueue, failure, later, scan, start_run, succeed
from watcherd import config, pauses
from watcherd.errors import ConfigError
from watcherd.job import ErrorClass, State
from watcherd.notify.hooks import Hooks, environment, pause_after, refuse_unusable
from watcherd.pauses import Pauses
from watcherd.retry import Decision
from watcherd.store import Database, StoreUnavailableError, backup, history, queue
from watcherd.store import hooks as calls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Connection

PATIENCE = 20.0
NOTE = "import json, os, sys; print(json.dumps([json.load(sys.stdin), dict(os.environ)]), file=open(sys.argv[1], 'a'))"
"""A program that writes down what it is told."""


@dataclass(slots=True)
class Clock:
    """A clock that stands still until it is set."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Bench:
    """Hooks with everything around them. The run has the number 1, and the clock is at `NOW`."""

    folder: Path
    database: Database
    clock: Clock = field(default_factory=Clock)
    stopping: threading.Event = field(default_factory=threading.Event)

    def hooks(self, **section: Any) -> Hooks:
        """The daemon's hooks, as after a start with this configuration."""
        settings = config.build({"hooks": section}, base=self.folder)
        made = Hooks(
            settings,
            self.database,
            Pauses(self.stopping),
            set_aside=aside(self.database),
            path=self.folder / "config.toml",
            clock=self.clock,
            chance=lambda: 0.5,
        )
        made.begin()
        return made

    def end_a_job(self, name: str = "a.png", how: Callable[[Connection, Any], None] = succeed) -> int:
        """Drop a scan and have its job end; the job's number."""

        def work(connection: Connection) -> int:
            enqueue(connection, 1, scan(name))
            claim = claim_one(connection, 1)
            how(connection, claim)
            return claim.job_id

        return self.database.write(work)

    def rows(self, columns: str = "*") -> list[Any]:
        with self.database.reader() as connection:
            found = connection.exec_driver_sql(f"SELECT {columns} FROM hook ORDER BY id")  # noqa: S608 - our own words
            return [tuple(row) for row in found]

    def turn(self, hooks: Hooks) -> None:
        """Let the hooks that are due be called, and wait for the calls."""
        hooks.turn()
        hooks.join(PATIENCE)

    def told(self) -> list[tuple[dict[str, Any], dict[str, str]]]:
        """What `NOTE` wrote down: the JSON and the environment of each call."""
        file = self.folder / "told"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def note(self) -> list[str]:
        return [sys.executable, "-c", NOTE, str(self.folder / "told")]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "watcherd.db"
    with Database.open(path) as database:
        database.write(start_run)
    return path


@pytest.fixture
def bench(tmp_path: Path, template: Path) -> Iterator[Bench]:
    path = shutil.copy(template, tmp_path / "watcherd.db")
    with Database.open(path) as database:
        yield Bench(tmp_path, database)


# ---------------------------------------------------------------------------------------------- what is written down


def gave_up(connection: Connection, claim: Any) -> None:
    queue.give_up(connection, claim, failure(), now=NOW)


def quarantined(connection: Connection, claim: Any) -> None:
    decision = Decision(state=State.QUARANTINED, why="killed its worker 2 times when run alone", crashes_alone=2)
    queue.give_up(connection, claim, failure(ErrorClass.CRASH), decision, now=NOW)


def cancelled(connection: Connection, claim: Any) -> None:
    queue.release(connection, [claim], now=NOW)
    queue.cancel(connection, [claim.job_id], now=NOW)


def killed_too_often(connection: Connection, claim: Any) -> None:
    connection.exec_driver_sql("UPDATE job SET interruptions = 9, solo = 1 WHERE id = ?", (claim.job_id,))
    queue.requeue_interrupted(connection, run_id=start_run(connection), now=NOW)


WAYS = {
    "succeeded": (succeed, "succeeded"),
    "failed": (gave_up, "failed"),
    "quarantined": (quarantined, "quarantined"),
    "quarantined at a start": (killed_too_often, "quarantined"),
    "cancelled": (cancelled, "cancelled"),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_which_a_job_ends_is_written_down_with_it(bench: Bench, way: str) -> None:
    """Once for each target, in the transaction of the end itself; the key names the job and the moment."""
    end, event = WAYS[way]
    bench.hooks(command=["true"], url="http://127.0.0.1:9", events=[event])
    job_id = bench.end_a_job(how=end)
    expected = [(job_id, f"{job_id}-20260102T030405678Z", target, event, "waiting", 0) for target in ("command", "url")]
    assert expected == bench.rows("job_id, key, target, event, state, tries")


def test_what_is_undone_is_not_called(bench: Bench) -> None:
    """A transaction that fails after the job's end takes the call with it."""

    def end_then_fail(connection: Connection, claim: Any) -> None:
        succeed(connection, claim)
        raise StoreUnavailableError("the disk is full")

    bench.hooks(command=["true"])
    with pytest.raises(StoreUnavailableError):
        bench.end_a_job(how=end_then_fail)
    assert [] == bench.rows()


def test_without_hooks_nothing_is_written(bench: Bench) -> None:
    bench.hooks()
    bench.end_a_job()
    assert [] == bench.rows()


def test_only_the_ends_that_are_asked_for_are_told(bench: Bench) -> None:
    bench.hooks(command=["true"], events=["failed"])
    bench.end_a_job("a.png")
    failed = bench.end_a_job("b.png", how=gave_up)
    assert [(failed, "failed")] == bench.rows("job_id, event")


def test_a_target_that_is_taken_out_gives_up_its_calls(bench: Bench) -> None:
    """And the calls of the other wait on."""
    bench.hooks(command=["true"], url="http://127.0.0.1:9")
    bench.end_a_job()
    bench.hooks(command=["true"])
    assert [("command", "waiting"), ("url", "given-up")] == bench.rows("target, state")


# --------------------------------------------------------------------------------------------------------- a program


def test_a_program_is_told_the_job_and_the_key(bench: Bench) -> None:
    """On stdin the record of the job and what the call is about, in the environment what a script needs."""
    hooks = bench.hooks(command=bench.note)
    job_id = bench.end_a_job()
    bench.turn(hooks)
    ((told, variables),) = bench.told()
    with bench.database.reader() as connection:
        record = cast("dict[str, Any]", history.job(connection, job_id))
    key = f"{job_id}-20260102T030405678Z"
    extra = {"event": "succeeded", "idempotency_key": key, "outbox": str(bench.folder / "outbox")}
    assert record | extra == told
    assert (str(job_id), "succeeded", key, str(bench.folder / "config.toml")) == tuple(
        variables[f"WATCHERD_{name}"] for name in ("JOB_ID", "JOB_STATE", "IDEMPOTENCY_KEY", "CONFIG")
    )
    assert [("called", 1, None)] == bench.rows("state, tries, error")
    bench.turn(hooks)
    assert 1 == len(bench.told())


def test_what_systemd_means_for_the_daemon_is_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that calls systemd-notify must not speak for the service."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    call = calls.HookCall(id=1, job_id=1, key="k", target="command", event="failed", tries=0)
    assert "NOTIFY_SOCKET" not in environment(call, None)
    assert "PATH" in environment(call, None)


def test_a_program_that_fails_is_called_again_later_with_the_same_key(bench: Bench) -> None:
    """Not before the pause is over, and by a new daemon as by the old one; the job stays as it is."""
    script = f"{NOTE}; print('no room'); sys.exit(0 if os.path.exists(sys.argv[2]) else 3)"
    command = [sys.executable, "-c", script, str(bench.folder / "told"), str(bench.folder / "mended")]
    hooks = bench.hooks(command=command)
    job_id = bench.end_a_job()
    with bench.database.reader() as connection:
        before = history.job(connection, job_id)
    bench.turn(hooks)
    error = "it ended with exit status 3: no room"
    assert [("waiting", 1, error)] == bench.rows("state, tries, error")
    bench.clock.now = later(seconds=9)
    bench.turn(hooks)
    assert 1 == len(bench.told())
    (bench.folder / "mended").touch()
    bench.clock.now = later(seconds=10)
    bench.turn(bench.hooks(command=command))
    first, second = bench.told()
    assert first[0]["idempotency_key"] == second[0]["idempotency_key"]
    assert [("called", 2, None)] == bench.rows("state, tries, error")
    with bench.database.reader() as connection:
        assert before == history.job(connection, job_id)


def test_a_call_is_given_up_after_its_tries_and_the_job_says_so(bench: Bench) -> None:
    """In its events, and for the doctor; nothing calls it any more."""
    hooks = bench.hooks(command=["false"], tries=2)
    job_id = bench.end_a_job()
    bench.turn(hooks)
    bench.clock.now = later(minutes=1)
    bench.turn(hooks)
    assert [("given-up", 2, None)] == bench.rows("state, tries, not_before")
    with bench.database.reader() as connection:
        event = history.events(connection, job_id)[-1]
        (found,) = calls.given_up(connection, since=NOW)
    assert "hook-given-up" == event["kind"]
    assert "hooks.command: it ended with exit status 1" == event["detail"]["reason"]
    assert (job_id, 2) == (found["job_id"], found["tries"])
    assert {("command", "failed"): 1, ("command", "given-up"): 1} == {
        key: count for key, count in hooks.made.items() if count
    }
    bench.clock.now = later(days=1)
    bench.turn(hooks)
    assert [("given-up", 2)] == bench.rows("state, tries")


def test_pauses_grow_to_an_hour() -> None:
    """Ten seconds, a minute, 5, 20, 60, 60; a fifth more or less by chance."""
    seconds = [pause_after(tries, lambda: 0.5).total_seconds() for tries in range(1, 8)]
    assert [10, 60, 300, 1200, 3600, 3600, 3600] == seconds
    assert (timedelta(seconds=8), timedelta(seconds=12)) == (pause_after(1, lambda: 0.0), pause_after(1, lambda: 1.0))


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (["./nowhere"], "nowhere cannot be started: No such file or directory"),
        ([sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"], "it was ended by SIGSEGV"),
        ([sys.executable, "-c", "print('x' * 10_000_000 + 'the\\tend'); exit(1)"], "xxxthe end"),
    ],
    ids=["it is not there", "it crashes", "it says too much"],
)
def test_what_went_wrong_is_kept_in_words(bench: Bench, command: list[str], error: str) -> None:
    """The end of the output at most, on one line."""
    hooks = bench.hooks(command=command)
    bench.end_a_job()
    bench.turn(hooks)
    (kept,) = (row[0] for row in bench.rows("error"))
    assert kept.endswith(error)
    assert len(kept) < 2100


def test_a_program_that_does_not_read_its_stdin_is_no_trouble(bench: Bench) -> None:
    hooks = bench.hooks(command=["true"])
    bench.end_a_job()
    bench.turn(hooks)
    assert [("called",)] == bench.rows("state")


def test_a_child_that_holds_the_output_is_not_waited_for(bench: Bench) -> None:
    """The program itself has ended, and that counts."""
    hooks = bench.hooks(command=["sh", "-c", f"sleep 600 & echo $! > {bench.folder}/pid"])
    bench.end_a_job()
    bench.turn(hooks)
    assert [("called",)] == bench.rows("state")
    psutil.Process(int((bench.folder / "pid").read_text())).kill()


def test_a_program_that_hangs_is_killed_with_its_children(bench: Bench) -> None:
    """At the deadline, and then it is called again as after any failure."""
    hooks = bench.hooks(command=["sh", "-c", f"sleep 600 & echo $! > {bench.folder}/pid; wait"], timeout_seconds=0.5)
    bench.end_a_job()
    bench.turn(hooks)
    assert [("waiting", 1, "it took longer than 0.5 s and was killed")] == bench.rows("state, tries, error")
    child = int((bench.folder / "pid").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_no_more_calls_than_allowed_run_at_a_time(bench: Bench) -> None:
    """The others wait their turn; `stop` cuts short those that hang, and nothing is crossed out or counts as failed."""
    hooks = bench.hooks(command=["sleep", "600"], at_once=2)
    for number in range(3):
        bench.end_a_job(f"{number}.png")
    hooks.turn()
    hooks.turn()
    assert 2 == sum(thread.name.startswith("hook-") for thread in threading.enumerate())
    assert hooks.busy
    hooks.stop(within=0.0)
    assert [("waiting", 0)] * 3 == bench.rows("state, tries")
    assert 0 == sum(thread.name.startswith("hook-") for thread in threading.enumerate())


def test_a_call_under_way_is_not_made_a_second_time(bench: Bench) -> None:
    """However often somebody looks, and though there is room."""
    hooks = bench.hooks(command=["sh", "-c", f"echo x >> {bench.folder}/began; sleep 600"], at_once=3)
    bench.end_a_job()
    for _ in range(3):
        hooks.turn()
    assert 1 == sum(thread.name.startswith("hook-") for thread in threading.enumerate())
    hooks.stop(within=0.0)


def test_a_call_that_went_well_is_not_repeated_because_the_disk_is_full(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits until it can be crossed out."""
    monkeypatch.setattr(pauses, "RETRY_SECONDS", 0.0)
    hooks = bench.hooks(command=bench.note)
    bench.end_a_job()
    write, refused = bench.database.write, []

    def write_at_last(work: Any) -> Any:
        if len(refused) < 3:
            refused.append(work)
            raise StoreUnavailableError("the disk is full")
        return write(work)

    monkeypatch.setattr(bench.database, "write", write_at_last)
    bench.turn(hooks)
    assert 3 == len(refused)
    assert [("called", 1)] == bench.rows("state, tries")
    assert 1 == len(bench.told())


def test_history_that_a_hook_waits_for_is_not_pruned(bench: Bench) -> None:
    """Afterwards it is, calls and all."""
    hooks = bench.hooks(command=["true"])
    bench.end_a_job(how=lambda c, claim: (succeed(c, claim), _dispose_all(c))[0])
    assert 0 == bench.database.write(lambda c: backup.prune(c, before=later(days=1)))
    bench.turn(hooks)
    assert 1 == bench.database.write(lambda c: backup.prune(c, before=later(days=1)))
    assert [] == bench.rows()


def _dispose_all(connection: Connection) -> None:
    connection.exec_driver_sql("UPDATE arrival SET present = 0, disposal = 'archived', delivery = 'delivered'")


# ------------------------------------------------------------------------------------------------------ a web server


@dataclass
class Receiver:
    """A web server that keeps what it gets, and answers as it is told to."""

    answers: list[int] = field(default_factory=list)
    got: list[tuple[dict[str, str], Any]] = field(default_factory=list)
    drip: threading.Event | None = None
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?site=north"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    state = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.got.append(({**dict(self.headers), "path": self.path}, json.loads(body)))
            if state.drip is not None:
                while not state.drip.wait(0.05):
                    self.wfile.write(b"H")
                return
            answer = state.answers.pop(0) if state.answers else 204
            self.send_response(answer)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "4")
            self.end_headers()
            if answer != 204:
                self.wfile.write(b"busy")

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    state.port = server.server_port
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield state
    if state.drip is not None:
        state.drip.set()
    server.shutdown()
    server.server_close()


def test_a_server_that_fails_is_asked_again_with_the_same_key(bench: Bench, receiver: Receiver) -> None:
    """503, a redirect, then 204: each after a longer pause."""
    receiver.answers = [503, 302, 204]
    hooks = bench.hooks(url=receiver.url, headers={"Authorization": "Bearer secret"})
    job_id = bench.end_a_job()
    errors = []
    for moment in (0, 10, 70):
        bench.clock.now = later(seconds=moment)
        bench.turn(hooks)
        errors += bench.rows("tries, error")
    assert [
        (1, "it answered 503 Service Unavailable: busy"),
        (2, "it answered 302 Found: busy"),
        (3, None),
    ] == errors
    headers, body = receiver.got[0]
    assert ("/hook?site=north", "application/json", "Bearer secret") == (
        headers["path"],
        headers["Content-Type"],
        headers["Authorization"],
    )
    assert job_id == body["id"]
    keys = {headers["Idempotency-Key"] for headers, _ in receiver.got}
    assert {f"{job_id}-20260102T030405678Z"} == keys == {body["idempotency_key"] for _, body in receiver.got}
    assert 3 == len(receiver.got)


def test_a_server_that_is_not_there_is_a_failure_in_words(bench: Bench, receiver: Receiver) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as gone:
        port = gone.server_port
    hooks = bench.hooks(url=f"http://127.0.0.1:{port}/")
    bench.end_a_job()
    bench.turn(hooks)
    assert [("Connection refused",)] == bench.rows("error")


def test_a_server_that_answers_byte_by_byte_is_cut_off_at_the_deadline(bench: Bench, receiver: Receiver) -> None:
    """Each byte would begin a socket's own patience anew."""
    receiver.drip = threading.Event()
    hooks = bench.hooks(url=receiver.url, timeout_seconds=0.5)
    bench.end_a_job()
    bench.turn(hooks)
    assert [("waiting", 1, "no answer within 0.5 s")] == bench.rows("state, tries, error")


def test_a_stop_does_not_wait_for_a_server(bench: Bench, receiver: Receiver) -> None:
    """And the call counts as not made."""
    receiver.drip = threading.Event()
    hooks = bench.hooks(url=receiver.url, timeout_seconds=600)
    bench.end_a_job()
    hooks.turn()
    hooks.stop(within=0.0)
    assert [("waiting", 0)] == bench.rows("state, tries")


# --------------------------------------------------------------------------------------------------- impossible values


@pytest.mark.parametrize("name", ["./hook.sh", "hook.sh", "no-such-program"])
def test_a_program_that_cannot_be_started_is_refused(tmp_path: Path, name: str) -> None:
    """A file that is not executable, or is not in PATH; relative paths are relative to the configuration."""
    (tmp_path / "hook.sh").write_text("#!/bin/sh\n")
    with pytest.raises(ConfigError, match=r"hooks\.command = .*hook\.sh|no-such-program") as caught:
        refuse_unusable(config.build({"hooks": {"command": [name]}}, base=tmp_path))
    assert "chmod" in caught.value.hint
    (tmp_path / "hook.sh").chmod(0o755)
    refuse_unusable(config.build({"hooks": {"command": ["./hook.sh"]}}, base=tmp_path))
