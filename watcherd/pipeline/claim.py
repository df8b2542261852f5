"""What is taken from the queue, and when: as much as the replicas take soon, and the run folder holds."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from watcherd.crash_points import crash_point
from watcherd.formats.sniff import HEAD, pictures
from watcherd.frame_files import LONGEST, as_frame
from watcherd.inbox.sidecars import Asked
from watcherd.pauses import check_room, in_words, is_passing
from watcherd.pipeline.turns import Standing, Turns
from watcherd.store import Hold, InUse
from watcherd.store import queue as jobs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from watcherd.flights import Flight, Flights
    from watcherd.inbox.expected import Expected
    from watcherd.inference.pool.lanes import Lane, Lanes
    from watcherd.job import Options
    from watcherd.pipeline.belts import Belts
    from watcherd.pipeline.places import Places
    from watcherd.state.run import Run
    from watcherd.store import ClaimedJob, Connection, ModelIdentity

BATCHES_UNDER_WAY = 6
"""Batches, besides two for each replica, that may be decoded, drawn and delivered at a time: a model that is faster
than the disk must not fill the run folder."""


class Claims:
    """Claims jobs, for one lane at a time. Only the thread `feed` calls it.

    The database's thread asks `_options` and `_pictures` while it claims, and `Expected` whether more frames may come.
    """

    def __init__(
        self,
        run: Run,
        lanes: Lanes[ModelIdentity],
        expected: Expected,
        places: Places,
        flights: Flights,
        belts: Belts,
    ) -> None:
        self._run = run
        self._lanes = lanes
        self._turns = Turns()
        self._expected = expected
        self._places = places
        self._flights = flights
        self._belts = belts

    def may_claim(self) -> bool:
        """Whether there is room for more, and nobody has paused or stopped the work."""
        there_is_room = self.run_folder_has_room()  # asked in any case: it is shown while there is none
        return (
            there_is_room
            and not self._belts.held.is_set()
            and not self._run.stopping.is_set()
            and self.replicas_have_room()
        )

    def run_folder_has_room(self) -> bool:
        """Whether decoded scans can be written; a pause that is shown, unless it is our own that fill the folder."""
        try:
            check_room(self._places.scratch, max(1, self._run.config.limits.min_free_mib))
        except OSError as error:
            if not is_passing(error):
                raise
            if not self._flights.count:
                self._run.pauses.set("run folder", in_words(error))
            return False
        self._run.pauses.clear("run folder")
        return True

    def replicas_have_room(self) -> bool:
        """Whether a replica of any model would take another batch soon, and what comes after them keeps up."""
        return any(map(self._has_room, self._lanes.carried()))

    def _has_room(self, lane: Lane[ModelIdentity]) -> bool:
        try:
            pool, limit = lane.pool, lane.batch_limit()
        except LookupError:  # its replicas go just now
            return False
        batches = BATCHES_UNDER_WAY + 2 * len(pool.status())
        return pool.has_room() and self._flights.count_of(lane.name) < batches * limit

    def claim(self, *, but: str | None = None) -> list[Flight]:
        """Take the next batch from the queue, of the model whose turn it is; when there is none, remember when
        something is due. ``but``: a model whose turn it is not, whatever the others have."""
        tried = {but}
        while in_turn := [lane for lane in self._in_turn() if lane.name not in tried]:
            if flights := self._claim(in_turn):
                return flights
            tried |= {lane.name for lane in in_turn}  # they have nothing: others need not wait for them any more
        return []

    def _claim(self, in_turn: Sequence[Lane[ModelIdentity]]) -> list[Flight]:
        self._run.new_files_first.give_way()
        joined = list[int]()
        wanted = []
        for lane in in_turn:
            with suppress(LookupError):  # its replicas go just now
                wanted.append((self._in_use(lane, joined), lane.batch_limit(), self._hold(lane)))
        looked: dict[str, bool] = {}

        def work(connection: Connection) -> tuple[list[ClaimedJob], datetime | None]:
            now = self._run.waits_clock.now()
            due = []
            looked.clear()
            for in_use, limit, hold in wanted:
                claimed = jobs.claim(connection, run_id=self._run.id, limit=limit, now=now, in_use=in_use, hold=hold)
                looked[in_use.name] = bool(claimed)
                crash_point("claim.begun")
                if claimed:
                    return claimed, None
                due.append(jobs.next_due(connection, now=now, name=in_use.name))
            return [], min(filter(None, due), default=None)

        claimed, due = self._run.write(work)
        for name, something in looked.items():
            self._turns.claimed(name, something=something)
        if due is not None:
            self._belts.due.tell(due)
        if joined:  # with jobs that may have ended: their names wait for results that are there
            self._belts.look_for_arrivals()
        flights = self._flights.begin(claimed)
        if flights:
            crash_point("claim.committed")
        return flights

    def _in_turn(self) -> list[Lane[ModelIdentity]]:
        """The lanes that may claim now, the one whose turn it is first."""
        carried = {lane.name: lane for lane in self._lanes.carried()}
        standings = []
        for lane in carried.values():
            with suppress(LookupError):  # its replicas go just now
                standings.append(self._standing(lane))
        return [carried[name] for name in self._turns.order(standings, time.monotonic())]

    def _standing(self, lane: Lane[ModelIdentity]) -> Standing:
        pool = lane.pool
        return Standing(
            name=lane.name,
            share=lane.share,
            spent=lane.spent,
            given=pool.given(),
            seconds_per_scan=lane.seconds_per_scan,
            devices=frozenset(device for replica in pool.status() for device in replica.devices),
            has_room=self._has_room(lane),
        )

    def _in_use(self, lane: Lane[ModelIdentity], joined: list[int]) -> InUse:
        return InUse(
            name=lane.name,
            identity=lane.identity,
            options=partial(self._options, lane),
            joined=joined.append,
            pictures=self._pictures,
        )

    def _options(self, lane: Lane[ModelIdentity], path: bytes, overrides: Mapping[str, Any] | None) -> Options:
        """What a scan is to be done with by this model, by the configuration as it is now.

        ``overrides``: what its sidecars said when it was taken, as it is kept with its job.
        """
        asked = Asked.of({**(overrides or {}), "model": lane.name})  # a job stays with the model that it was queued for
        options = asked.applied_to(self._run.config.options_for(os.fsdecode(path), model=lane.name), (lane.name,))
        return as_frame(options, path, follows_runs=lane.follows_runs, channels=lane.channels)

    def _pictures(self, sha256: str) -> int | None:
        """Which version's picture a scan with this hash is done from now; None where its copy cannot be read."""
        try:
            with self._places.spool_path(sha256).open("rb") as file:
                return pictures(file.read(HEAD))
        except OSError:  # its bytes are looked for elsewhere when it is decoded, which then says it
            return None

    def _hold(self, lane: Lane[ModelIdentity]) -> Hold:
        """How long the frames of a run wait for one another, and the channels of a case."""
        expected = self._expected
        quiet, most = expected.quiet, self._run.config.limits.max_frames
        return Hold(
            quiet=quiet,
            longest=LONGEST * quiet,
            since=expected.since,
            most=most,
            expected=expected.may_bring,
            channels=lane.channels,
        )
