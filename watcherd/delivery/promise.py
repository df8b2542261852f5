"""Results get their names: what is drawn and staged is promised to the outbox, durably. Its thread is `stage`.

Many scans share each sync and each transaction. The order is what `watcherd.outbox.deliver` explains.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from watcherd.crash_points import crash_point
from watcherd.delivery import documents
from watcherd.delivery.result_names import Names
from watcherd.files import write_new
from watcherd.job import State
from watcherd.outputs import BY_NAME
from watcherd.pauses import check_room
from watcherd.set_aside import job_named
from watcherd.store import StagedJob, deliveries, history
from watcherd.store import queue as jobs
from watcherd.store.records import stamp
from watcherd.values import ResultFile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from watcherd.flights import Drawn
    from watcherd.outbox.deliver import Outbox
    from watcherd.set_aside import Named
    from watcherd.state.run import Run
    from watcherd.store import ClaimedJob, Connection, Output
    from watcherd.values import Intent

MEASURED = (
    "decode_ms",
    "inference_ms",
    "render_ms",
    "batch_size",
    "host_peak_rss_mib",
    "width",
    "height",
    "frames",
    "format",
)
"""What is measured and stands in a job's record under the same name."""


class Wanted(NamedTuple):
    """An arrival that is to have results, and its path below the inbox.

    ``model``: the one in whose folder they lie; empty: they have the usual paths.
    """

    arrival_id: int
    source: bytes
    model: str = ""


@dataclass(frozen=True, slots=True)
class Promised:
    """A scan whose results have been promised names: the files with theirs."""

    drawn: Drawn
    files: Sequence[Intent]


