"""The last stations: results get their final names, the record is written, the source leaves the inbox.

Many scans share each sync and each transaction. The order is what `watcherd.outbox.deliver` explains; `recover` runs
the same steps over what a crash has left.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from watcherd.crash_points import crash_point
from watcherd.delivery import documents
from watcherd.delivery.result_names import Names
from watcherd.file_names import show
from watcherd.inbox import sidecars
from watcherd.inbox.dispose import Source, dispose
from watcherd.inbox.unsteady import Unsteady
from watcherd.inbox.values import Signature
from watcherd.job import State
from watcherd.logs import get_logger
from watcherd.outbox.deliver import FOLDERS, Intent, Outbox, ResultLostError, Staged, suffix_of
from watcherd.pauses import check_room
from watcherd.set_aside import arrival_named, job_named
from watcherd.store import Intent as Promise
from watcherd.store import Staged as StagedJob
from watcherd.store import arrivals, deliveries, figures, history, leftovers
from watcherd.store import queue as jobs
from watcherd.store.records import stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from watcherd.config import Config
    from watcherd.flights import Drawn
    from watcherd.inbox.dispose import Disposal
    from watcherd.new_files_first import NewFilesFirst
    from watcherd.pauses import Pauses
    from watcherd.set_aside import Named, SetAside
    from watcherd.store import ArrivalInfo, Claim, ClaimedJob, Connection, Database

T = TypeVar("T")

AT_ONCE = 64
DISPOSED_AT_ONCE = 256
LOOKS_CHANGED = (
    "it looked changed twice when it was to leave the inbox, though its bytes are the same; it stays there now: "
    "see which program touches it, then archive it yourself"
)
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


@dataclass(frozen=True, slots=True)
class Promised:
    """A scan whose results have been promised names: the files with theirs."""

    drawn: Drawn
    files: Sequence[Promise]


class Delivery:
    """What happens to a scan after its results are drawn.

    One thread gives names (`promise`, `deliver_to_names`): two could give the same one twice. One calls `publish`, and
    one `dispose`.
    """

    def __init__(
        self,
        config: Config,
        database: Database,
        outbox: Outbox,
        pauses: Pauses,
        new_files_first: NewFilesFirst,
        set_aside: SetAside,
    ) -> None:
        self._config = config
        self._database = database
        self._outbox = outbox
        self._pauses = pauses
        self._new_files_first = new_files_first
        self._set_aside = set_aside
        self._log = get_logger()
        self._stuck: set[bytes] = set()
        self._unsteady = Unsteady()
        self.inbox_online: Callable[[], bool] = lambda: True
        self.source_left: Callable[[bytes], None] = lambda _path: None
        self.scans_finished: Callable[[], None] = lambda: None
        self.job_requeued: Callable[[], None] = lambda: None

    def reconfigure(self, config: Config) -> None:
        """Use another configuration from now on; the folders stay what they were."""
        self._config = config

    def check_outbox(self) -> None:
        """Raises OSError when results cannot be written at the moment."""
        self._outbox.prepare()
        check_room(self._config.outbox.path, self._config.limits.min_free_mib)
        self._outbox.try_to_write()

    def stage(self, job: ClaimedJob) -> Path:
        """An empty folder for the results of an attempt."""
        return self._outbox.staging(job.id, job.attempt)

    def unstage(self, job: ClaimedJob) -> None:
        """Remove it: the attempt has failed."""
        self._outbox.discard(job.id, job.attempt)

    # ---------------------------------------------------------------------------------------------- jobs that succeeded

    def promise(self, drawn: Sequence[Drawn]) -> tuple[list[Promised], list[tuple[Drawn, str]]]:
        """Give the results of these jobs their names, durably: from here on they will be delivered, come what may.

        Also returns those of which that failed, and why.
        """
        promised: list[Promised] = []

        def work(items: Sequence[Drawn]) -> None:
            promised.extend(self._promised(items))

        failed = self._set_aside.each("stage", drawn, _staging_of, work, waits=False)
        return promised, [(item, self._set_aside.reason(_staging_of(item).key)) for item in failed]

    def _promised(self, drawn: Sequence[Drawn]) -> list[Promised]:
        promises = self._pauses.until_possible("outbox", partial(self._promise_all, drawn))
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
        self._store(partial(self._begin, rows))
        crash_point("deliver.intended")
        return list(map(Promised, drawn, promises))

    def publish(self, promised: Sequence[Promised]) -> None:
        """Let results appear under the names that they were promised, and record the jobs."""
        left = self._set_aside.each("publish", promised, _of_the_job, self._publish_jobs)
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
        self.scans_finished()

    def _publish_jobs(self, promised: Sequence[Promised]) -> None:
        claims = [each.drawn.flight.job.claim for each in promised]
        named = list(map(_of_the_job, promised))
        self._bring(named, [each.files for each in promised], partial(_finish, claims))

    def publish_again(self) -> None:
        """Try results again that were promised, and set aside."""
        if self._set_aside.due():
            self._finish_promised("publish")

    def _promise_all(self, drawn: Sequence[Drawn]) -> list[list[Promise]]:
        """Choose names, take away earlier results of the same jobs, stage the JSON, and make all of it durable."""
        finished_at = stamp(datetime.now(UTC))
        wanted = [(item.flight.job.claim.arrival_id, item.flight.job.path) for item in drawn]
        with self._database.reader() as connection:
            given = self._names(connection, wanted, [file.kind for item in drawn for file in item.rendered.files])
            records = history.records(connection, [item.flight.id for item in drawn])
            beside = deliveries.notes(connection, [arrival_id for arrival_id, _ in wanted])
            promises = [
                self._promise(item, given, record, finished_at, beside.get(arrival_id))
                for item, (arrival_id, _) in zip(drawn, wanted, strict=True)
                if (record := records[item.flight.id])
            ]
        crash_point("stage.written")
        self._outbox.sync()
        crash_point("stage.synced")
        return promises

    def _names(self, connection: Connection, wanted: Sequence[tuple[int, bytes]], kinds: Sequence[str]) -> Names:
        """Names for these arrivals (id and path below the inbox), with what gives way to them taken away."""
        given = Names(connection, self._outbox, wanted, kinds)
        self._remove_earlier(
            [output for arrival_id, source in wanted for output in given.gives_way(arrival_id, source)]
        )
        return given

    def _promise(
        self, item: Drawn, given: Names, record: dict[str, Any], finished_at: str, beside: str | None = None
    ) -> list[Promise]:
        """A succeeded job's result files with their final names, the JSON last. ``beside``: said of the name."""
        self._new_files_first.give_way()
        job, measured, answer = item.flight.job, item.measured, item.answer
        stem = given.choose(job.path, job.sha256, [*(file.kind for file in item.rendered.files), "result"])
        staged = [
            Staged(
                kind=file.kind, path=file.path, suffix=suffix_of(file.path.name), sha256=file.sha256, bytes=file.bytes
            )
            for file in item.rendered.files
        ]
        intents = self._outbox.intents(stem, staged)
        decoded = item.flight.decoded
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
            **documents.of_the_source(decoded),
            **{name: getattr(answer, name) for name in ("answer", "decode", "threshold", "mask_fraction")},
            note=documents.joined(answer.note, beside),
            **{name: getattr(measured, name) for name in MEASURED},
            devices=[{name: getattr(use, name) for name in use.__slots__} for use in measured.devices],
            **documents.measures([frame.columns() for frame in item.measures]),
            **({"run": place.record(followed=item.segmented.followed)} if (place := item.flight.place) else {}),
        )
        folder = self._outbox.staging_of(job.id, job.attempt)
        return list(map(_promise, [*intents, self._stage_text(folder, stem, "result", document)]))

    def _stage_text(self, folder: Path, stem: bytes, kind: str, content: bytes) -> Intent:
        suffix = {"result": ".json", "failed": ".txt"}[kind]
        path = folder / f"{kind}{suffix}"
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        return self._outbox.intents(
            stem, [Staged(kind=kind, path=path, suffix=suffix, sha256=digest, bytes=len(content))]
        )[0]

    def _begin(self, rows: Sequence[StagedJob], connection: Connection) -> None:
        jobs.begin_delivery(connection, rows, now=datetime.now(UTC))
        crash_point("deliver.begun")

    def _bring(
        self, named: Sequence[Named], files: Sequence[Sequence[Promise]], record: Callable[[Connection], None]
    ) -> None:
        """Give what was promised its names, and ``record`` that.

        The results of one job that cannot appear as promised are computed again, and get another name then. Raises
        `ResultLostError` and OSError when that happens to one of several.
        """
        intents = [list(map(_intent, each)) for each in files]
        try:
            self._pauses.until_possible("outbox", partial(self._rename, named, intents))
        except (ResultLostError, OSError) as error:
            if len(files) > 1:
                raise
            self._ask_again(named[0], record, error)
            return
        crash_point("deliver.synced")
        self._record(record)
        crash_point("record.committed")

    def _record(self, record: Callable[[Connection], None]) -> None:
        self._new_files_first.give_way()
        self._store(record)

    def _rename(self, named: Sequence[Named], intents: Sequence[Sequence[Intent]]) -> None:
        with self._set_aside.marked("publish" if named[0].arrival_id is None else "names", named):
            self._outbox.publish(intents)

    def _ask_again(self, named: Named, record: Callable[[Connection], None], error: Exception) -> None:
        job_id = named.job_id
        assert job_id is not None
        self._log.error("results_lost_so_asked_again", job_id=job_id, error=str(error))

        def work(connection: Connection) -> None:
            record(connection)
            jobs.ask_again(connection, [job_id], now=datetime.now(UTC), by_person=False)

        self._store(work)
        self.job_requeued()

    def _remove_earlier(self, earlier: Sequence[Any]) -> None:
        """Take results of ours out of the outbox, the JSON first, and then out of the books."""
        if not earlier:
            return
        of_a_name: dict[int, list[Intent]] = {}
        for output in earlier:
            of_a_name.setdefault(output.arrival_id, []).append(_intent(output.intent))
        for intents in of_a_name.values():
            self._outbox.remove(intents)
        self._store(lambda c: deliveries.mark_removed(c, [output.id for output in earlier]))

    # ------------------------------------------------------------------------- other names, notes of failures, sources

    def deliver_to_names(self) -> None:
        """Deliver to names whose job has ended."""
        while due := self._read(lambda c: deliveries.arrivals_to_deliver(c, AT_ONCE, but=self._set_aside.held())):
            self._set_aside.each("names", due, _of_the_name, self._deliver_to_names)

    def dispose(self) -> None:
        """Take sources whose scans are done with out of the inbox; may run beside all else that is done here."""
        while self.inbox_online():
            held = self._set_aside.held()
            ended = self._read(lambda c: deliveries.arrivals_to_dispose(c, DISPOSED_AT_ONCE, but=held))  # noqa: B023
            if not ended:
                break
            self._set_aside.each("dispose", ended, _of_the_name, self._dispose)

    def _deliver_to_names(self, due: Sequence[ArrivalInfo]) -> None:
        """Copies of the results for duplicates, notes for scans that gave none; one sync for all."""
        promises = self._pauses.until_possible("outbox", partial(self._promise_names, due))
        given = [(arrival, promise) for arrival, promise in zip(due, promises, strict=True) if promise]
        lost = [arrival.job_id for arrival, promise in zip(due, promises, strict=True) if not promise]
        if lost:
            self._log.info("results_gone_so_asked_again", count=len(set(lost)))
            self._store(lambda c: jobs.ask_again(c, set(lost), now=datetime.now(UTC), by_person=False))
            self.job_requeued()
        if not given:
            return

        def begin(connection: Connection) -> None:
            for arrival, promise in given:
                deliveries.begin_redelivery(connection, arrival.id, promise)
            crash_point("deliver.begun")

        self._store(begin)
        crash_point("deliver.intended")
        self._set_aside.each("publish", given, lambda one: _results_of(one[0]), self._publish_names)
        self.scans_finished()

    def _publish_names(self, given: Sequence[tuple[ArrivalInfo, Sequence[Promise]]]) -> None:
        named = [_results_of(arrival) for arrival, _ in given]
        record = partial(_finish_names, [arrival.id for arrival, _ in given])
        self._bring(named, [files for _, files in given], record)

    def _promise_names(self, due: Sequence[ArrivalInfo]) -> list[list[Promise] | None]:
        with self._database.reader() as connection:
            wanted = [(arrival.id, arrival.signature.path) for arrival in due]
            given = self._names(connection, wanted, list(FOLDERS))
            records = history.records(connection, [arrival.job_id for arrival in due])
            beside = deliveries.notes(connection, [arrival.id for arrival in due])
            promises = [
                self._promise_name(connection, arrival, given, records[arrival.job_id], beside.get(arrival.id))
                for arrival in due
            ]
        crash_point("stage.written")
        self._outbox.sync()
        crash_point("stage.synced")
        return promises

    def _promise_name(
        self, connection: Connection, arrival: ArrivalInfo, given: Names, record: dict[str, Any], beside: str | None
    ) -> list[Promise] | None:
        """The results for one more name; None when those that it shares are gone from the outbox."""
        folder = self._outbox.staging(arrival.job_id, -arrival.id)
        path = arrival.signature.path
        if arrival.state is not State.SUCCEEDED:
            note = documents.failure_note(record, arrival.source, beside)
            stem = given.choose(path, arrival.sha256, ["failed"])
            return [_promise(self._stage_text(folder, stem, "failed", note))]
        staged = self._copies(connection, arrival, folder)
        if staged is None:
            return None
        stem = given.choose(path, arrival.sha256, [*(file.kind for file in staged), "result"])
        intents = self._outbox.intents(stem, staged)
        document = documents.result_json(
            record,
            intents,
            source=arrival.source,
            duplicate_of=arrival.job_id,
            same_as=record["source"],
            note=documents.joined(record["note"], beside),
            **documents.measures(figures.of_job(connection, arrival.job_id)),
        )
        return list(map(_promise, [*intents, self._stage_text(folder, stem, "result", document)]))

    def _copies(self, connection: Connection, arrival: ArrivalInfo, folder: Path) -> list[Staged] | None:
        first = leftovers.first_arrival(connection, arrival.job_id)
        staged = []
        for output in deliveries.outputs_of(connection, first):
            intent = output.intent
            if intent.kind == "result":
                continue
            suffix = suffix_of(os.fsdecode(intent.final))
            path = self._outbox.copy(intent.final, intent.sha256, folder, f"{intent.kind}{suffix}")
            if path is None:
                return None
            staged.append(Staged(kind=intent.kind, path=path, suffix=suffix, sha256=intent.sha256, bytes=intent.bytes))
        return staged or None

    def _dispose(self, ended: Sequence[ArrivalInfo]) -> None:
        crash_point("dispose.begun")
        self._new_files_first.give_way()
        inbox = self._config.inbox
        sources = [
            Source(
                path=arrival.signature.path,
                signature=Signature(
                    size=arrival.signature.size_bytes,
                    mtime_ns=arrival.signature.mtime_ns,
                    device=arrival.signature.device,
                    inode=arrival.signature.inode,
                ),
                sha256=arrival.sha256,
                ctime_ns=arrival.signature.ctime_ns,
                how=inbox.on_success if arrival.state is State.SUCCEEDED else inbox.on_failure,
                failed=arrival.state is not State.SUCCEEDED,
            )
            for arrival in ended
        ]
        sources = [self._unsteady.spared(source) for source in sources]
        disposals = dispose(sources, inbox=inbox.path, archive=inbox.archive_path)
        rows = [
            (arrival.id, disposal.result, disposal.archived_as)
            for arrival, disposal in zip(ended, disposals, strict=True)
        ]
        beside = self._dispose_sidecars(sources, disposals)

        def record(connection: Connection) -> None:
            arrivals.record_disposal(connection, rows, now=datetime.now(UTC))
            arrivals.record_sidecars(connection, beside, now=datetime.now(UTC))

        self._store(record)
        crash_point("dispose.recorded")
        for source, disposal in zip(sources, disposals, strict=True):
            self.source_left(disposal.path)
            if self._unsteady.noted(source, disposal):
                self._log.warning("source_left_in_inbox", source=show(source.path), reason=LOOKS_CHANGED)
            if disposal.result != "failed":
                self._stuck.discard(disposal.path)
            elif disposal.path not in self._stuck:
                self._stuck.add(disposal.path)
                self._log.warning("source_not_disposed", source=show(disposal.path), error=disposal.reason)

    def _dispose_sidecars(
        self, scans: Sequence[Source], disposals: Sequence[Disposal]
    ) -> list[tuple[int, Any, bytes | None]]:
        """Sidecars go where their scans went, before that is recorded: a crash in between does both again."""
        places = sidecars.beside(scans, disposals)
        followed = self._read(lambda c: arrivals.sidecars(c, list(places)))
        inbox = self._config.inbox
        sources: list[tuple[int, Source]] = []
        for path, (arrival_id, seen) in followed.items():
            signature = Signature(size=seen.size_bytes, mtime_ns=seen.mtime_ns, device=seen.device, inode=seen.inode)
            source = sidecars.leaving(inbox.path, path, signature, *places[path])
            if source is not None:
                sources.append((arrival_id, source))
        if not sources:
            return []
        left = dispose([source for _, source in sources], inbox=inbox.path, archive=inbox.archive_path)
        for disposal in left:
            if disposal.result == "failed":
                self._log.warning("sidecar_not_disposed", source=show(disposal.path), error=disposal.reason)
        return [
            (arrival_id, disposal.result, disposal.archived_as)
            for (arrival_id, _), disposal in zip(sources, left, strict=True)
            if disposal.result != "failed"
        ]

    # ------------------------------------------------------------------------------------------------------ recovery

    def recover(self) -> None:
        """Finish what the last run had promised, and remove what it had only begun."""
        self._finish_promised("recover")
        crash_point("recover.delivered")
        self._pauses.until_possible("outbox", self._discard_staging)

    def _discard_staging(self) -> None:
        """What is still promised stays."""
        promised, waiting = self._all_promised()
        kept = {intent.staged.parent for _, intents in (*promised, *waiting) for intent in intents}
        self._outbox.discard_staging(kept)

    def _finish_promised(self, loop: str) -> None:
        """Bring what is promised in the history, be it from an earlier run, or because it was set aside."""
        promised, waiting = self._pauses.until_possible("state", self._all_promised)
        if loop != "recover":  # others are on their way
            jobs_aside, names_aside = self._set_aside.results()
            promised = [one for one in promised if one[0].job_id in jobs_aside]
            waiting = [one for one in waiting if one[0].id in names_aside]
        self._set_aside.each(loop, promised, lambda one: job_named(one[0].job_id), self._finish_jobs)
        self._set_aside.each(loop, waiting, lambda one: _results_of(one[0]), self._publish_names)

    def _finish_jobs(self, promised: Sequence[tuple[Claim, Sequence[Promise]]]) -> None:
        claims = [claim for claim, _ in promised]
        named = [job_named(claim.job_id) for claim in claims]
        self._bring(named, [files for _, files in promised], partial(_finish, claims))

    def _all_promised(self) -> tuple[list[tuple[Claim, list[Promise]]], list[tuple[ArrivalInfo, list[Promise]]]]:
        """Of jobs and of further names: whose results were promised, and which."""
        with self._database.reader() as connection:
            names = []
            for arrival in deliveries.arrivals_promised(connection):
                outputs = deliveries.outputs_of(connection, arrival.id)
                names.append((arrival, [output.intent for output in outputs if output.state == "intended"]))
            return jobs.delivering_jobs(connection), names

    def _read(self, work: Callable[[Connection], T]) -> T:
        """Read, and while the database cannot be read pause and try again."""

        def read() -> T:
            with self._database.reader() as connection:
                return work(connection)

        return self._pauses.until_possible("state", read)

    def _store(self, work: Callable[[Connection], Any]) -> Any:
        """Write, and while the database cannot be written pause and try again."""
        return self._pauses.until_possible("state", lambda: self._database.write(work))


def _finish(claims: Sequence[Claim], connection: Connection) -> None:
    jobs.finish_delivery(connection, claims, now=datetime.now(UTC))
    crash_point("record.begun")


def _finish_names(arrival_ids: Sequence[int], connection: Connection) -> None:
    deliveries.finish_redelivery(connection, arrival_ids, now=datetime.now(UTC))


def _staging_of(drawn: Drawn) -> Named:
    return job_named(drawn.flight.id, "stage")


def _of_the_job(promised: Promised) -> Named:
    return job_named(promised.drawn.flight.id)


def _of_the_name(arrival: ArrivalInfo) -> Named:
    return arrival_named(arrival.id, arrival.job_id, arrival.source)


def _results_of(arrival: ArrivalInfo) -> Named:
    return arrival_named(arrival.id, arrival.job_id, arrival.source, "results")


def _promise(intent: Intent) -> Promise:
    return Promise(kind=intent.kind, staged=intent.staged, final=intent.final, sha256=intent.sha256, bytes=intent.bytes)


def _intent(promise: Promise) -> Intent:
    return Intent(
        kind=promise.kind, staged=promise.staged, final=promise.final, sha256=promise.sha256, bytes=promise.bytes
    )
