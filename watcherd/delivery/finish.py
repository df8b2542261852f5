"""Results appear under the names that they were promised, and that is recorded. Its thread is `finish`."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from watcherd.crash_points import crash_point
from watcherd.logs import get_logger
from watcherd.outbox.deliver import ResultLostError
from watcherd.set_aside import job_named
from watcherd.store import queue as jobs

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from watcherd.delivery.promise import Promised
    from watcherd.inbox.requests import IntakeRequests
    from watcherd.outbox.deliver import Outbox
    from watcherd.set_aside import Named
    from watcherd.state.run import Run
    from watcherd.store import Claim, Connection
    from watcherd.values import Intent


class Finish:
    """Publishes and records. It keeps nothing, so several threads may call it.

    `publish` is for the thread `finish`; `bring` serves the thread `stage` too (other names), and the start (recovery).
    """

    def __init__(
        self,
        run: Run,
        outbox: Outbox,
        requests: IntakeRequests,
        bell: threading.Event,
        ended: Callable[[], None],
    ) -> None:
        self._run = run
        self._outbox = outbox
        self._requests = requests
        self._bell = bell
        self._ended = ended
        self._log = get_logger()

    def publish(self, promised: Sequence[Promised]) -> None:
        """Let results appear under the names that they were promised, and record the jobs."""
        left = self._run.set_aside.each("publish", promised, _of_the_job, self._publish)
        for each in promised:
            if each in left:
                continue
            job, measured = each.drawn.flight.job, each.drawn.measured
            self._log.info(
                "job_succeeded",
                job_id=job.id,
                source=job.source,
                queue_ms=job.queue_ms,
                decode_ms=measured.decode_ms,
                inference_ms=measured.inference_ms,
                render_ms=measured.render_ms,
            )
        self.scans_ended()

    def _publish(self, promised: Sequence[Promised]) -> None:
        self.bring_jobs([(each.drawn.flight.job.claim, each.files) for each in promised])

    def bring_jobs(self, promised: Sequence[tuple[Claim, Sequence[Intent]]]) -> None:
        """Give what was promised to jobs its names, and record that they have succeeded."""
        claims = [claim for claim, _ in promised]
        named = [job_named(claim.job_id) for claim in claims]
        self.bring(named, [files for _, files in promised], partial(_finish, claims))

    def scans_ended(self) -> None:
        """Some scans are done with: their copies may go, and others may be told."""
        self._requests.scans_finished()
        self._ended()

    def bring(
        self, named: Sequence[Named], files: Sequence[Sequence[Intent]], record: Callable[[Connection], None]
    ) -> None:
        """Give what was promised its names, and ``record`` that.

        The results of one job that cannot appear as promised are computed again, and get another name then. Raises
        `ResultLostError` and OSError when that happens to one of several.
        """
        try:
            self._run.pauses.until_possible("outbox", partial(self._rename, named, files))
        except (ResultLostError, OSError) as error:
            if len(files) > 1:
                raise
            self._ask_again(named[0], record, error)
            return
        crash_point("deliver.synced")
        self._record(record)
        crash_point("record.committed")

    def _record(self, record: Callable[[Connection], None]) -> None:
        self._run.new_files_first.give_way()
        self._run.write(record)

    def _rename(self, named: Sequence[Named], files: Sequence[Sequence[Intent]]) -> None:
        with self._run.set_aside.marked("publish" if named[0].arrival_id is None else "names", named):
            self._outbox.publish(files)

    def _ask_again(self, named: Named, record: Callable[[Connection], None], error: Exception) -> None:
        job_id = named.job_id
        assert job_id is not None
        self._log.error("results_lost_so_asked_again", job_id=job_id, error=str(error))

        def work(connection: Connection) -> None:
            record(connection)
            jobs.ask_again(connection, [job_id], now=datetime.now(UTC), by_person=False)

        self._run.write(work)
        self._bell.set()


def _finish(claims: Sequence[Claim], connection: Connection) -> None:
    jobs.finish_delivery(connection, claims, now=datetime.now(UTC))
    crash_point("record.begun")


def _of_the_job(promised: Promised) -> Named:
    return job_named(promised.drawn.flight.id)
