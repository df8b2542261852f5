"""What a claim does besides taking jobs."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from tests.integration.store.helpers import (
    MODEL,
    NOW,
    claim_one,
    enqueue,
    failure,
    later_decision,
    scan,
    start_run,
    succeed,
)
from tests.runs import a_run
from watcherd.flights import Flights
from watcherd.inbox.expected import Expected
from watcherd.inference.pool.lanes import Lane, Lanes
from watcherd.job import Options
from watcherd.pipeline.belts import Belts
from watcherd.pipeline.claim import Claims
from watcherd.pipeline.places import Places
from watcherd.store import Database, ModelIdentity, queue
from watcherd.wall_clock import WaitsClock

if TYPE_CHECKING:
    from pathlib import Path


class OneReplica:
    """A pool for a batch of one."""

    def has_room(self) -> bool:
        return True

    def status(self) -> list[Any]:
        return [SimpleNamespace(devices=("cpu",), ready=None)]

    def given(self) -> int:
        return 0

    def capacity(self) -> int:
        return 1


def lane_of(model: ModelIdentity, name: str = "default") -> Lane[ModelIdentity]:
    lane = Lane[ModelIdentity](name)
    lane.carried_by(cast("Any", OneReplica()))
    lane.became_ready(model, follows_runs=False)
    return lane


def claims(
    database: Database,
    model: ModelIdentity,
    scratch: Path,
    *others: Lane[ModelIdentity],
    waits_clock: WaitsClock | None = None,
) -> Claims:
    places = Places(scratch=scratch, spool_path=lambda sha256: scratch / sha256, bring_back=lambda _job_id: False)
    return Claims(
        a_run(database=database, waits_clock=waits_clock),
        Lanes(lane_of(model), *others),
        Expected(),
        places,
        Flights(),
        Belts(bell=threading.Event()),
    )


def test_names_of_a_job_that_becomes_one_with_an_ended_one_are_looked_for(tmp_path: Path) -> None:
    """Nothing else would tell that they wait: the job that has ended has told its own names long ago."""
    other = ModelIdentity(segmenter="sa2va", model="m", revision="2", dtype="bfloat16")
    with Database.open(tmp_path / "watcherd.db") as database:
        run_id = database.write(start_run)
        database.write(lambda c: enqueue(c, run_id, scan("first.png", 1)))
        theirs = claims(database, other, tmp_path)
        [flight] = theirs.claim()
        database.write(lambda c: succeed(c, flight.job.claim))
        assert theirs._belts.results.empty()  # it was made anew, and is one with nobody
        database.write(lambda c: enqueue(c, run_id, scan("second.png", 1)))
        assert [] == theirs.claim()
        with database.reader() as connection:
            waiting = connection.exec_driver_sql("SELECT path_text FROM arrival WHERE delivery = 'due'").scalars().all()
        assert ["second.png"] == waiting
        assert theirs._belts.results.get(timeout=1) is None


def test_a_claim_of_what_is_queued_for_the_model_in_use_tells_nobody(tmp_path: Path) -> None:
    with Database.open(tmp_path / "watcherd.db") as database:
        run_id = database.write(start_run)
        database.write(lambda c: enqueue(c, run_id, scan("first.png", 1)))
        mine = claims(database, MODEL, tmp_path)
        [flight] = mine.claim()
        assert mine._belts.results.empty()
        assert [flight] == mine._flights.all()


def test_a_job_that_is_made_anew_is_so_for_the_picture_that_this_version_makes(tmp_path: Path) -> None:
    """Its copy tells which that is; one that is gone changes nothing."""
    other = ModelIdentity(segmenter="sa2va", model="m", revision="2", dtype="bfloat16")
    with Database.open(tmp_path / "watcherd.db") as database:
        run_id = database.write(start_run)
        scans = [scan("a.dcm", 1), scan("b.png", 2), scan("c.dcm", 3)]
        (tmp_path / scans[0].sha256).write_bytes(bytes(128) + b"DICM" + bytes(60))
        (tmp_path / scans[1].sha256).write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(60))
        database.write(lambda c: enqueue(c, run_id, *scans))
        theirs = claims(database, other, tmp_path)
        found = [flight.job.options.pictures for _ in scans for flight in theirs.claim()]
        assert [2, 0, 0] == found


def test_each_claim_is_of_one_model_and_one_without_replicas_leaves_its_jobs_where_they_are(tmp_path: Path) -> None:
    with Database.open(tmp_path / "watcherd.db") as database:
        run_id = database.write(start_run)
        asked = [("a.png", "retina"), ("b.png", "default"), ("c.png", "gone"), ("d.png", "retina")]
        scans = [scan(name, options=Options(model=model)) for name, model in asked]
        database.write(lambda c: enqueue(c, run_id, *scans))
        retina, gone = lane_of(MODEL, "retina"), Lane[ModelIdentity]("gone", meant=MODEL)
        mine = claims(database, MODEL, tmp_path, retina, gone)
        found = []
        while flights := mine.claim():
            assert 1 == len({flight.model_name for flight in flights})
            found += [flight.job.source for flight in flights]
        assert ["a.png", "b.png", "d.png"] == sorted(found)
        retina.carried_by(None)
        database.write(lambda c: enqueue(c, run_id, scan("e.png", options=Options(model="retina"))))
        assert [] == mine.claim()
        assert float("inf") == mine._belts.due.seconds  # nothing to come back for: nobody could take it


def test_a_model_whose_turn_it_is_not_leaves_it_to_the_others(tmp_path: Path) -> None:
    """While a slow one's batch is decoded, the others' next ones are claimed."""
    with Database.open(tmp_path / "watcherd.db") as database:
        run_id = database.write(start_run)
        scans = [scan("a.png"), scan("b.png", options=Options(model="retina"))]
        database.write(lambda c: enqueue(c, run_id, *scans))
        mine = claims(database, MODEL, tmp_path, lane_of(MODEL, "retina"))
        [flight] = mine.claim(but="default")
        assert "b.png" == flight.job.source
        assert [] == mine.claim(but="default")


def test_who_waits_for_one_that_has_nothing_more_is_served_at_once(tmp_path: Path) -> None:
    """Not when it is looked the next time, seconds later: what the other had was its last."""
    with Database.open(tmp_path / "watcherd.db") as database:
        run_id = database.write(start_run)
        scans = [scan("a.png", options=Options(model="retina")), scan("b.png"), scan("c.png")]
        database.write(lambda c: enqueue(c, run_id, *scans))
        retina = lane_of(MODEL, "retina")
        mine = claims(database, MODEL, tmp_path, retina)
        assert ["b.png"] == [flight.job.source for flight in mine.claim()]
        mine._lanes.get("default").took(1.0)
        assert ["a.png"] == [flight.job.source for flight in mine.claim()]
        mine._lanes.get("default").took(100.0)  # far ahead of the other, which has had work until now
        assert ["c.png"] == [flight.job.source for flight in mine.claim()]


def test_a_model_whose_replicas_go_while_somebody_claims_is_left_out(tmp_path: Path) -> None:
    with Database.open(tmp_path / "watcherd.db") as database:
        run_id = database.write(start_run)
        database.write(lambda c: enqueue(c, run_id, scan("a.png", options=Options(model="retina")), scan("b.png")))
        retina = lane_of(MODEL, "retina")
        mine = claims(database, MODEL, tmp_path, retina)
        lanes = mine._lanes.carried()
        retina.carried_by(None)
        mine._lanes.carried = lambda: lanes  # type: ignore[method-assign]
        assert ["b.png"] == [flight.job.source for flight in mine.claim()]
        assert mine.replicas_have_room()


def test_nothing_that_waits_is_due_because_somebody_has_set_the_clock_forward(tmp_path: Path) -> None:
    """Until the waits are set with it: a try in half a minute would come at once."""
    wall, steady = NOW.timestamp(), 1000.0
    clock = WaitsClock(wall=lambda: wall, steady=lambda: steady)
    with Database.open(tmp_path / "watcherd.db") as database:
        run_id = database.write(start_run)
        database.write(lambda c: enqueue(c, run_id, scan("a.png", 1)))
        retry = later_decision(30)
        database.write(lambda c: queue.retry_later(c, claim_one(c, run_id), failure(), retry, now=NOW))
        mine = claims(database, MODEL, tmp_path, waits_clock=clock)
        wall += 86_400
        assert [] == mine.claim()
        clock.waits_are_set(wall - steady)
        assert ["a.png"] == [flight.job.source for flight in mine.claim()]
