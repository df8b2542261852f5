"""The log: one line for one event, as a stable name with fields, wherever it goes.

| where the stream leads          | what is written                                                             |
|---------------------------------|-----------------------------------------------------------------------------|
| a terminal                      | a readable line                                                             |
| the journal                     | an entry of native fields (``JOB_ID=7``), sent to journald's own socket     |
| the journal, socket out of reach| the JSON line, with the priority in front (``<6>{...}``, sd-daemon(3))      |
| anything else                   | a JSON line                                                                 |

Every process calls `setup` once, a replica with fields of its own. What libraries log, warn of or leave uncaught comes
out in the same form.

Event names are identifiers (``job_failed``). With ``privacy.names = "hidden"`` a field of text passes only when it is
listed in `SAFE_TEXT`, so a field that somebody adds later cannot give a patient's name away (invariant 21).
"""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
import sys
import threading
import traceback
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, Protocol

import structlog

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping
    from types import TracebackType

    from structlog.typing import FilteringBoundLogger, Processor, WrappedLogger

    from watcherd import config

JOURNAL_SOCKET = "/run/systemd/journal/socket"
HIDDEN = "(hidden)"

MESSAGE_IDS = {
    "daemon_ready": "43af3516c4dd422e8a2bd00d556f6928",
    "daemon_stopped": "d578e27a47c74cc682ad81c3c168f0e7",
    "config_reloaded": "5c23a5c729bc4f2a8157e66538c8b72d",
    "config_rejected": "b1b6456ceea24c5fbdb3ad99139bdb83",
    "job_failed": "0ba83b50ad6d41fc89a7d548b6a8e30f",
    "job_quarantined": "e107b5acf90c4f819a52aeb03be4f2d2",
    "replica_died": "65ece18401954e108d887ba5a0fb27a8",
    "intake_paused": "0b67982c23c94066be4e61af9fb0077f",
    "intake_resumed": "99da886aa8554805bdc654d1a9a3a7e9",
    "inbox_offline": "c9548040553a40d08d8911320abcc5d6",
    "inbox_online": "2bd19fc7fe6440f8beda1a8a8d9d7154",
}
"""The few events that an operator looks for (docs/operations.md) and their MESSAGE_ID; a released one never changes."""

# fmt: off
SAFE_TEXT = frozenset({
    "event", "level", "time", "logger", "exception", "thread", "job_id", "arrival_id", "run_id", "replica",
    "process", "state", "old", "new", "fate", "error_class", "reason", "profile", "segmenter", "model",
    "model_revision", "dtype", "device", "devices", "stage", "signal", "kind", "version", "decode", "status",
    "sha256", "config", "filesystem",
})
# fmt: on
"""Fields whose text never holds a file's name; ``reason`` is the place for words about a failure that hold none."""

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""Levels as syslog numbers them."""

# Fields of journald's own that a field of ours must not stand beside (systemd.journal-fields(7)).
_TAKEN = frozenset({"MESSAGE", "MESSAGE_ID", "PRIORITY", "SYSLOG_IDENTIFIER", "SYSLOG_PID", "ERRNO", "UNIT", "TID"})


def setup(
    log: config.Log,
    *,
    hidden_names: bool,
    stream: IO[str] | None = None,
    fields: Mapping[str, object] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Send everything this process logs to ``stream`` (standard error), each line with ``fields`` in it.

    ``hidden_names``: no text that could hold a file's name comes out.
    """
    stream = stream if stream is not None else sys.stderr
    _configure(choose_output(log.format, stream, environ), log.level, hidden_names=hidden_names, fields=fields or {})
    _adopt_everything(log.level)


def get_logger(**fields: object) -> FilteringBoundLogger:
    """A logger whose lines carry ``fields``. It may be made before `setup`; until then names are hidden."""
    if not structlog.is_configured():
        _configure(StreamOutput(sys.stderr, as_json=False), "warning", hidden_names=True, fields={})
    logger: FilteringBoundLogger = structlog.get_logger(**fields)
    return logger


def adopt(library: str) -> None:
    """Take away the handlers that ``library`` brought along, so that its messages come out with ours."""
    logger = logging.getLogger(library)
    logger.handlers.clear()
    logger.propagate = True


# ---------------------------------------------------------------------------------------------------------- where to


