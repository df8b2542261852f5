"""The commands that change the history: retry, cancel, prioritise, pause, prune, repair; and what was evaluated."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from watcherd.errors import UsageError
from watcherd.intake.refetch import Refetch
from watcherd.service import evaluated, reviewed
from watcherd.service.prune import prune
from watcherd.service.repair import repair
from watcherd.state.mailbox import EVALUATED, PAUSED_SINCE, REVIEWED
from watcherd.state.run import meant_by
from watcherd.store import Database, aside, identity, runs
from watcherd.store import queue as jobs
from watcherd.store.records import stamp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watcherd.inbox.spool import Spool
    from watcherd.job import Options
    from watcherd.state.mailbox import Command
    from watcherd.state.run import Settings

MOST_JOBS = 100_000


class JobCommands:
    """The commands that change jobs.

    For the service's thread that owns the spool, or a command line that holds the state folder's lock.
    """

    def __init__(self, settings: Settings, database: Database, spool: Spool) -> None:
        self._settings = settings
        self._database = database
        self._spool = spool
        self._refetch = Refetch(settings.now, database, spool)

    def carry_out(self, command: Command) -> str:
        """Do it; what was done, in words. Raises `UsageError` for what cannot be done."""
        ids = self._current(_ids(command.arguments.get("jobs", [])))
        now = datetime.now(UTC)
        if command.verb == "pause":
            self._database.write(lambda c: runs.set_setting(c, PAUSED_SINCE, stamp(now)))
            return "paused: nothing new is begun until `watcherd resume`"
        if command.verb == "resume":
            self._database.write(lambda c: runs.set_setting(c, PAUSED_SINCE, None))
            return "resumed"
        if command.verb == "retry" and (model := command.arguments.get("model")) is not None:
            return self._hand_over(ids, str(model), now)
        if command.verb == "retry":
            return self._retry(ids, now)
        if command.verb == "cancel":
            return _done("cancelled", ids, self._database.write(lambda c: jobs.cancel(c, ids, now=now)), "waiting")
        if command.verb == "prioritise":
            priority = int(command.arguments.get("priority", 0))
            moved = self._database.write(lambda c: jobs.prioritise(c, ids, priority, now=now))
            return _done(f"given priority {priority}", ids, moved, "waiting")
        if command.verb == "prune":
            trusted = bool(command.arguments.get("trust_clock", False))
            return f"pruned: {prune(self._settings.now, self._database, self._spool, trust_clock=trusted)}"
        if command.verb == EVALUATED:
            return evaluated.record(self._database, command.arguments, now)
        if command.verb == REVIEWED:
            return reviewed.record(self._database, ids, command.arguments, now)
        if command.verb == "repair":
            return repair(str(command.arguments.get("what")), self._settings.now, self._database, now)
        raise UsageError(f"There is no command {command.verb!r}.", hint="The daemon may be of another version.")

    def _retry(self, ids: Sequence[int], now: datetime) -> str:
        """Ask for ended jobs again; a scan whose copy is gone is fetched from the archive."""
        released = self._database.write(lambda c: aside.forget_jobs(c, ids))
        lost = [job_id for job_id in ids if not self._has_bytes(job_id)]
        moved = self._database.write(
            lambda c: jobs.ask_again(c, [job_id for job_id in ids if job_id not in lost], now=now)
        )
        if lost:
            others = f" Queued again: {len(moved)}." if moved else ""
            raise UsageError(
                f"The bytes of job {', '.join(map(str, lost))} are neither in the spool nor in the archive or the "
                f"inbox.{others}",
                hint="Drop the scan into the inbox again.",
            )
        going_on = [job_id for job_id in released if job_id not in moved]
        words = _done("queued again", [job_id for job_id in ids if job_id not in going_on], moved, "ended")
        return words + (f"; what was set aside is tried again: {', '.join(map(str, going_on))}" if going_on else "")

    def _hand_over(self, ids: Sequence[int], model: str, now: datetime) -> str:
        """Have another model do jobs that wait or have ended; the latter are asked for again."""
        config = self._settings.now
        if model not in config.model_tables:
            raise UsageError(
                f"There is no model {model!r}.", hint=f"The configuration has {', '.join(config.model_tables)}."
            )
        with self._database.reader() as connection:
            waiting = identity.waiting(connection, ids)
        again = [job_id for job_id in ids if job_id not in waiting]
        words = self._retry(again, now) if again else ""

        def options(path: bytes) -> Options:
            return config.options_for(os.fsdecode(path), model=model)

        meant = meant_by(config.model_called(model))
        moved = self._database.write(lambda c: identity.hand_over(c, ids, options, meant=meant, now=now))
        done = _done(f"given to {model}", ids, moved, "waiting")
        return "; ".join(filter(None, (words, done)))

    def _has_bytes(self, job_id: int) -> bool:
        with self._database.reader() as connection:
            if connection.exec_driver_sql("SELECT 1 FROM job WHERE id = ?", (job_id,)).scalar() is None:
                raise UsageError(f"There is no job {job_id}.", hint="See `watcherd jobs`.")
        return self._refetch.bring_back(job_id)

    def _current(self, ids: Sequence[int]) -> list[int]:
        """The jobs that these numbers stand for: some were joined with others."""
        with self._database.reader() as connection:
            return list(dict.fromkeys(identity.current(connection, job_id) for job_id in ids))


def _ids(values: Any) -> list[int]:
    if not isinstance(values, list) or not all(isinstance(i, int) for i in values):
        raise UsageError("A command names its jobs by their numbers.")
    if len(values) > MOST_JOBS:
        raise UsageError(
            f"{len(values):,} jobs are more than the {MOST_JOBS:,} that one command may name.",
            hint="Name fewer, for example those of one --error-class.",
        )
    return values


def _done(what: str, asked: Sequence[int], moved: Sequence[int], condition: str) -> str:
    rest = [job_id for job_id in asked if job_id not in set(moved)]
    words = f"{len(moved)} {what}"
    return words + (f"; not {condition}, so left alone: {', '.join(map(str, rest))}" if rest else "")
