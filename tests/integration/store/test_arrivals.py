"""Every name that is dropped has a fate, and the same scan with the same options is one job."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.integration.store.helpers import (
    MODEL,
    NOW,
    OPTIONS,
    claim,
    claim_one,
    enqueue,
    failure,
    intents,
    later,
    scan,
    staged,
    start_run,
    succeed,
)
from watcherd.job import ErrorClass, Options, State
from watcherd.retry import Decision
from watcherd.store import arrivals, deliveries, history, queue

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from watcherd.store import PathSignature


def due(connection: Connection) -> list[int]:
    return [arrival.id for arrival in deliveries.arrivals_to_deliver(connection, 99)]


def to_dispose(connection: Connection) -> list[int]:
    return [arrival.id for arrival in deliveries.arrivals_to_dispose(connection, 99)]


def column(connection: Connection, name: str) -> list[object]:
    return list(connection.exec_driver_sql(f"SELECT {name} FROM arrival ORDER BY id").scalars())  # noqa: S608


def test_equal_bytes_are_one_job(connection: Connection, run_id: int) -> None:
    first, second = enqueue(connection, run_id, scan("a.png", 1), scan("b.png", 1))
    (third,) = enqueue(connection, run_id, scan("c.png", 1))
    assert [item.job_id for item in (first, second, third)] == [1, 1, 1]
    assert [item.duplicate for item in (first, second, third)] == [False, True, True]
    assert column(connection, "duplicate_of") == [None, 1, 1]
    kinds = [event["kind"] for event in history.events(connection, 1)]
    assert kinds == ["ingested", "dropped-again", "dropped-again"]


def test_other_options_or_another_model_are_another_job(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png", 1), scan("b.png", 1, options=Options(threshold=0.25)))
    other = MODEL.__class__(segmenter="sa2va", model="m", revision="2", dtype="bfloat16")
    arrivals.enqueue(connection, [scan("c.png", 1)], model=other, run_id=run_id, now=NOW)
    assert [1, 2, 3] == list(connection.exec_driver_sql("SELECT id FROM job ORDER BY id").scalars())


def test_an_ingest_that_is_repeated_changes_nothing(connection: Connection, run_id: int) -> None:
    """A file with the same path and signature was taken before."""
    before = enqueue(connection, run_id, scan("a.png", 1), scan("b.png", 1))
    after = enqueue(connection, run_id, scan("a.png", 1), scan("b.png", 1))
    assert [item.known for item in after] == [True, True]
    assert [(item.arrival_id, item.job_id, item.duplicate) for item in after] == [
        (item.arrival_id, item.job_id, item.duplicate) for item in before
    ]
    assert history.arrivals_in_all(connection) == 2


def test_a_remounted_share_brings_no_new_arrivals(connection: Connection, run_id: int) -> None:
    """Its device number changes with every mount."""
    enqueue(connection, run_id, scan("a.png"))
    moved = scan("a.png").signature._replace(device=5)
    assert arrivals.known(connection, [moved]) == {moved}


def test_new_bytes_at_a_path_are_a_new_arrival(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png", 1))
    changed = scan("a.png", 2, mtime=2)
    assert arrivals.known(connection, [changed.signature]) == set()
    (item,) = enqueue(connection, run_id, changed)
    assert (item.arrival_id, item.job_id, item.duplicate) == (2, 2, False)
    assert column(connection, "present") == [0, 1]
    assert column(connection, "disposal") == ["changed", "pending"]


def test_a_path_that_was_overwritten_within_a_batch_has_one_present_file(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png", 1), scan("a.png", 2, mtime=2))
    assert sorted(zip(column(connection, "id"), column(connection, "present"), strict=True)) == [(1, 0), (2, 1)]


@pytest.mark.parametrize("name", [b"M\xfcller.png", b"a\nb.png", b"-rf.png", b"\xff\xfe.png", b"x" * 255])
def test_any_name_is_kept_in_bytes_and_readable(connection: Connection, run_id: int, name: bytes) -> None:
    enqueue(connection, run_id, scan(name))
    (job,) = claim(connection, run_id)
    assert job.path == name
    assert job.source.isprintable()


def test_large_numbers_of_devices_and_inodes_survive(connection: Connection, run_id: int) -> None:
    """st_dev and st_ino are unsigned, SQLite's integers are not."""
    enqueue(connection, run_id, scan("a.png"))
    succeed(connection, claim_one(connection, run_id))
    (arrival,) = deliveries.arrivals_to_dispose(connection, 9)
    assert arrival.signature == scan("a.png").signature


