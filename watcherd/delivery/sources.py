"""Sources whose scans are done with leave the inbox, and their sidecars with them. Its thread is `dispose`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from watcherd.crash_points import crash_point
from watcherd.file_names import show
from watcherd.inbox import sidecars
from watcherd.inbox.archive import Source, dispose
from watcherd.inbox.unsteady import Unsteady
from watcherd.job import State
from watcherd.logs import get_logger
from watcherd.set_aside import arrival_named
from watcherd.store import arrivals, deliveries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watcherd.inbox.archive import Disposal
    from watcherd.inbox.requests import IntakeRequests
    from watcherd.state.run import Run
    from watcherd.store import ArrivalInfo, Connection

AT_ONCE = 256
LOOKS_CHANGED = (
    "it looked changed twice when it was to leave the inbox, though its bytes are the same; it stays there now: "
    "see which program touches it, then archive it yourself"
)


class Sources:
    """The sources that are to leave the inbox. Only the thread `dispose` calls it, beside all else in the delivery."""

    def __init__(self, run: Run, requests: IntakeRequests) -> None:
        self._run = run
        self._requests = requests
        self._log = get_logger()
        self._stuck: set[bytes] = set()
        self._unsteady = Unsteady()

    def dispose(self) -> None:
        """Take sources whose scans are done with out of the inbox."""
        while self._requests.inbox_online:
            held = self._run.set_aside.held()
            ended = self._run.read(lambda c: deliveries.arrivals_to_dispose(c, AT_ONCE, but=held))  # noqa: B023
            if not ended:
                break
            self._run.set_aside.each("dispose", ended, arrival_named, self._dispose)

    def _dispose(self, ended: Sequence[ArrivalInfo]) -> None:
        crash_point("dispose.begun")
        self._run.new_files_first.give_way()
        inbox = self._run.config.inbox
        sources = [
            Source(
                path=arrival.signature.path,
                signature=arrival.signature.of_file,
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

        self._run.write(record)
        crash_point("dispose.recorded")
        for source, disposal in zip(sources, disposals, strict=True):
            self._requests.source_left(disposal.path)
            self._say(source, disposal)

    def _say(self, source: Source, disposal: Disposal) -> None:
        """What people are to know of it: each thing once."""
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
        followed = self._run.read(lambda c: arrivals.sidecars(c, list(places)))
        inbox = self._run.config.inbox
        sources: list[tuple[int, Source]] = []
        for path, (arrival_id, seen) in followed.items():
            source = sidecars.leaving(inbox.path, path, seen.of_file, *places[path])
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
