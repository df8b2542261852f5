"""Promises that are still open: those of the last run at the start, and later those that were set aside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watcherd.crash_points import crash_point
from watcherd.delivery.other_names import results_of
from watcherd.set_aside import job_named
from watcherd.store import deliveries
from watcherd.store import queue as jobs

if TYPE_CHECKING:
    from watcherd.delivery.finish import Finish
    from watcherd.delivery.other_names import OtherNames
    from watcherd.outbox.deliver import Outbox
    from watcherd.state.run import Run
    from watcherd.store import ArrivalInfo, Claim
    from watcherd.values import Intent

    Open = tuple[list[tuple[Claim, list[Intent]]], list[tuple[ArrivalInfo, list[Intent]]]]


class Recovery:
    """Finishes what the history says was promised. It keeps nothing: `recover` is for the start, `publish_again` for
    the thread `finish`."""

    def __init__(self, run: Run, outbox: Outbox, finish: Finish, other_names: OtherNames) -> None:
        self._run = run
        self._outbox = outbox
        self._finish = finish
        self._other_names = other_names

    def recover(self) -> None:
        """Finish what the last run had promised, and remove what it had only begun."""
        self._finish_promised("recover")
        crash_point("recover.delivered")
        self._run.pauses.until_possible("outbox", self._discard_staging)

    def publish_again(self) -> bool:
        """Try results again that were promised, and set aside; whether any were due.

        Then other names may have theirs, and sources leave the inbox.
        """
        if not self._run.set_aside.due():
            return False
        self._finish_promised("publish")
        self._finish.scans_ended()
        return True

    def _discard_staging(self) -> None:
        """What is still promised stays."""
        promised, waiting = self._all_promised()
        staged = [intent.staged for _, intents in (*promised, *waiting) for intent in intents]
        self._outbox.discard_staging({*staged, *(path.parent for path in staged)})

    def _finish_promised(self, loop: str) -> None:
        """Bring what is promised in the history, be it from an earlier run, or because it was set aside."""
        set_aside = self._run.set_aside
        promised, waiting = self._run.pauses.until_possible("state", self._all_promised)
        if loop != "recover":  # others are on their way
            jobs_aside, names_aside = set_aside.results()
            promised = [one for one in promised if one[0].job_id in jobs_aside]
            waiting = [one for one in waiting if one[0].id in names_aside]
        set_aside.each(loop, promised, lambda one: job_named(one[0].job_id), self._finish.bring_jobs)
        set_aside.each(loop, waiting, results_of, self._other_names.publish)

    def _all_promised(self) -> Open:
        """Of jobs and of further names: whose results were promised, and which."""
        with self._run.database.reader() as connection:
            names = []
            for arrival in deliveries.arrivals_promised(connection):
                outputs = deliveries.outputs_of(connection, arrival.id)
                names.append((arrival, [output.intent for output in outputs if output.state == "intended"]))
            return jobs.delivering_jobs(connection), names