class Output(Protocol):
    """Writes one event. It never raises: a log that cannot be written must not stop the work."""

    def write(self, event: Mapping[str, Any]) -> None: ...


def choose_output(form: str, stream: IO[str], environ: Mapping[str, str]) -> Output:
    """The output for ``log.format`` and what ``stream`` is: a terminal, the journal or a file."""
    journal = leads_to_journal(stream, environ)
    if form == "console" or (form == "auto" and _is_terminal(stream)):
        return StreamOutput(stream, as_json=False, colours=_is_terminal(stream) and "NO_COLOR" not in environ)
    lines = StreamOutput(stream, as_json=True, priorities=journal)
    return JournalOutput(JOURNAL_SOCKET, fallback=lines) if journal and form == "auto" else lines


def leads_to_journal(stream: IO[str], environ: Mapping[str, str]) -> bool:
    """Whether ``stream`` is the one that systemd connected to the journal (``JOURNAL_STREAM``: device and inode)."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _is_terminal(stream: IO[str]) -> bool:
    try:
        return stream.isatty()
    except (ValueError, AttributeError):
        return False


class StreamOutput:
    """Lines on a stream, each in one write so that those of several processes do not mix."""

    def __init__(self, stream: IO[str], *, as_json: bool, priorities: bool = False, colours: bool = False) -> None:
        self._stream = stream
        self._as_json = as_json
        self._priorities = priorities
        self._colours = colours
        self._lock = threading.Lock()

    def write(self, event: Mapping[str, Any]) -> None:
        line = self._line(event)
        try:
            with self._lock:
                self._stream.write(line + "\n")
                self._stream.flush()
        except (OSError, ValueError):
            pass  # the reader is gone or the stream is closed

    def _line(self, event: Mapping[str, Any]) -> str:
        if not self._as_json:
            return console_line(event, colours=self._colours)
        line = json.dumps(event, default=_plain)  # ASCII: names that are not UTF-8 stay readable as escapes
        return f"<{PRIORITIES[event['level']]}>{line}" if self._priorities else line


class JournalOutput:
    """Entries with fields of their own in the journal; what does not get there goes to ``fallback``."""

    def __init__(self, address: str, *, fallback: Output, seconds: float = 1.0) -> None:
        self._address = address
        self._fallback = fallback
        self._seconds = seconds
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    def write(self, event: Mapping[str, Any]) -> None:
        entry = journal_entry(event)
        with self._lock:
            sent = self._send(entry) or self._send(entry)  # again, on a new socket, when journald was restarted
        if not sent:
            self._fallback.write(event)

    def _send(self, entry: bytes) -> bool:
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.settimeout(self._seconds)
                self._socket.connect(self._address)
            self._socket.send(entry)
        except OSError:  # also an entry that is too long for a datagram
            if self._socket is not None:
                self._socket.close()
            self._socket = None
            return False
        return True


# ----------------------------------------------------------------------------------------------------------- renders


def console_line(event: Mapping[str, Any], *, colours: bool = False) -> str:
    """``12:30:59.123 warning job_failed job_id=7``, a traceback on lines of its own."""
    level = f"{event['level']:<8}"
    if colours:
        colour = {"debug": 2, "info": 32, "warning": 33}.get(event["level"], 31)
        level = f"\x1b[{colour}m{level}\x1b[0m"
    return f"{event['time'][11:23]} {level}{_message(event)}"


def journal_entry(event: Mapping[str, Any]) -> bytes:
    """``event`` in journald's native protocol: every field under its name in capitals."""
    entry = [
        _journal_field("MESSAGE", _message(event)),
        _journal_field("PRIORITY", str(PRIORITIES[event["level"]])),
        _journal_field("SYSLOG_IDENTIFIER", "watcherd"),
    ]
    if message_id := MESSAGE_IDS.get(event["event"]):
        entry.append(_journal_field("MESSAGE_ID", message_id))
    for key, value in event.items():
        if key not in {"level", "time"} and value is not None:
            entry.append(_journal_field(_journal_name(key), _text(value)))
    return b"".join(entry)


def _journal_field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"


def _journal_name(key: str) -> str:
    name = "".join(c if c.isascii() and c.isalnum() else "_" for c in key.upper()).lstrip("_0123456789")[:55]
    return f"WATCHERD_{name}" if name in _TAKEN or not name else name


