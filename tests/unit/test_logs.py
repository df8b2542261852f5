"""What a log line looks like at each of the places it can go, and what it never holds."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import socket
import sys
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from watcherd import logs
from watcherd.config import Log

if TYPE_CHECKING:
    from collections.abc import Iterator

EVENT = {"time": "2026-01-02T03:04:05.678Z", "level": "warning", "event": "job_failed", "job_id": 7}


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leaves the process's hooks as they were."""
    hooks = sys.excepthook, threading.excepthook
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    sys.excepthook, threading.excepthook = hooks
    root.handlers[:], root.level = before
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def set_up(*, hidden: bool = False, level: str = "info", **fields: object) -> io.StringIO:
    stream = io.StringIO()
    logs.setup(Log(level=level), hidden_names=hidden, stream=stream, fields=fields)  # type: ignore[arg-type]
    return stream


# ------------------------------------------------------------------------------------------------------------- lines


def test_a_line_is_json_with_time_level_event_and_fields() -> None:
    """Where the stream is a file: one JSON object, the process's own fields in it."""
    stream = set_up(replica=1)
    logs.get_logger(job_id=7).info("job_succeeded", inference_ms=12.5, source=Path("a/b.png"))
    (line,) = lines(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert {
        "level": "info",
        "event": "job_succeeded",
        "replica": 1,
        "job_id": 7,
        "inference_ms": 12.5,
        "source": "a/b.png",
    } == line


def test_levels_below_the_chosen_one_are_left_out() -> None:
    """log.level = "warning" drops what is less."""
    stream = set_up(level="warning")
    log = logs.get_logger()
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    assert ["c", "d"] == [line["event"] for line in lines(stream)]


def test_a_logger_made_before_setup_follows_it() -> None:
    """Modules make their logger when they are imported, long before the configuration is read."""
    structlog.reset_defaults()
    log = logs.get_logger()
    stream = set_up()
    log.info("later")
    assert ["later"] == [line["event"] for line in lines(stream)]


@pytest.mark.parametrize("name", ["\udcff.png", "a\nlevel=error.png", "\x1b[2J", "Müller.png", " ", ""])
def test_no_name_breaks_a_line(name: str) -> None:
    """Names that are not UTF-8, line ends and terminal sequences stay on one printable line, in every form."""
    event = EVENT | {"source": name}
    stream = io.StringIO()
    logs.StreamOutput(stream, as_json=True).write(event)
    assert name == lines(stream)[0]["source"]
    console = logs.console_line(event)
    assert console.isprintable()
    assert console.startswith("03:04:05.678 warning job_failed job_id=7 source=")
    assert b"\nSOURCE" in logs.journal_entry(event)


def test_a_stream_that_is_gone_does_not_raise() -> None:
    """A closed standard error costs the line, not the daemon."""
    stream = set_up()
    stream.close()
    logs.get_logger().info("unseen")


# ------------------------------------------------------------------------------------------------------------ choice


@pytest.mark.parametrize(
    ("form", "terminal", "journal", "expected"),
    [
        ("auto", True, False, "03:04:05.678 warning"),
        ("auto", False, False, '{"time"'),
        ("auto", False, True, '<4>{"time"'),
        ("json", True, False, '{"time"'),
        ("json", False, True, '<4>{"time"'),
        ("console", False, False, "03:04:05.678 warning"),
    ],
)
def test_the_form_follows_the_stream(
    form: str, terminal: bool, journal: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """auto: readable on a terminal, entries for the journal (its priorities when out of reach), JSON elsewhere."""
    monkeypatch.setattr(logs, "JOURNAL_SOCKET", "/nonexistent/socket")
    reader, writer = pty.openpty() if terminal else os.pipe()
    with os.fdopen(reader, "rb") as out, os.fdopen(writer, "w") as stream:
        status = os.fstat(stream.fileno())
        environ = {"NO_COLOR": "1"} | ({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"} if journal else {})
        logs.choose_output(form, stream, environ).write(EVENT)
        assert expected == os.read(out.fileno(), 4096).decode()[: len(expected)]


def test_a_journal_stream_of_another_descriptor_is_not_ours() -> None:
    """JOURNAL_STREAM is inherited; it counts only for the stream it names."""
    with Path("/dev/null").open("w") as stream:
        assert not logs.leads_to_journal(stream, {"JOURNAL_STREAM": "1:1"})
        assert not logs.leads_to_journal(io.StringIO(), {"JOURNAL_STREAM": "1:1"})


# ----------------------------------------------------------------------------------------------------------- journal


def fields_of(entry: bytes) -> dict[str, str]:
    """Reads journald's native protocol, both of its forms."""
    found = {}
    while entry:
        head, _, rest = entry.partition(b"\n")
        if b"=" in head:
            name, _, value = head.partition(b"=")
            entry = rest
        else:
            length = int.from_bytes(rest[:8], "little")
            name, value, entry = head, rest[8 : 8 + length], rest[9 + length :]
        found[name.decode()] = value.decode()
    return found


def test_a_journal_entry_has_native_fields() -> None:
    """`journalctl JOB_ID=7` works; MESSAGE reads well; what operators look for has its MESSAGE_ID."""
    event = EVENT | {"replica": 0, "error": "no\nmask", "message": "x", "devices": ["cpu"], "gone": None}
    assert {
        "MESSAGE": 'job_failed job_id=7 replica=0 error="no\\nmask" message=x devices="[\\"cpu\\"]" gone=None',
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "watcherd",
        "MESSAGE_ID": logs.MESSAGE_IDS["job_failed"],
        "EVENT": "job_failed",
        "JOB_ID": "7",
        "REPLICA": "0",
        "ERROR": "no\nmask",
        "WATCHERD_MESSAGE": "x",
        "DEVICES": '["cpu"]',
    } == fields_of(logs.journal_entry(event))


def test_message_ids_are_128_bits_and_differ() -> None:
    """As journald wants them: 32 hexadecimal digits."""
    assert all(re.fullmatch("[0-9a-f]{32}", value) for value in logs.MESSAGE_IDS.values())
    assert len(logs.MESSAGE_IDS) == len(set(logs.MESSAGE_IDS.values()))


def test_entries_go_to_journald_and_to_the_stream_when_it_is_away(tmp_path: Path) -> None:
    """A restart of journald loses nothing: a new connection is tried, then the stream."""
    stream = io.StringIO()
    address = str(tmp_path / "socket")
    output = logs.JournalOutput(address, fallback=logs.StreamOutput(stream, as_json=True))
    output.write(EVENT | {"job_id": 1})
    for job_id in (2, 3):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
            journald.bind(address)
            output.write(EVENT | {"job_id": job_id})
            assert str(job_id) == fields_of(journald.recv(65536))["JOB_ID"]
        Path(address).unlink()
    output.write(EVENT | {"job_id": 4})
    assert [1, 4] == [line["job_id"] for line in lines(stream)]


def test_an_entry_too_long_for_a_datagram_goes_to_the_stream(tmp_path: Path) -> None:
    """A stack dump of megabytes is not lost."""
    stream = io.StringIO()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "socket"))
        output = logs.JournalOutput(str(tmp_path / "socket"), fallback=logs.StreamOutput(stream, as_json=True))
        output.write(EVENT | {"dump": "x" * 10_000_000})
    assert 10_000_000 == len(lines(stream)[0]["dump"])


# ----------------------------------------------------------------------------------------------------------- privacy


def test_hidden_names_let_no_free_text_out(tmp_path: Path) -> None:
    """Invariant 21: job ids and figures pass, whatever could quote a file's name does not, not even in a traceback."""
    stream = set_up(hidden=True)
    log = logs.get_logger()
    secret = "Secret_Name"  # noqa: S105
    try:
        try:
            (tmp_path / secret).read_bytes()
        except OSError as error:
            raise ValueError(secret) from error
    except ValueError:
        log.exception("job_failed", job_id=7, source=secret, error=secret, paths=[secret], blob=secret.encode())
    log.info(f"read {secret}", path=tmp_path / secret)
    logging.getLogger("tifffile").warning("cannot read %s", secret)
    logs._log_uncaught(ValueError, ValueError(secret), None)
    assert secret not in stream.getvalue()
    first = lines(stream)[0]
    assert (7, "(hidden)") == (first["job_id"], first["source"])
    assert "FileNotFoundError: (hidden)" in first["exception"]
    assert "ValueError: (hidden)" in first["exception"]
    assert "test_logs.py" in first["exception"]
    assert ["job_failed", "unnamed_event", "library", "uncaught"] == [line["event"] for line in lines(stream)]


def test_names_are_hidden_until_the_configuration_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    """A process that has not called setup yet says little, and nothing by name."""
    structlog.reset_defaults()
    log = logs.get_logger()
    log.info("quiet")
    log.warning("early", source="Secret_Name")
    err = capsys.readouterr().err
    assert "quiet" not in err
    assert err.endswith("warning early source=(hidden)\n")


# --------------------------------------------------------------------------------------------------------- libraries


def test_libraries_speak_through_the_same_log() -> None:
    """logging, warnings and exceptions that nobody caught come out as lines of ours."""
    stream = set_up()
    logging.getLogger("alembic").info("Context impl SQLiteImpl.")
    logging.getLogger("PIL").error("broken %s", "tag")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        logging.captureWarnings(capture=True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    thread = threading.Thread(target=lambda: 1 // 0, name="sweep")
    thread.start()
    thread.join()
    library, warning, uncaught = lines(stream)
    assert ("library", "error", "PIL", "broken tag") == tuple(
        library[k] for k in ("event", "level", "logger", "message")
    )
    assert ("py.warnings", True) == (warning["logger"], "DeprecationWarning: old" in warning["message"])
    assert ("uncaught", "critical", "sweep") == tuple(uncaught[key] for key in ("event", "level", "thread"))
    assert "ZeroDivisionError" in uncaught["exception"]


def test_a_librarys_own_handler_can_be_taken_away(capsys: pytest.CaptureFixture[str]) -> None:
    """transformers brings a handler of its own and keeps its messages to itself."""
    stream = set_up()
    library = logging.getLogger("brings_its_own")
    library.addHandler(logging.StreamHandler())
    library.propagate = False
    logs.adopt("brings_its_own")
    library.warning("hello")
    assert ["hello"] == [line["message"] for line in lines(stream)]
    assert "" == capsys.readouterr().err
