"""Since when each model has had nothing to do, or has waited; asked with a pretended clock and a real queue."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.store.helpers import MODEL, NOW, scan, start_run
from tests.runs import a_run
from watcherd.config import Config, Devices, Model
from watcherd.errors import StoreError
from watcherd.inference.pool.lanes import Lane, Lanes
from watcherd.inference.pool.sharing import Refused
from watcherd.job import Options
from watcherd.service.seats import Seat
from watcherd.service.swapping import AGAIN_SECONDS, Swapping
from watcherd.store import Database, arrivals

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

NO_ROOM = Refused(message="no room", for_room=True, fits_alone=True)
CONFIG = Config(devices=Devices(idle_minutes=10, minimum_minutes=5), models={"other": Model()})


class Scene:
    """``default`` has a place since the beginning, ``other`` has none."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.run_id = database.write(start_run)
        self.given = 0
        self.fits = True
        self.asked = 0
        lanes: Lanes[Any] = Lanes(Lane("default", meant=MODEL), Lane("other", meant=MODEL))
        pool: Any = SimpleNamespace(given=lambda: self.given)
        lanes.get("default").carried_by(pool)
        self.lanes = lanes
        self.swapping = Swapping(a_run(CONFIG, database), lanes, self.would_fit)

    def would_fit(self, name: str, gone: Collection[str]) -> object | None:
        assert ("other", ["default"]) == (name, list(gone))
        self.asked += 1
        return "a plan" if self.fits else None

    def drop(self, name: str, model: str = "other") -> None:
        new = scan(name, options=Options(model=model))
        self.database.write(lambda c: arrivals.enqueue(c, [new], model=MODEL, run_id=self.run_id, now=NOW))

    def at(
        self, minute: float, *, keep: bool = False, why: Refused = NO_ROOM, placed: bool = True, since: float = 0.0
    ) -> Any:
        there: Any = SimpleNamespace() if placed else None
        seats = {
            "default": Seat(table=Model(keep=keep), replicas=there, since=since),
            "other": Seat(table=Model(), why=why),
        }
        return self.swapping.decide(seats, 60 * minute)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Database.open(tmp_path / "watcherd.db") as database:
        yield Scene(database)


SWAP = ("other", ("default",))


def test_one_that_has_had_no_work_for_long_enough_gives_its_place(scene: Scene) -> None:
    scene.drop("a.png")
    assert [None, None, SWAP] == [scene.at(minute) for minute in (0, 9.9, 10)]


def test_without_work_for_the_other_nobody_goes(scene: Scene) -> None:
    assert [None, None] == [scene.at(minute) for minute in (0, 60)]


def test_what_its_replicas_have_is_work_and_so_is_what_was_computed(scene: Scene) -> None:
    scene.drop("a.png")
    scene.at(0)
    scene.given = 1
    assert scene.at(7) is None
    scene.given = 0
    scene.lanes.get("default").took(1.0)
    assert [None, None, SWAP] == [scene.at(minute) for minute in (8, 9, 18)]


def test_a_history_that_does_not_answer_begins_no_wait_anew(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody goes meanwhile: who has work is not known."""
    scene.drop("b.png", "default")
    scene.lanes.get("default").took(1.0)
    scene.drop("a.png")
    scene.at(0)

    def refuse(_: Any) -> Any:
        raise StoreError("The disk does not answer.")

    with monkeypatch.context() as patched:
        patched.setattr("watcherd.store.overview.queued_by_model", refuse)
        assert scene.at(9) is None
    assert SWAP == scene.at(10)


def test_a_busy_one_goes_when_the_others_scans_have_waited_for_long_enough(scene: Scene) -> None:
    scene.drop("b.png", "default")
    scene.lanes.get("default").took(1.0)
    scene.at(20)
    scene.drop("a.png")
    assert [None, None, SWAP] == [scene.at(minute) for minute in (21, 30.9, 31)]


def test_one_that_has_work_goes_only_when_it_has_computed_some_since_it_got_its_place(scene: Scene) -> None:
    """However long it is loaded: else two models that both have work could take turns at being loaded for ever. What
    was computed before it went the last time does not count."""
    scene.lanes.get("default").took(9.0)
    scene.at(0, placed=False)
    scene.drop("a.png")
    scene.drop("b.png", "default")
    assert [None, None] == [scene.at(minute, since=60) for minute in (1, 100)]
    scene.lanes.get("default").took(0.1)
    assert SWAP == scene.at(101, since=60)


def test_one_that_is_kept_never_goes_and_one_that_is_broken_gets_no_place(scene: Scene) -> None:
    scene.drop("a.png")
    assert [None, None] == [scene.at(minute, keep=True) for minute in (0, 100)]
    assert [None, None] == [scene.at(minute, why=Refused(message="damaged")) for minute in (101, 200)]


def test_what_would_not_fit_is_not_looked_at_again_at_once(scene: Scene) -> None:
    scene.drop("a.png")
    scene.fits = False
    scene.at(0)
    for second in range(0, int(2 * AGAIN_SECONDS), 5):
        assert scene.at(10 + second / 60) is None
    assert 2 == scene.asked