class Promises:
    """Gives the results of jobs their names. Only the thread `stage` calls it: two could give the same name twice.

    Replicas' threads ask it where to draw (`seat`), and may: it keeps nothing.
    """

    def __init__(self, run: Run, outbox: Outbox) -> None:
        self._run = run
        self._outbox = outbox

    def check_outbox(self) -> None:
        """Raises OSError when results cannot be written at the moment."""
        config = self._run.config
        self._outbox.prepare()
        check_room(config.outbox.path, config.limits.min_free_mib)
        self._outbox.try_to_write()

    def seat(self, job: ClaimedJob) -> tuple[Path, str]:
        """The folder in which the results of an attempt are drawn, and what their names begin with."""
        return self._outbox.seat(job.id, job.attempt, anew=True)

    def discard(self, job: ClaimedJob) -> None:
        """Remove it: the attempt has failed."""
        self._outbox.discard(job.id, job.attempt)

    def promise(self, drawn: Sequence[Drawn]) -> tuple[list[Promised], list[tuple[Drawn, str]]]:
        """Give the results of these jobs their names, durably: from here on they will be delivered, come what may.

        Also returns those of which that failed, and why.
        """
        promised: list[Promised] = []

        def work(items: Sequence[Drawn]) -> None:
            promised.extend(self._promised(items))

        set_aside = self._run.set_aside
        failed = set_aside.each("stage", drawn, _staging_of, work, waits=False)
        return promised, [(item, set_aside.reason(_staging_of(item).key)) for item in failed]

    def _promised(self, drawn: Sequence[Drawn]) -> list[Promised]:
        promises = self._run.pauses.until_possible("outbox", partial(self._promise_all, drawn))
        rows = [
            StagedJob(
                claim=item.flight.job.claim,
                intents=promise,
                measured=item.measured,
                answer=item.answer,
                measures=item.measures,
                attributes=item.attributes,
            )
            for item, promise in zip(drawn, promises, strict=True)
        ]
        self._run.write(partial(_begin, rows))
        crash_point("deliver.intended")
        return list(map(Promised, drawn, promises))

    def _promise_all(self, drawn: Sequence[Drawn]) -> list[list[Intent]]:
        """Choose names, take away earlier results of the same jobs, stage the JSON, and make all of it durable."""
        finished_at = stamp(datetime.now(UTC))
        wanted = [Wanted(job.claim.arrival_id, job.path, job.beside) for item in drawn if (job := item.flight.job)]
        with self._run.database.reader() as connection:
            given = self.names(connection, wanted, [file.kind for item in drawn for file in item.rendered.files])
            records = history.records(connection, [item.flight.id for item in drawn])
            notes = deliveries.notes(connection, [name.arrival_id for name in wanted])
            promises = [
                self._promise(item, given[name.model], record, finished_at, notes.get(name.arrival_id))
                for item, name in zip(drawn, wanted, strict=True)
                if (record := records[item.flight.id])
            ]
        crash_point("stage.written")
        self._outbox.sync()
        crash_point("stage.synced")
        return promises

    def _promise(
        self, item: Drawn, given: Names, record: dict[str, Any], finished_at: str, beside: str | None = None
    ) -> list[Intent]:
        """A succeeded job's result files with their final names, the JSON last. ``beside``: said of the name."""
        self._run.new_files_first.give_way()
        job, measured, answer, files = item.flight.job, item.measured, item.answer, item.rendered.files
        stem = given.choose(job.path, job.sha256, [*(file.kind for file in files), "result"])
        intents = given.intents(stem, files)
        document = documents.result_json(
            record,
            intents,
            state=State.SUCCEEDED.value,
            finished_at=finished_at,
            error=None,
            error_class=None,
            advice=None,
            labels=item.segmented.labels,
            **item.flight.model.columns(),
            **documents.of_the_source(item.flight.decoded),
            **{name: getattr(answer, name) for name in ("answer", "decode", "threshold", "mask_fraction")},
            note=documents.joined(answer.note, beside),
            **{name: getattr(measured, name) for name in MEASURED},
            devices=[use.columns() for use in measured.devices],
            **documents.measures([frame.columns() for frame in item.measures]),
            **({"run": place.record(followed=item.segmented.followed)} if (place := item.flight.place) else {}),
        )
        folder, name = self._outbox.seat(job.id, job.attempt)
        return [*intents, self._text(given, folder / f"{name}.result.json", stem, "result", document)]

    # ------------------------------------------------------------------------------- for the results of other names too

    def names(self, connection: Connection, wanted: Sequence[Wanted], kinds: Sequence[str]) -> dict[str, Names]:
        """Names for these arrivals, by the model of the folder, with what gives way to them taken away."""
        of_models: dict[str, list[Wanted]] = {}
        for name in wanted:
            of_models.setdefault(name.model, []).append(name)
        given = {}
        earlier: list[Output] = []
        for model, those in of_models.items():
            pairs = [(name.arrival_id, name.source) for name in those]
            given[model] = names = Names(connection, self._outbox.of_model(model), pairs, kinds)
            earlier += [output for pair in pairs for output in names.gives_way(*pair)]
        self._remove_earlier(earlier)
        return given

    def text(self, given: Names, folder: Path, stem: bytes, kind: str, content: bytes) -> Intent:
        """Stage a result that is text, with its final name."""
        return self._text(given, folder / f"{kind}{BY_NAME[kind].suffixes[0]}", stem, kind, content)

    def _text(self, given: Names, path: Path, stem: bytes, kind: str, content: bytes) -> Intent:
        write_new(path, content)
        digest = hashlib.sha256(content).hexdigest()
        return given.intents(stem, [ResultFile(kind=kind, path=path, sha256=digest, bytes=len(content))])[0]

    def _remove_earlier(self, earlier: Sequence[Any]) -> None:
        """Take results of ours out of the outbox, the JSON first, and then out of the books."""
        if not earlier:
            return
        of_a_name: dict[int, list[Intent]] = {}
        for output in earlier:
            of_a_name.setdefault(output.arrival_id, []).append(output.intent)
        for intents in of_a_name.values():
            self._outbox.remove(intents)
        self._run.write(lambda c: deliveries.mark_removed(c, [output.id for output in earlier]))


def _begin(rows: Sequence[StagedJob], connection: Connection) -> None:
    jobs.begin_delivery(connection, rows, now=datetime.now(UTC))
    crash_point("deliver.begun")


def _staging_of(drawn: Drawn) -> Named:
    return job_named(drawn.flight.id, "stage")