def _message(event: Mapping[str, Any]) -> str:
    """The event and its fields as a person reads them."""
    shown = (f"{k}={_quoted(v)}" for k, v in event.items() if k not in {"event", "level", "time", "exception"})
    line = " ".join((_quoted(event["event"]), *shown))
    return f"{line}\n{event['exception']}" if "exception" in event else line


def _quoted(value: object) -> str:
    """``value`` on one line, in quotes where blanks or control characters would mislead the reader."""
    text = _text(value)
    if text and text.isprintable() and not set(text) & set(" \"'="):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple, dict, bool)):
        return json.dumps(value, default=_plain)
    return str(_plain(value))


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value if isinstance(value, (int, float)) else str(value)


# -------------------------------------------------------------------------------------------------------- processors


def _configure(output: Output, level: str, *, hidden_names: bool, fields: Mapping[str, object]) -> None:
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _Stamp(fields),
        render_exception(hidden=hidden_names),
        *([hide_names] if hidden_names else []),
        _hand_over,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=lambda *_: output,
    )


class _Stamp:
    """Puts the time (UTC, milliseconds), the level and this process's own fields before the event's."""

    def __init__(self, fields: Mapping[str, object]) -> None:
        self._fields = dict(fields)

    def __call__(self, _: WrappedLogger, method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        level = "error" if method == "exception" else method
        return {"time": time, "level": level, "event": event.pop("event"), **self._fields, **event}


def render_exception(*, hidden: bool) -> Processor:
    """A processor that turns ``exc_info`` into text; when ``hidden`` without the exceptions' messages."""

    def render(_: WrappedLogger, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        error = _exception(event.pop("exc_info", None))
        if error is not None:
            event["exception"] = "".join(_frames(error) if hidden else traceback.format_exception(error)).rstrip()
        return event

    return render


def _exception(info: object) -> BaseException | None:
    if isinstance(info, tuple):
        return info[1] if isinstance(info[1], BaseException) else None
    if isinstance(info, BaseException):
        return info
    return sys.exception() if info else None


def _frames(error: BaseException | None, seen: int = 0) -> list[str]:
    """The frames and types of ``error`` and of what it came from; messages quote file names and are left out."""
    if error is None or seen == 10:
        return []
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    before = [*_frames(earlier, seen + 1), "which led to\n"] if earlier else []
    return [*before, *traceback.format_tb(error.__traceback__), f"{type(error).__qualname__}: {HIDDEN}\n"]


def hide_names(_: WrappedLogger, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor that lets numbers and the fields of `SAFE_TEXT` pass and hides every other value."""
    for key, value in event.items():
        if key not in SAFE_TEXT and value is not None and not isinstance(value, (int, float)):
            event[key] = HIDDEN
    if not event["event"].isidentifier():
        event["event"] = "unnamed_event"
    return event


def _hand_over(output: Any, _: str, event: MutableMapping[str, Any]) -> str:
    """The last processor: writes the event and tells structlog that there is no more to do."""
    output.write(event)
    raise structlog.DropEvent


# --------------------------------------------------------------------------------------------------------- libraries


class _FromLibraries(logging.Handler):
    """Hands the messages of `logging` on; their text is free, so it goes into a field that can be hidden."""

    def emit(self, record: logging.LogRecord) -> None:
        level = logging.getLevelName(record.levelno).lower()
        log = getattr(structlog.get_logger(), level if level in PRIORITIES else "info")
        try:
            log("library", logger=record.name, message=record.getMessage(), exc_info=record.exc_info)
        except Exception:
            self.handleError(record)


def _adopt_everything(level: str) -> None:
    logging.basicConfig(handlers=[_FromLibraries()], level=_library_level(level), force=True)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def _library_level(level: str) -> str:
    """Libraries tell much at ``info``: it comes out only when debugging."""
    return {"debug": "INFO", "info": "WARNING"}.get(level, level.upper())


def _log_uncaught(kind: type[BaseException], error: BaseException | None, _: TracebackType | None) -> None:
    if not issubclass(kind, (KeyboardInterrupt, SystemExit)):
        get_logger().critical("uncaught", thread=threading.current_thread().name, exc_info=error)
