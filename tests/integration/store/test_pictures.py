"""Scans whose picture a new version of watcherd makes otherwise: done anew once, with a word of the earlier result."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.integration.store.helpers import (
    IN_USE,
    MODEL,
    NOW,
    claim,
    claim_one,
    enqueue,
    failure,
    later,
    scan,
    staged,
    succeed,
)
from watcherd.job import Options, State
from watcherd.store import InUse, ModelIdentity, arrivals, history, queue
from watcherd.store.arrivals import EARLIER

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from watcherd.store import ClaimedJob, NewArrival, StagedJob

OTHER = ModelIdentity(segmenter="sa2va", model="m", revision="2", dtype="bfloat16")


def dropped(name: str, *, pictures: int = 1, mtime: int = 1, **options: Any) -> NewArrival:
    """A file with the bytes of all others here."""
    return scan(name, 1, options=Options(pictures=pictures, **options), mtime=mtime)


def of_an_old_version(connection: Connection, run_id: int, name: str = "a.dcm") -> None:
    """As a version queued it that knew nothing of pictures."""
    enqueue(connection, run_id, dropped(name, pictures=0))
    (text,) = connection.exec_driver_sql("SELECT options FROM job").scalars()
    assert "pictures" not in json.loads(text)


def reasons(connection: Connection) -> list[str | None]:
    return list(connection.exec_driver_sql("SELECT reason FROM arrival ORDER BY id").scalars())


def seeing(job: ClaimedJob, pictures: int = 1) -> StagedJob:
    """Its results, from this version's picture."""
    result = staged(job.claim)
    return replace(result, measured=replace(result.measured, pictures=pictures))


def done(connection: Connection, job: ClaimedJob) -> None:
    queue.begin_delivery(connection, [seeing(job)], now=NOW)
    queue.finish_delivery(connection, [job.claim], now=NOW)


def asked_again(connection: Connection, run_id: int, in_use: InUse = IN_USE) -> ClaimedJob:
    queue.ask_again(connection, [1], now=NOW)
    (job,) = queue.claim(connection, run_id=run_id, limit=1, now=later(seconds=9), in_use=in_use)
    return job


def test_options_and_keys_without_a_new_picture_are_those_of_old_versions() -> None:
    """Else everything would be computed anew."""
    assert "pictures" not in Options().to_json()
    assert Options().key("m") == Options(pictures=0).key("m") != Options(pictures=1).key("m")
    assert Options(pictures=1) == Options.from_json(Options(pictures=1).to_json())


def test_a_scan_is_done_anew_once_and_its_note_says_so(connection: Connection, run_id: int) -> None:
    of_an_old_version(connection, run_id)
    succeed(connection, claim_one(connection, run_id))
    (again,) = enqueue(connection, run_id, dropped("a.dcm", mtime=2))
    assert (2, False) == (again.job_id, again.duplicate)
    succeed(connection, claim_one(connection, run_id))
    (third,) = enqueue(connection, run_id, dropped("a.dcm", mtime=3))
    assert (2, True) == (third.job_id, third.duplicate)
    assert [None, EARLIER.format(1), EARLIER.format(1)] == reasons(connection)


def test_what_is_said_of_the_file_stays_beside(connection: Connection, run_id: int) -> None:
    of_an_old_version(connection, run_id)
    succeed(connection, claim_one(connection, run_id))
    enqueue(connection, run_id, replace(dropped("b.dcm"), note="looks unfinished"))
    assert f"looks unfinished; {EARLIER.format(1)}" == reasons(connection)[1]


def test_without_an_earlier_result_nothing_is_said(connection: Connection, run_id: int) -> None:
    """Neither of a scan that is new, nor of one that had failed or waits still."""
    of_an_old_version(connection, run_id)
    enqueue(connection, run_id, dropped("b.dcm"))
    queue.give_up(connection, claim_one(connection, run_id), failure(), now=NOW)
    enqueue(connection, run_id, dropped("c.dcm"))
    assert [None] * 3 == reasons(connection)


def test_a_file_that_an_old_version_refused_is_tried_again(connection: Connection, run_id: int) -> None:
    """A bad file stays bad, but for the version that learns to read it."""
    of_an_old_version(connection, run_id)
    queue.give_up(connection, claim_one(connection, run_id), failure(), now=NOW)
    (again,) = enqueue(connection, run_id, dropped("a.dcm", mtime=2))
    assert (2, False) == (again.job_id, again.duplicate)


