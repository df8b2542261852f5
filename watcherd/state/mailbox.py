"""What a person asks of the daemon, without a network port: commands as files in the state folder.

A command is a file in the folder ``commands``, put there by one rename; whoever may write that folder may steer. The
daemon carries it out, records how it went in the table ``command``, and removes the file. So there is one writer of the
database, always. While no daemon runs, the command line takes the state folder's lock and does the same itself.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watcherd.errors import UnavailableError, WatcherdError
from watcherd.files import write_durably
from watcherd.store import Database, runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from watcherd.store import Connection

PAUSED_SINCE = "paused_since"
"""The setting that keeps a person's pause, with its time: it outlives the daemon."""


REVIEWED = "review"
"""The verb that brings what somebody says of a mask."""
EVALUATED = "evaluated"
"""The verb that brings an evaluation. Its arguments become rows of their own, and are not kept a second time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One wish: ``verb`` with its arguments. ``id`` keeps it from being carried out twice."""

    id: str
    verb: str
    arguments: Mapping[str, Any]


def send(folder: Path, verb: str, arguments: Mapping[str, Any]) -> str:
    """Leave a command for the daemon; its id. Raises `UnavailableError` without permission."""
    command_id = uuid.uuid4().hex
    content = json.dumps({"id": command_id, "verb": verb, "arguments": arguments}).encode()
    try:
        write_durably(folder / f"{command_id}.json", content)
    except OSError as error:
        raise UnavailableError(
            f"The command cannot be left in {folder}: {error.strerror}.",
            hint="Run it as the service's user or as root.",
        ) from error
    return command_id


def waiting(folder: Path) -> Iterator[tuple[Path, Command | None]]:
    """Commands that were left, oldest first; None for a file that is none."""
    for path in sorted(filter(Path.is_file, folder.glob("[!.]*.json")), key=lambda path: path.stat().st_mtime_ns):
        try:
            content = json.loads(path.read_text())
            command = Command(id=str(content["id"]), verb=str(content["verb"]), arguments=dict(content["arguments"]))
            json.dumps(asdict(command), ensure_ascii=False).encode()
        except (ValueError, KeyError, TypeError, RecursionError):  # half a surrogate pair too: it cannot be recorded
            yield path, None
        else:
            yield path, command


def carry_out_all(folder: Path, database: Database, carry_out: Callable[[Command], str]) -> int:
    """Carry out what was left in ``folder`` and record how it went; how many there were."""
    count = 0
    for path, command in waiting(folder):
        if command is not None:
            _carry_out(command, database, carry_out)
            count += 1
        path.unlink(missing_ok=True)
    return count


def _carry_out(command: Command, database: Database, carry_out: Callable[[Command], str]) -> None:
    kept = {} if command.verb == EVALUATED else dict(command.arguments)

    def receive(connection: Connection) -> bool:
        return runs.receive_command(connection, command.id, command.verb, kept, now=datetime.now(UTC))

    if not database.write(receive):
        return
    outcome, failure = "", None
    try:
        outcome = carry_out(command)
    except WatcherdError as error:
        outcome, failure = "refused", json.dumps([error.exit_code, error.message, error.hint])
    database.write(lambda c: runs.finish_command(c, command.id, outcome=outcome, error=failure, now=datetime.now(UTC)))
