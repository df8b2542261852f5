"""What results are called when names clash: in a batch, with earlier scans, with somebody's own files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.integration.store.helpers import NOW, claim_one, enqueue, scan, staged, start_run
from watcherd.delivery.result_names import Names
from watcherd.outbox.deliver import Outbox
from watcherd.store import Database, leftovers, queue
from watcherd.values import Intent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection

KINDS = ("mask", "overlay")
HASH = "abcdef01" * 8
OTHER = "12345678" * 8


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    with Database.open(tmp_path / "watcherd.db") as database, database._connection.begin():
        yield database._connection


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    outbox = Outbox(tmp_path / "outbox")
    outbox.prepare()
    return outbox


def names(connection: Connection, outbox: Outbox, *wanted: tuple[int, bytes]) -> Names:
    return Names(connection, outbox, wanted, KINDS)


def deliver(connection: Connection, run_id: int, name: str, content: int, finals: list[tuple[str, bytes]]) -> int:
    """A scan whose results have these names; its arrival."""
    (entry,) = enqueue(connection, run_id, scan(name, content))
    claim = claim_one(connection, run_id)
    done = staged(claim, name)
    intents = [
        Intent(kind=kind, staged=intent.staged, final=final, sha256="0" * 64, bytes=7)
        for (kind, final), intent in zip(finals, done.intents, strict=True)
    ]
    queue.begin_delivery(connection, [replace(done, intents=intents)], now=NOW)
    queue.finish_delivery(connection, [claim], now=NOW)
    return entry.arrival_id


def test_a_scan_gives_its_own_name(connection: Connection, outbox: Outbox) -> None:
    """Without the extension, in its sub-folder; bytes that are not UTF-8 stay."""
    assert b"coronary/M\xfcller" == names(connection, outbox, (1, b"coronary/M\xfcller.png")).choose(
        b"coronary/M\xfcller.png", HASH, KINDS
    )


def test_two_scans_of_one_batch_are_told_apart(connection: Connection, outbox: Outbox) -> None:
    """a.png and a.jpg would both be a: the second gets its hash, the third of the same bytes a number."""
    chosen = names(connection, outbox, (1, b"a.png"), (2, b"a.jpg"), (3, b"a.tif"))
    assert [b"a", b"a-12345678", b"a-12345678-2"] == [
        chosen.choose(source, sha256, KINDS)
        for source, sha256 in ((b"a.png", HASH), (b"a.jpg", OTHER), (b"a.tif", OTHER))
    ]


@pytest.mark.parametrize("there", ["masks/a.png", "masks/a.tif", "overlays/a.jpg", "results/a.json", "failed/a.txt"])
def test_nobodys_file_is_overwritten(connection: Connection, outbox: Outbox, tmp_path: Path, there: str) -> None:
    """Whatever lies at any of the names that the results might get, a dangling link too: another name is taken."""
    path = tmp_path / "outbox" / there
    path.parent.mkdir(exist_ok=True)
    path.symlink_to("nowhere")
    assert b"a-abcdef01" == names(connection, outbox, (1, b"a.png")).choose(b"a.png", HASH, KINDS)


def test_another_scans_result_keeps_its_name_even_while_it_is_away(connection: Connection, outbox: Outbox) -> None:
    """Somebody has moved it out of the outbox; the history still promises it."""
    run_id = start_run(connection)
    deliver(connection, run_id, "a.png", 1, [("mask", b"masks/a.png"), ("result", b"results/a.json")])
    assert b"a-12345678" == names(connection, outbox, (99, b"a.jpg")).choose(b"a.jpg", OTHER, KINDS)


def test_a_name_with_a_hash_that_is_taken_gets_a_number(connection: Connection, outbox: Outbox) -> None:
    """The books are asked for names that nobody expected, too."""
    run_id = start_run(connection)
    deliver(connection, run_id, "a.png", 1, [("mask", b"masks/a.png"), ("result", b"results/a.json")])
    deliver(connection, run_id, "b.png", 2, [("mask", b"masks/a-12345678.png"), ("result", b"results/b.json")])
    assert b"a-12345678-2" == names(connection, outbox, (99, b"a.jpg")).choose(b"a.jpg", OTHER, KINDS)


def test_a_scan_that_is_done_again_keeps_its_name(connection: Connection, outbox: Outbox) -> None:
    """Its own earlier results give way; those of others never do."""
    run_id = start_run(connection)
    mine = deliver(connection, run_id, "a.png", 1, [("mask", b"masks/a.png"), ("result", b"results/a.json")])
    deliver(connection, run_id, "b.png", 2, [("mask", b"masks/b.png"), ("result", b"results/b.json")])
    chosen = names(connection, outbox, (mine, b"a.png"))
    assert {b"masks/a.png", b"results/a.json"} == {o.intent.final for o in chosen.gives_way(mine, b"a.png")}
    assert b"a" == chosen.choose(b"a.png", HASH, KINDS)
    assert 2 == len(leftovers.outputs_at(connection, [b"masks/b.png", b"results/b.json"]))


def test_a_scan_that_is_done_again_keeps_its_name_with_a_hash(connection: Connection, outbox: Outbox) -> None:
    """While its earlier results give way the history, read before, has them still."""
    run_id = start_run(connection)
    finals = [("mask", b"masks/a-abcdef01.png"), ("result", b"results/a-abcdef01.json")]
    mine = deliver(connection, run_id, "a.png", 1, finals)
    deliver(connection, run_id, "a.jpg", 2, [("mask", b"masks/a.png"), ("result", b"results/a.json")])
    chosen = names(connection, outbox, (mine, b"a.png"))
    assert 2 == len(chosen.gives_way(mine, b"a.png"))
    assert b"a-abcdef01" == chosen.choose(b"a.png", HASH, KINDS)


def test_a_folder_of_a_scan_cannot_be_where_a_result_is_promised(
    connection: Connection, outbox: Outbox, tmp_path: Path
) -> None:
    """In the books, in the same batch, or on disk: the result lies beside the folder, under its name and its hash. And
    a result is not called like a folder that others of its batch need."""
    run_id = start_run(connection)
    deliver(connection, run_id, "a.jpg", 1, [("mask", b"masks/a.png"), ("result", b"results/a.json")])
    (tmp_path / "outbox/masks").mkdir()
    (tmp_path / "outbox/masks/c.png").symlink_to("nowhere")
    wanted = [
        b"a.png/x.png",
        b"b.jpg",
        b"b.png/x.png",
        b"c.png/x.png",
        b"d.png/x.png",
        b"d.tif",
        b"e/" * 2100 + b"x.png",
    ]
    chosen = names(connection, outbox, *enumerate(wanted, 10))
    assert [
        b"x-abcdef01",
        b"b",
        b"x-abcdef01-2",
        b"x-abcdef01-3",
        b"d.png/x",
        b"d-abcdef01",
        b"x-abcdef01-4",
    ] == [chosen.choose(source, HASH, KINDS) for source in wanted]


def test_the_note_of_an_earlier_scan_under_the_same_name_gives_way(connection: Connection, outbox: Outbox) -> None:
    """A bad scan, then a good one dropped in its place: the note about the bad one is not left beside the mask. A note
    about a scan of another name stays."""
    run_id = start_run(connection)
    deliver(connection, run_id, "a.png", 1, [("failed", b"failed/a.txt"), ("result", b"results/x.json")])
    deliver(connection, run_id, "b.jpg", 2, [("failed", b"failed/b.txt"), ("result", b"results/y.json")])
    chosen = names(connection, outbox, (98, b"a.png"), (99, b"b.png"))
    assert [b"failed/a.txt"] == [output.intent.final for output in chosen.gives_way(98, b"a.png")]
    assert [] == chosen.gives_way(99, b"b.png")
    assert [b"a", b"b-12345678"] == [chosen.choose(b"a.png", HASH, KINDS), chosen.choose(b"b.png", OTHER, KINDS)]
