"""Results for names besides a job's first: copies for duplicates, notes for scans that gave none. Thread: `stage`."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from watcherd.crash_points import crash_point
from watcherd.delivery import documents
from watcherd.delivery.promise import Wanted
from watcherd.job import State
from watcherd.logs import get_logger
from watcherd.outbox.deliver import suffix_of
from watcherd.outputs import BY_NAME
from watcherd.set_aside import arrival_named
from watcherd.store import deliveries, figures, history, leftovers
from watcherd.store import queue as jobs
from watcherd.values import ResultFile

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence
    from pathlib import Path

    from watcherd.delivery.finish import Finish
    from watcherd.delivery.promise import Promises
    from watcherd.delivery.result_names import Names
    from watcherd.outbox.deliver import Outbox
    from watcherd.set_aside import Named
    from watcherd.state.run import Run
    from watcherd.store import ArrivalInfo, Connection
    from watcherd.values import Intent

AT_ONCE = 64


class OtherNames:
    """Delivers to names whose job has ended. Only the thread `stage` calls `deliver`: it gives names."""

    def __init__(self, run: Run, outbox: Outbox, promises: Promises, finish: Finish, bell: threading.Event) -> None:
        self._run = run
        self._outbox = outbox
        self._promises = promises
        self._finish = finish
        self._bell = bell
        self._log = get_logger()

    def deliver(self) -> None:
        """Deliver to all names that wait for it."""
        set_aside = self._run.set_aside
        while due := self._run.read(lambda c: deliveries.arrivals_to_deliver(c, AT_ONCE, but=set_aside.held())):
            set_aside.each("names", due, arrival_named, self._deliver)

    def _deliver(self, due: Sequence[ArrivalInfo]) -> None:
        """Copies of the results for duplicates, notes for scans that gave none; one sync for all."""
        promises = self._run.pauses.until_possible("outbox", partial(self._promise_all, due))
        given = [(arrival, promise) for arrival, promise in zip(due, promises, strict=True) if promise]
        lost = [arrival.job_id for arrival, promise in zip(due, promises, strict=True) if not promise]
        if lost:
            self._log.info("results_gone_so_asked_again", count=len(set(lost)))
            self._run.write(lambda c: jobs.ask_again(c, set(lost), now=datetime.now(UTC), by_person=False))
            self._bell.set()
        if not given:
            return

        def begin(connection: Connection) -> None:
            for arrival, promise in given:
                deliveries.begin_redelivery(connection, arrival.id, promise)
            crash_point("deliver.begun")

        self._run.write(begin)
        crash_point("deliver.intended")
        self._run.set_aside.each("publish", given, results_of, self.publish)
        self._finish.scans_ended()

    def publish(self, given: Sequence[tuple[ArrivalInfo, Sequence[Intent]]]) -> None:
        """Give these names what was promised to them, and record that. For the start and the thread `finish`, too."""
        record = partial(_finish_names, [arrival.id for arrival, _ in given])
        self._finish.bring(list(map(results_of, given)), [files for _, files in given], record)

    def _promise_all(self, due: Sequence[ArrivalInfo]) -> list[list[Intent] | None]:
        with self._run.database.reader() as connection:
            wanted = [Wanted(arrival.id, arrival.signature.path, arrival.beside) for arrival in due]
            given = self._promises.names(connection, wanted, list(BY_NAME))
            records = history.records(connection, [arrival.job_id for arrival in due])
            notes = deliveries.notes(connection, [arrival.id for arrival in due])
            promises = [
                self._promise(connection, each, given[each.beside], records[each.job_id], notes.get(each.id))
                for each in due
            ]
        crash_point("stage.written")
        self._outbox.sync()
        crash_point("stage.synced")
        return promises

    def _promise(
        self, connection: Connection, arrival: ArrivalInfo, given: Names, record: dict[str, Any], beside: str | None
    ) -> list[Intent] | None:
        """The results for one more name; None when those that it shares are gone from the outbox."""
        folder = self._outbox.staging(arrival.job_id, -arrival.id)
        path = arrival.signature.path
        if arrival.state is not State.SUCCEEDED:
            note = documents.failure_note(record, arrival.source, beside)
            stem = given.choose(path, arrival.sha256, ["failed"])
            return [self._promises.text(given, folder, stem, "failed", note)]
        copies = self._copies(connection, arrival, folder)
        if copies is None:
            return None
        stem = given.choose(path, arrival.sha256, [*(file.kind for file in copies), "result"])
        intents = given.intents(stem, copies)
        document = documents.result_json(
            record,
            intents,
            source=arrival.source,
            duplicate_of=arrival.job_id,
            same_as=record["source"],
            note=documents.joined(record["note"], beside),
            **documents.measures(figures.of_job(connection, arrival.job_id)),
        )
        return [*intents, self._promises.text(given, folder, stem, "result", document)]

    def _copies(self, connection: Connection, arrival: ArrivalInfo, folder: Path) -> list[ResultFile] | None:
        first = leftovers.first_arrival(connection, arrival.job_id)
        copies = []
        for output in deliveries.outputs_of(connection, first):
            intent = output.intent
            if intent.kind == "result":
                continue
            name = f"{intent.kind}{suffix_of(os.fsdecode(intent.final))}"
            path = self._outbox.copy(intent.final, intent.sha256, folder, name)
            if path is None:
                return None
            copies.append(ResultFile(kind=intent.kind, path=path, sha256=intent.sha256, bytes=intent.bytes))
        return copies or None


def results_of(given: tuple[ArrivalInfo, Sequence[Intent]]) -> Named:
    """The results of a name, as what may be set aside."""
    return arrival_named(given[0], "results")


def _finish_names(arrival_ids: Sequence[int], connection: Connection) -> None:
    deliveries.finish_redelivery(connection, arrival_ids, now=datetime.now(UTC))