@pytest.mark.parametrize(
    ("error_class", "again"),
    [
        (ErrorClass.TRANSIENT, True),
        (ErrorClass.MEMORY, True),
        (ErrorClass.CRASH, True),
        (ErrorClass.INPUT, False),
        (ErrorClass.NO_MASK, False),
    ],
)
def test_dropping_a_failed_scan_again_retries_what_may_pass(
    connection: Connection, run_id: int, error_class: ErrorClass, again: bool
) -> None:
    enqueue(connection, run_id, scan("a.png", 1))
    queue.give_up(connection, claim_one(connection, run_id), failure(error_class), now=NOW)
    (item,) = enqueue(connection, run_id, scan("b.png", 1))
    assert (item.duplicate, item.asked_again) == (True, again)
    assert len(claim(connection, run_id)) == again


def test_dropping_a_quarantined_scan_again_does_not_run_it(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png", 1))
    decision = Decision(state=State.QUARANTINED, why="it kills", solo=True, crashes_alone=2)
    queue.give_up(connection, claim_one(connection, run_id), failure(ErrorClass.CRASH), decision, now=NOW)
    (item,) = enqueue(connection, run_id, scan("b.png", 1))
    assert not item.asked_again
    assert claim(connection, run_id) == []


def test_dropping_a_cancelled_scan_again_runs_it(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png", 1))
    queue.cancel(connection, [1], now=NOW)
    (item, same) = enqueue(connection, run_id, scan("b.png", 1), scan("c.png", 1))
    assert (item.asked_again, same.asked_again) == (True, False)
    assert len(claim(connection, run_id)) == 1


def test_a_duplicate_gets_its_result_under_its_own_name(connection: Connection, run_id: int) -> None:
    """Whether it came before the job had ended or after."""
    enqueue(connection, run_id, scan("a.png", 1), scan("b.png", 1))
    assert due(connection) == []
    succeed(connection, claim_one(connection, run_id), "a")
    enqueue(connection, run_id, scan("c.png", 1))
    assert due(connection) == [2, 3]
    deliveries.begin_redelivery(connection, 2, intents("b"))
    deliveries.begin_redelivery(connection, 3, intents("c"))
    assert due(connection) == []
    assert [arrival.id for arrival in deliveries.arrivals_promised(connection)] == [2, 3]
    deliveries.finish_redelivery(connection, [2, 3], now=NOW)
    assert deliveries.arrivals_promised(connection) == []
    assert [len(arrival["outputs"]) for arrival in history.arrivals(connection, 1)] == [2, 2, 2]
    assert deliveries.owners(connection, [b"mask/b", b"mask/x"]) == {b"mask/b": 1}


def test_a_duplicate_of_the_same_name_gets_nothing_new(connection: Connection, run_id: int) -> None:
    """Its file is done with as soon as the job is, and no sooner."""
    enqueue(connection, run_id, scan("a.png", 1))
    arrivals.vanished(connection, [b"a.png"], now=NOW)
    enqueue(connection, run_id, scan("a.png", 1, mtime=2))
    assert to_dispose(connection) == []
    succeed(connection, claim_one(connection, run_id))
    assert (due(connection), to_dispose(connection)) == ([], [2])
    arrivals.record_disposal(connection, [(2, "archived", b"a.png")], now=NOW)
    enqueue(connection, run_id, scan("a.png", 1, mtime=3))
    assert (due(connection), to_dispose(connection)) == ([], [3])


def test_every_name_of_a_failed_job_is_due_for_a_note(connection: Connection, run_id: int) -> None:
    """And a later result replaces the notes."""
    enqueue(connection, run_id, scan("a.png", 1), scan("b.png", 1))
    queue.give_up(connection, claim_one(connection, run_id), failure(ErrorClass.TRANSIENT), now=NOW)
    assert (due(connection), to_dispose(connection)) == ([1, 2], [])
    for arrival_id, name in ((1, "a"), (2, "b")):
        deliveries.begin_redelivery(connection, arrival_id, intents(name, ["failed"]))
        deliveries.finish_redelivery(connection, [arrival_id], now=NOW)
    assert to_dispose(connection) == [1, 2]
    queue.ask_again(connection, [1], now=NOW)
    succeed(connection, claim_one(connection, run_id), "a")
    (note,) = deliveries.outdated_outputs(connection, 1)
    assert note.intent.final == b"failed/a"
    deliveries.mark_removed(connection, [note.id])
    assert [output.intent.kind for output in deliveries.outputs_of(connection, 1)] == ["mask", "result"]
    assert due(connection) == [2]


@pytest.mark.parametrize("recorded", [True, False], ids=["and recorded afterwards", "and a crash came"])
def test_a_note_that_was_under_way_when_the_job_was_asked_for_again_is_outdated(
    connection: Connection, run_id: int, recorded: bool
) -> None:
    """It may lie in the outbox or not; in no case does it count as the new result."""
    enqueue(connection, run_id, scan("a.png", 1))
    queue.give_up(connection, claim_one(connection, run_id), failure(ErrorClass.TRANSIENT), now=NOW)
    deliveries.begin_redelivery(connection, 1, intents("a", ["failed"]))
    queue.ask_again(connection, [1], now=NOW)
    if recorded:
        deliveries.finish_redelivery(connection, [1], now=NOW)
    assert column(connection, "delivery") == ["waiting"]
    queue.begin_delivery(connection, [staged(claim_one(connection, run_id), "a")], now=NOW)
    ((taken, promised),) = queue.delivering_jobs(connection)
    assert promised == intents("a")
    queue.finish_delivery(connection, [taken], now=NOW)
    assert [output.intent.kind for output in deliveries.outdated_outputs(connection, 1)] == ["failed"]


def test_a_job_that_is_done_again_replaces_its_own_results(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png", 1))
    succeed(connection, claim_one(connection, run_id), "a")
    queue.ask_again(connection, [1], now=NOW)
    succeed(connection, claim_one(connection, run_id), "a")
    assert [output.state for output in deliveries.outputs_of(connection, 1)] == ["delivered", "delivered"]


def test_a_source_is_disposed_of_once_and_only_after_its_job_has_ended(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png", 1))
    assert to_dispose(connection) == []
    taken = claim_one(connection, run_id)
    assert to_dispose(connection) == []
    succeed(connection, taken)
    assert to_dispose(connection) == [1]
    arrivals.record_disposal(connection, [(1, "archived", b"2026/a.png")], now=NOW)
    arrivals.record_disposal(connection, [(1, "deleted", None)], now=NOW)
    assert to_dispose(connection) == []
    assert (column(connection, "disposal"), column(connection, "present")) == (["archived"], [0])


def test_a_kept_source_is_known_for_ever(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png", 1))
    succeed(connection, claim_one(connection, run_id))
    arrivals.record_disposal(connection, [(1, "kept", None)], now=NOW)
    assert arrivals.known(connection, [scan("a.png", 1).signature]) == {scan("a.png", 1).signature}
    assert arrivals.present_after(connection, b"", 9) == [scan("a.png", 1).signature]


def seen(name: str, ctime_ns: int = 1) -> PathSignature:
    return scan(name).signature._replace(ctime_ns=ctime_ns)


def test_a_settling_file_is_one_row_until_it_is_taken(connection: Connection, run_id: int) -> None:
    arrivals.settling(connection, [(seen("a.png"), "still changing")], run_id=run_id, now=NOW)
    arrivals.settling(connection, [(seen("a.png"), "open for writing")], run_id=run_id, now=later(seconds=1))
    assert [row["reason"] for row in history.unfinished_arrivals(connection)] == ["open for writing"]
    assert arrivals.known(connection, [seen("a.png")]) == set()
    enqueue(connection, run_id, scan("a.png"))
    assert history.unfinished_arrivals(connection) == []
    assert history.fates(connection)["queued"] == 1


def test_a_settling_file_that_goes_away_has_a_fate_too(connection: Connection, run_id: int) -> None:
    arrivals.settling(connection, [(seen("a.png"), "still changing")], run_id=run_id, now=NOW)
    arrivals.vanished(connection, [b"a.png", b"b.png"], now=NOW)
    (row,) = history.unfinished_arrivals(connection)
    assert (row["fate"], row["reason"], row["present"]) == ("ignored", "it went away before it was complete", 0)


def test_an_ignored_file_is_known_until_it_is_touched(connection: Connection, run_id: int) -> None:
    """A change of permissions counts: it may be readable now."""
    arrivals.ignored(connection, [(seen("a.png"), "no permission")], run_id=run_id, now=NOW)
    assert arrivals.known(connection, [seen("a.png")]) == {seen("a.png")}
    assert arrivals.known(connection, [seen("a.png", ctime_ns=2)]) == set()


def test_a_taken_file_whose_inode_is_numbered_anew_is_known(connection: Connection, run_id: int) -> None:
    """As FUSE file systems do; with another ctime as well it may be another file, and is looked at."""
    arrival = scan("a.png")
    signature = arrival.signature._replace(ctime_ns=5)
    enqueue(connection, run_id, replace(arrival, signature=signature))
    anew = signature._replace(inode=77)
    assert arrivals.known(connection, [anew]) == {anew}
    for other in (anew._replace(ctime_ns=6), anew._replace(size_bytes=1001), anew._replace(mtime_ns=9)):
        assert arrivals.known(connection, [other]) == set()


def test_an_ignored_thing_in_the_place_of_a_taken_file_is_a_new_arrival(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png"))
    link = seen("a.png")._replace(size_bytes=3)
    arrivals.ignored(connection, [(link, "a symbolic link")], run_id=run_id, now=NOW)
    assert column(connection, "fate") == ["queued", "ignored"]
    assert arrivals.known(connection, [link, scan("a.png").signature]) == {link}


def test_the_fates_of_all_arrivals_add_up(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, *(scan(f"{number}.png", number % 6) for number in range(10)))
    arrivals.ignored(connection, [(seen("x"), "a pipe")], run_id=run_id, now=NOW)
    arrivals.settling(connection, [(seen("y"), "still changing")], run_id=run_id, now=NOW)
    succeed(connection, claim_one(connection, run_id))
    queue.give_up(connection, claim_one(connection, run_id), failure(), now=NOW)
    queue.cancel(connection, [6], now=NOW)
    claim_one(connection, run_id)
    fates = history.fates(connection)
    assert sum(fates.values()) == history.arrivals_in_all(connection) == 12
    assert {name: count for name, count in fates.items() if count} == {
        "ignored": 1,
        "settling": 1,
        "duplicate": 4,
        "queued": 2,
        "running": 1,
        "succeeded": 1,
        "failed": 1,
        "cancelled": 1,
    }


def test_many_arrivals_need_few_statements(connection: Connection, run_id: int) -> None:
    """More than fit into one IN (...) too."""
    many = [scan(f"{number}.png", number) for number in range(2500)]
    assert len(enqueue(connection, run_id, *many)) == 2500
    assert len(arrivals.known(connection, [item.signature for item in many])) == 2500
    assert many[0].options == OPTIONS


def test_a_second_run_takes_the_same_backlog_up(connection: Connection, run_id: int) -> None:
    enqueue(connection, run_id, scan("a.png", 1))
    new_run = start_run(connection)
    (item,) = enqueue(connection, new_run, scan("a.png", 1))
    assert item.known
