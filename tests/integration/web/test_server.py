"""`watcherd web` as a process: it listens, says where, refuses what is no request, and stops while people watch."""

from __future__ import annotations

import http.client
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from watcherd.cli.app import run
from watcherd.web.guard import POLICY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE = 120.0


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Process:
    """A page of its own, with its address and its token."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        with (folder / "config.toml").open("a") as file:
            file.write(f"[web]\nport = {self.port}\n")
        self.command = [sys.executable, "-m", "watcherd", "web", "--config", str(folder / "config.toml")]
        self.answers_had: list[http.client.HTTPResponse] = []
        self.connections: list[http.client.HTTPConnection] = []
        self.log = (folder / "web.log").open("wb")
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + PATIENCE
        while not self.answers():
            assert self.process.poll() is None, (folder / "web.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def answers(self) -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", self.port)) == 0

    def ask(self, method: str, path: str, body: str = "", **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        self.connections.append(connection)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        self.answers_had.append(answer)
        return answer

    def log_in(self) -> str:
        """The cookie."""
        token = (self.folder / "state" / "web.token").read_text().strip()
        kind = "application/x-www-form-urlencoded"
        answer = self.ask("POST", "/login", f"secret={token}", Content_Type=kind)
        assert 303 == answer.status
        return str(answer.headers["set-cookie"]).partition(";")[0]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@pytest.fixture
def process(made_for_the_page: Path, tmp_path: Path) -> Iterator[Process]:
    shutil.copytree(made_for_the_page, tmp_path, dirs_exist_ok=True)
    started = Process(tmp_path)
    yield started
    started.process.kill()
    started.process.wait()
    for one in (*started.answers_had, *started.connections, started.log):
        one.close()


def test_it_stops_while_people_watch_and_leaves_nothing_behind(process: Process) -> None:
    cookie = process.log_in()
    streams = [process.ask("GET", "/events", Cookie=cookie) for _ in range(5)]
    for stream in streams:
        assert "text/event-stream; charset=utf-8" == stream.headers["content-type"]
        assert POLICY == stream.headers["content-security-policy"]
        assert b"data:" in stream.readline() + stream.readline()
    picture = process.ask("GET", "/job/1/layer/scan/0", Cookie=cookie)  # a worker is there
    picture.read()
    workers = children(process.process.pid)
    assert 0 == process.end()
    assert not process.answers()
    deadline = time.monotonic() + PATIENCE
    while any(not is_gone(pid) for pid in workers):  # the kernel ends them with their parent, a moment later
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def is_gone(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_what_is_no_request_is_refused_with_the_same_headers(process: Process) -> None:
    for nonsense in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", process.port), timeout=PATIENCE) as one:
            one.sendall(nonsense)
            told = b"".join(iter(lambda one=one: one.recv(4096), b""))  # type: ignore[misc]
        assert told.startswith(b"HTTP/1.1 400 ")
        assert POLICY.encode() in told
    assert 303 == process.ask("GET", "/").status


def test_many_requests_at_once_leave_it_as_it_was(process: Process) -> None:
    """A smaller number of what `docs/web.md` says: its memory is bounded, and it answers everybody."""
    import psutil

    cookie = process.log_in()
    page = psutil.Process(process.process.pid)
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=PATIENCE)

    def ask(count: int) -> None:
        for number in range(count):
            path = ("/history", "/login", "/job/1", "/nothing")[number % 4]
            connection.request("GET", path, headers={"Cookie": cookie, "X-Number": str(number)})
            answer = connection.getresponse()
            answer.read()
            assert answer.status in (200, 303, 404)

    process.connections.append(connection)

    ask(40)
    before = page.memory_info().rss
    ask(120)
    assert page.memory_info().rss - before < 64 << 20


def test_the_service_is_stopped_and_started_while_people_look(process: Process) -> None:
    cookie = process.log_in()
    text = process.ask("GET", "/", Cookie=cookie).read().decode()
    assert "watcherd is not running" in text
    command = [*process.command[:3], "run", "--config", process.command[-1]]
    with (process.folder / "daemon.log").open("wb") as log:
        service = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(process, cookie, "watcherd is running")
    finally:
        service.terminate()
        service.wait(PATIENCE)
    wait_for(process, cookie, "watcherd is not running")


def wait_for(process: Process, cookie: str, words: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while words not in process.ask("GET", "/", Cookie=cookie).read().decode():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_two_pages_at_one_address_are_one_too_many(process: Process, capsys: pytest.CaptureFixture[str]) -> None:
    assert 69 == run(["web", "--config", str(process.folder / "config.toml")])
    assert "cannot listen" in capsys.readouterr().err
    assert 0 == run(["web", "--address", "--config", str(process.folder / "config.toml")])
    said = capsys.readouterr().out
    token = (process.folder / "state" / "web.token").read_text().strip()
    assert f"http://127.0.0.1:{process.port}/login#{token}\n" == said
    assert token not in (process.folder / "web.log").read_text()


WITHOUT = """
import sys
for name in ("starlette", "uvicorn", "sse_starlette", "python_multipart"):
    sys.modules[name] = None
from watcherd.cli.app import run
sys.exit(run(["web", "--config", sys.argv[1]]))
"""


def test_without_the_extra_the_command_that_installs_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    command = [sys.executable, "-c", WITHOUT, str(tmp_path / "config.toml")]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert 69 == answer.returncode
    assert 'pip install "watcherd[web]"' in answer.stderr
