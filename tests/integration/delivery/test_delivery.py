"""What was promised appears, over a restart too; what cannot appear is computed again; other names get their own."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.integration.store.helpers import NOW, claim_one, enqueue, failure, scan, staged, start_run
from tests.runs import a_run
from watcherd.config import Config
from watcherd.delivery.delivery import Delivery
from watcherd.inbox.requests import IntakeRequests
from watcherd.job import State
from watcherd.outbox.deliver import Outbox
from watcherd.retry import Decision
from watcherd.store import Database, queue
from watcherd.values import Intent, ResultFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class Line:
    """A delivery with its outbox, and what it tells others."""

    def __init__(self, database: Database, folder: Path) -> None:
        config = Config.model_validate({"outbox": {"path": str(folder / "outbox")}}, context={"base": folder})
        self.database, self.outbox = database, Outbox(config.outbox.path)
        self.outbox.prepare()
        self.folder = config.outbox.path
        self.requests, self.bell = IntakeRequests(), threading.Event()
        self.told = 0
        self.run_id = database.write(start_run)
        self.delivery = Delivery(a_run(config, database), self.outbox, self.requests, self.bell, self._tell)

    def _tell(self) -> None:
        self.told += 1

    def promise(self, *names: str) -> Sequence[Intent]:
        """The results of one scan with these names, staged, and promised to the first."""
        self.database.write(lambda c: enqueue(c, self.run_id, *(scan(name, 1) for name in names)))
        claim = self.database.write(lambda c: claim_one(c, self.run_id))
        folder = self.outbox.staging(claim.job_id, 1)
        files = []
        for name, content in (("mask.png", b"mask"), ("result.json", b"{}")):
            (folder / name).write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            files.append(ResultFile(kind=name.split(".")[0], path=folder / name, sha256=digest, bytes=len(content)))
        intents = self.outbox.intents(b"a", files)
        row = replace(staged(claim), intents=intents)
        self.database.write(lambda c: queue.begin_delivery(c, [row], now=NOW))
        return intents

    def states(self) -> list[str]:
        with self.database.reader() as connection:
            return list(connection.exec_driver_sql("SELECT state FROM job ORDER BY id").scalars())

    def visible(self) -> list[str]:
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self.folder)) for path in found)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    with Database.open(tmp_path / "watcherd.db") as database:
        yield Line(database, tmp_path)


def test_what_the_last_run_promised_appears_and_what_it_only_began_goes(line: Line) -> None:
    line.promise("a.png")
    begun = line.outbox.staging(99, 1)
    (begun / "mask.png").write_bytes(b"begun")
    line.delivery.recover()
    assert ["masks/a.png", "results/a.json"] == line.visible()
    assert ["succeeded"] == line.states()


def test_results_that_cannot_appear_are_computed_again(line: Line) -> None:
    """And `feed` is told: the job is in the queue."""
    intents = line.promise("a.png")
    intents[0].staged.unlink()
    line.delivery.recover()
    assert ["queued"] == line.states()
    assert line.bell.is_set()


def test_a_duplicate_has_a_copy_under_its_own_name(line: Line) -> None:
    """Its copy in the spool may go then, and others are told."""
    line.promise("a.png", "b.png")
    line.delivery.recover()
    line.delivery.other_names.deliver()
    assert ["masks/a.png", "masks/b.png", "results/a.json", "results/b.json"] == line.visible()
    assert 1 == json.loads((line.folder / "results/b.json").read_bytes())["duplicate_of"]
    assert 1 == line.told
    assert line.requests.take_finished()


def test_a_scan_that_gave_no_mask_has_a_note(line: Line) -> None:
    line.database.write(lambda c: enqueue(c, line.run_id, scan("a.png")))
    claim = line.database.write(lambda c: claim_one(c, line.run_id))
    decision = Decision(state=State.FAILED, why="it is no picture")
    line.database.write(lambda c: queue.give_up(c, claim, failure(), decision, now=NOW))
    line.delivery.other_names.deliver()
    assert ["failed/a.txt"] == line.visible()
    assert "it is no picture" in (line.folder / "failed/a.txt").read_text()


def test_a_copy_whose_first_result_is_gone_is_asked_for_again(line: Line) -> None:
    line.promise("a.png", "b.png")
    line.delivery.recover()
    (line.folder / "masks/a.png").unlink()
    line.delivery.other_names.deliver()
    assert ["queued"] == line.states()
    assert line.bell.is_set()