def test_a_scan_whose_picture_is_as_ever_is_a_duplicate_as_ever(connection: Connection, run_id: int) -> None:
    of_an_old_version(connection, run_id)
    succeed(connection, claim_one(connection, run_id))
    (again,) = enqueue(connection, run_id, dropped("b.png", pictures=0))
    assert (1, True) == (again.job_id, again.duplicate)
    assert [None, None] == reasons(connection)


def test_an_old_job_that_is_tried_again_is_of_todays_picture(connection: Connection, run_id: int) -> None:
    """The version that runs makes the picture, whichever queued the job: what is dropped then shares its result."""
    of_an_old_version(connection, run_id)
    succeed(connection, claim_one(connection, run_id))
    done(connection, asked_again(connection, run_id))
    record = history.job(connection, 1)
    assert record is not None
    assert MODEL.columns().items() <= dict(record).items()
    (event,) = [event for event in history.events(connection, 1) if event["kind"] == "corrected"]
    assert {"pictures": [None, 1]} == event["detail"]["options"]
    (again,) = enqueue(connection, run_id, dropped("b.dcm"))
    assert (1, True) == (again.job_id, again.duplicate)
    assert [None, None] == reasons(connection)


def test_an_old_job_whose_successor_is_there_already_stands_by_itself(connection: Connection, run_id: int) -> None:
    of_an_old_version(connection, run_id)
    succeed(connection, claim_one(connection, run_id))
    enqueue(connection, run_id, dropped("b.dcm"))
    succeed(connection, claim_one(connection, run_id))
    done(connection, asked_again(connection, run_id))
    (again,) = enqueue(connection, run_id, dropped("c.dcm"))
    assert (2, True) == (again.job_id, again.duplicate)


def test_a_failure_too_is_of_todays_picture(connection: Connection, run_id: int) -> None:
    of_an_old_version(connection, run_id)
    (job,) = claim(connection, run_id)
    queue.give_up(connection, job.claim, failure(), now=NOW, measured=seeing(job).measured)
    (again,) = enqueue(connection, run_id, dropped("b.dcm"))
    assert (1, True) == (again.job_id, again.duplicate)


def test_another_model_makes_a_job_anew_for_todays_picture(connection: Connection, run_id: int) -> None:
    """Else it would be one with the result that this model has of the old picture."""
    of_an_old_version(connection, run_id)
    arrivals.enqueue(connection, [dropped("b.dcm", pictures=0)], model=OTHER, run_id=run_id, now=NOW)
    queue.cancel(connection, [1], now=NOW)
    in_use = InUse(identity=OTHER, options=IN_USE.options, pictures=lambda _sha256: 1)
    (job,) = queue.claim(connection, run_id=run_id, limit=1, now=NOW, in_use=in_use)
    succeed(connection, job.claim)
    renewed = asked_again(connection, run_id, in_use)
    assert (1, 1, OTHER) == (renewed.id, renewed.options.pictures, renewed.model)
    succeed(connection, renewed.claim)
    (again,) = arrivals.enqueue(connection, [dropped("c.dcm")], model=OTHER, run_id=run_id, now=NOW)
    assert (1, True) == (again.job_id, again.duplicate)


def test_a_job_without_its_copy_keeps_the_picture_that_it_had(connection: Connection, run_id: int) -> None:
    """Its bytes are looked for when it is decoded, and that says it."""
    enqueue(connection, run_id, dropped("a.dcm"))
    in_use = InUse(identity=OTHER, options=IN_USE.options)
    (job,) = queue.claim(connection, run_id=run_id, limit=1, now=NOW, in_use=in_use)
    assert 1 == job.options.pictures


def test_options_that_nobody_can_read_are_no_error(connection: Connection, run_id: int) -> None:
    of_an_old_version(connection, run_id)
    succeed(connection, claim_one(connection, run_id))
    connection.exec_driver_sql('UPDATE job SET options = \'{"pictures": "x\'')
    enqueue(connection, run_id, dropped("a.dcm", mtime=2))
    assert {State.SUCCEEDED: 1, State.QUEUED: 1} == {k: n for k, n in history.counts(connection).items() if n}


def test_frames_of_one_run_are_one_run_whatever_version_queued_them(connection: Connection, run_id: int) -> None:
    """Some before an upgrade, some after it; and a run may have pictures of several formats."""
    for number, pictures in enumerate([0, 0, 1, 1], 1):
        name = f"a_frame_{number}.tif"
        asked = Options(group_frames=True, frame=name, pictures=pictures)
        enqueue(connection, run_id, scan(name, number, options=asked))
    claimed = claim(connection, run_id, limit=1)
    assert [1, 2, 3, 4] == [job.run.frame for job in claimed if job.run]
    assert {False} == {job.run.apart for job in claimed if job.run}
