"""The station behind drawing: results are promised names, failures recorded or tried again. Its thread is `stage`."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from watcherd.crash_points import crash_point
from watcherd.errors import NoMaskError, StaleJobError, TransientError
from watcherd.flights import Drawn, Failed
from watcherd.inference.messages import Segmented
from watcherd.job import State
from watcherd.logs import get_logger
from watcherd.pauses import StoppedError
from watcherd.pipeline.belts import come_together
from watcherd.pipeline.landing import named
from watcherd.retry import decide
from watcherd.store import Failure
from watcherd.store import queue as jobs

if TYPE_CHECKING:
    from watcherd.delivery.other_names import OtherNames
    from watcherd.delivery.promise import Promises
    from watcherd.flights import Flight
    from watcherd.pipeline.belts import Belts
    from watcherd.pipeline.draw import Draw
    from watcherd.pipeline.landing import Landing
    from watcherd.retry import Decision
    from watcherd.state.run import Run
    from watcherd.store import Connection

RENDERS_TRIED = 3


class Stage:
    """Promises and records. All of it runs in the thread `stage`."""

    def __init__(
        self,
        run: Run,
        promises: Promises,
        other_names: OtherNames,
        draw: Draw,
        landing: Landing,
        belts: Belts,
    ) -> None:
        self._run = run
        self._promises = promises
        self._other_names = other_names
        self._draw = draw
        self._landing = landing
        self._belts = belts
        self._log = get_logger()

    def run(self) -> None:
        """Promise results their names, and record failures, until no more will come and everything is done."""
        more = True
        try:
            while more or not self._belts.results.empty():
                more = self._turn()
        except StoppedError:
            return
        finally:
            self._belts.promised.put(None)

    def _turn(self) -> bool:
        """Whatever has come together since the last time; False once there will be no more."""
        came = come_together(self._belts.results)
        drawn = [result for result in came if isinstance(result, Drawn)]
        failed = [result for result in came if isinstance(result, Failed)]
        if drawn:
            promised, in_vain = self._promises.promise(drawn)
            self._belts.promised.put(promised)
            failed += [Failed(item.flight, TransientError(why), alone=True, drawn=True) for item, why in in_vain]
        for result in failed:
            self._record_as_failed(result)
        if len(drawn) < len(came):
            self._other_names.deliver()
            self._belts.left.set()
        return not self._belts.ending.is_set()

    def _record_as_failed(self, failed: Failed) -> None:
        """A failure that cannot be recorded as it is, is recorded as that."""
        flight, set_aside = failed.flight, self._run.set_aside
        item = named("failure of", flight)
        if not set_aside.alone("stage", item, partial(self._fail, failed), waits=False):
            error = TransientError(set_aside.reason(item.key))
            self._fail(Failed(flight, error, alone=True, drawn=True))

    def _fail(self, failed: Failed) -> None:
        """Record a failure: tried again later, alone, or given up."""
        flight, error = failed.flight, failed.error
        if self._may_draw_again(failed):
            return
        decision = decide(
            error.error_class,
            attempts=flight.job.tries,
            crashes_alone=flight.job.crashes_alone,
            solo=flight.job.solo or failed.alone,
            now=datetime.now(UTC),
            random=random.random,
        )
        if isinstance(flight.answer, Segmented):
            self._promises.discard(flight.job)
        answer = error.answer if isinstance(error, NoMaskError) else None
        failure = Failure(error_class=error.error_class, error=error.message, advice=error.hint, answer=answer)
        try:
            self._run.write(lambda c: _record_failure(c, flight, failure, decision))
        except StaleJobError as stale:
            self._log.error("job_moved_meanwhile", job_id=flight.id, error=str(stale))
        else:
            self._tell(flight, failure, decision)
            if decision.state is not State.QUEUED:
                self._run.set_aside.job_ended(flight.id)
        self._landing.land([flight])

    def _may_draw_again(self, failed: Failed) -> bool:
        """A full outbox is not the scan's fault: wait until it can be written, then draw once more."""
        flight, answer = failed.flight, failed.flight.answer
        if failed.drawn or not isinstance(answer, Segmented) or not isinstance(failed.error, TransientError):
            return False
        flight.renders += 1
        if flight.renders > RENDERS_TRIED:
            return False
        self._run.pauses.until_possible("outbox", self._promises.check_outbox)
        self._draw.render(flight, answer)
        return True

    def _tell(self, flight: Flight, failure: Failure, decision: Decision) -> None:
        event = {State.QUEUED: "job_retried", State.QUARANTINED: "job_quarantined"}.get(decision.state, "job_failed")
        self._log.warning(
            event,
            job_id=flight.id,
            source=flight.job.source,
            error_class=failure.error_class.value,
            error=failure.error,
            reason=decision.why,
        )
        if decision.state is State.QUEUED and decision.not_before is not None:
            self._belts.due.tell(decision.not_before)
            self._belts.bell.set()


def _record_failure(connection: Connection, flight: Flight, failure: Failure, decision: Decision) -> None:
    now, claim, measured = datetime.now(UTC), flight.job.claim, flight.measured()
    if decision.state is State.QUEUED:
        jobs.retry_later(connection, claim, failure, decision, now=now, measured=measured)
    else:
        jobs.give_up(connection, claim, failure, decision, now=now, measured=measured)
    crash_point("record.begun")
