"""``watcherd compare``: two models on the same scans, beside each other or under any names, and what cannot be."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.integration.cli.conftest import Said
from tests.integration.store.helpers import MODEL, NOW, failure, scan, staged, start_run
from watcherd.cli.app import run
from watcherd.job import Options
from watcherd.store import Database, ForModel, InUse, ModelIdentity, arrivals, queue
from watcherd.values import Intent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from watcherd.store import Connection, NewArrival

TRIAL = ModelIdentity(segmenter="vessel", model="new", revision="7", dtype="float32")
FOR_TRIAL = Options(model="trial")
IN_USE = {
    "default": InUse(identity=MODEL, options=lambda _path, _overrides: Options()),
    "trial": InUse(name="trial", identity=TRIAL, options=lambda _path, _overrides: FOR_TRIAL),
}
SIZE = (40, 60)
GROUND = np.full(SIZE, 90, np.uint8)
CONFIG = """
[models.trial]
segmenter = "none"
[models.idle]
segmenter = "none"
[profiles.both]
folder = "both"
models = ["default", "trial"]
"""


def band(first: int, last: int) -> np.ndarray:
    """A mask of full rows."""
    mask = np.zeros(SIZE, np.uint8)
    mask[first:last] = 255
    return mask


class History:
    """A history of two models' jobs with masks that are known, and its outbox."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.outbox = folder / "outbox"
        self.folder = folder
        self.database = database
        self.run_id = database.write(start_run)

    def drop(self, *new: NewArrival) -> None:
        self.database.write(
            lambda c: arrivals.enqueue(c, new, model=MODEL, named={"trial": TRIAL}, run_id=self.run_id, now=NOW)
        )

    def done(self, model: str, mask: np.ndarray | None, ending: str = ".png") -> int:
        """The next job of a model has this mask; None: it fails. The job's number."""
        return self.database.write(lambda c: self._done(c, model, mask, ending))

    def _done(self, connection: Connection, model: str, mask: np.ndarray | None, ending: str) -> int:
        (job,) = queue.claim(connection, run_id=self.run_id, limit=1, now=NOW, in_use=IN_USE[model])
        if mask is None:
            queue.give_up(connection, job.claim, failure(), now=NOW)
            return job.id
        name = f"masks/{job.id}{ending}"
        path = self.outbox / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
        intent = Intent(
            kind="mask",
            staged=path,
            final=name.encode(),
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            bytes=path.stat().st_size,
        )
        json_of = replace(intent, kind="result", final=f"results/{job.id}.json".encode())
        queue.begin_delivery(connection, [replace(staged(job.claim), intents=[intent, json_of])], now=NOW)
        queue.finish_delivery(connection, [job.claim], now=NOW)
        return job.id


@pytest.fixture
def past(tmp_path: Path) -> Iterator[History]:
    (tmp_path / "state").mkdir()
    (tmp_path / "inbox").mkdir()
    (tmp_path / "config.toml").write_text(CONFIG)
    with Database.open(tmp_path / "state" / "watcherd.db") as database:
        yield History(tmp_path, database)


@pytest.fixture
def compare(past: History, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def call(*arguments: str) -> Said:
        capsys.readouterr()
        code = run(["compare", *arguments, "--config", str(past.folder / "config.toml")])
        said = capsys.readouterr()
        return Said(code=code, out=said.out, err=said.err)

    return call


def both(name: str, content: int | None = None) -> NewArrival:
    return replace(scan(name, content, options=Options(profile="both")), beside=(ForModel(options=FOR_TRIAL),))


def test_results_beside_each_other_are_compared_the_largest_differences_first(
    past: History, compare: Callable[..., Said]
) -> None:
    past.drop(both("both/same.png"), both("both/apart.png"), both("both/half.png"))
    for mask in (band(0, 10), band(0, 10), band(0, 10)):
        past.done("default", mask)
    for mask in (band(0, 10), band(20, 40), band(0, 30)):
        past.done("trial", mask)
    found = compare("default", "trial", "--json").json
    assert [("both/apart.png", 0.0, 0.5), ("both/half.png", 0.5, 1 / 3), ("both/same.png", 1.0, 1.0)] == [
        (one["name"], one["dice"], pytest.approx(one["ratio"])) for one in found["scans"]
    ]
    assert [600, 1200] == found["scans"][0]["areas"]
    assert [1, 1.0] == [found["scans"][2]["dice"], found["scans"][2]["cldice"]]
    assert (0.0, 0.5, 1.0, 0.5, 3) == tuple(
        found["summary"]["dice"][name] for name in ("least", "median", "most", "mean", "scans")
    )
    assert (3, {"default": 0, "trial": 0}, []) == (found["compared"], found["only"], found["problems"])
    assert [["vesselness vesselness 1"], ["vessel new 7"]] == [model["identities"] for model in found["models"]]
    turned = compare("trial", "default", "--json").json
    assert [2.0, 3.0, 1.0] == [pytest.approx(one["ratio"]) for one in turned["scans"]]
    assert [one["dice"] for one in found["scans"]] == [one["dice"] for one in turned["scans"]]
    said = compare("default", "trial")
    assert "3 scans compared: default (vesselness vesselness 1) and trial (vessel new 7)" in said.out
    assert said.out.index("both/apart.png") < said.out.index("both/half.png") < said.out.index("both/same.png")


def test_the_same_bytes_under_other_names_are_the_same_scan_where_they_were_asked_for_alike(
    past: History, compare: Callable[..., Said]
) -> None:
    """And what both have, but not of the same scan, is counted."""
    past.drop(scan("old/a.png", 1), scan("old/b.png", 2), scan("old/c.png", 3), scan("d.png", 4), scan("e.png", 5))
    for _ in range(4):
        past.done("default", band(0, 10))
    past.done("default", None)
    past.drop(
        scan("new/x.png", 1, options=FOR_TRIAL),
        scan("new/y.png", 2, options=replace(FOR_TRIAL, threshold=0.9)),
        scan("new/z.png", 3, options=replace(FOR_TRIAL, prompt="vessel")),
        scan("e.png", 5, options=FOR_TRIAL, mtime=2),
        scan("f.png", 6, options=FOR_TRIAL),
    )
    for _ in range(5):
        past.done("trial", band(0, 20))
    found = compare("default", "trial", "--json").json
    assert ["old/a.png (as new/x.png)", "old/c.png (as new/z.png)"] == sorted(one["name"] for one in found["scans"])
    assert [(1, 6), (3, 8)] == sorted(tuple(one["jobs"]) for one in found["scans"])
    assert ({"default": 1, "trial": 1}, {"default": 1, "trial": 0}) == (found["only"], found["failed"])
    (otherwise,) = found["asked_otherwise"]
    assert "old/b.png: jobs 2 and 7 were asked for with the thresholds 0.5 and 0.9." == otherwise
    said = compare("default", "trial").out
    assert "1 scan with a job of trial alone" in said
    assert "1 scan for which default gave no mask" in said
    assert "1 scan that both have done, asked for otherwise" in said


def test_a_part_of_the_scans_is_chosen_by_profile_folder_time_and_number(
    past: History, compare: Callable[..., Said]
) -> None:
    past.drop(both("both/a.png"), both("both/b.png"), scan("c.png", 3), scan("both2/d.png", 4))
    past.drop(
        *(scan(name, content, options=FOR_TRIAL, mtime=2) for name, content in (("c.png", 3), ("both2/d.png", 4)))
    )
    for model in IN_USE:
        for _ in range(4):
            past.done(model, band(0, 10))
    assert 4 == compare("default", "trial", "--json").json["compared"]
    assert 2 == compare("default", "trial", "--profile", "both", "--json").json["compared"]
    found = compare("default", "trial", "--folder", "both/", "--json").json
    assert ["both/a.png", "both/b.png"] == [one["name"] for one in found["scans"]]
    assert 65 == compare("default", "trial", "--since", "1h").code
    assert 4 == compare("default", "trial", "--since", "2026-01-01", "--json").json["compared"]
    some = compare("default", "trial", "--limit", "1", "--json").json
    assert (["both2/d.png"], 3) == ([one["name"] for one in some["scans"]], some["left_out"])


def test_the_largest_differences_are_drawn_on_their_scans(past: History, compare: Callable[..., Said]) -> None:
    """From the inbox, the archive or the spool, if the bytes are those; those of an earlier comparison go."""
    source = past.folder / "inbox" / "both" / "a.png"
    source.parent.mkdir()
    Image.fromarray(GROUND).save(source)
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    past.drop(replace(both("both/a.png"), sha256=sha256), both("both/gone.png"), both("both/same.png"))
    for model, last in (("default", 10), ("trial", 20)):
        for _ in range(2):
            past.done(model, band(0, last))
        past.done(model, band(0, 5))
    pictures = past.folder / "pictures"
    pictures.mkdir()
    (pictures / "7-old.jpg").write_bytes(b"of an earlier comparison")
    (pictures / "mine.jpg").write_bytes(b"a person's")
    found = compare("default", "trial", "--pictures", str(pictures), "--json").json
    drawn = {"1-a.jpg", "2-gone.jpg"}
    assert {*drawn, "mine.jpg"} == {path.name for path in pictures.iterdir()}
    assert sorted(str(pictures / name) for name in drawn) == sorted(found["pictures"])
    on_scan, on_black = (np.asarray(Image.open(pictures / name)) for name in sorted(drawn))
    empty = (slice(on_scan.shape[0] // 2, on_scan.shape[0] // 2 + 9), slice(0, 9))
    assert on_scan[empty].mean() > 30
    assert on_black[empty].mean() < 10


def test_masks_that_are_gone_changed_or_of_another_size_are_named_and_the_others_compared(
    past: History, compare: Callable[..., Said]
) -> None:
    past.drop(both("both/gone.png"), both("both/changed.png"), both("both/size.png"), both("both/good.png"))
    jobs = [past.done("default", band(0, 10)) for _ in range(4)]
    others = [past.done("trial", mask) for mask in (band(0, 10), band(0, 10), band(0, 10)[:20], band(0, 10))]
    (past.outbox / "masks" / f"{jobs[0]}.png").unlink()
    shutil.copy(past.outbox / "masks" / f"{others[2]}.png", past.outbox / "masks" / f"{others[1]}.png")
    said = compare("default", "trial")
    assert 0 == said.code
    changed, gone, size = said.err.splitlines()
    assert "both/gone.png: Job " in gone
    assert "cannot be read: No such file" in gone
    assert "was changed since it was delivered" in changed
    assert "60 x 20" in size
    assert "60 x 40" in size
    assert "3 scans that could not be compared" in said.out
    assert ["both/good.png"] == [one["name"] for one in compare("default", "trial", "--json").json["scans"]]
    shutil.rmtree(past.outbox)
    said = compare("default", "trial")
    assert 65 == said.code
    assert "Not one scan could be compared." in said.err


def test_what_makes_no_sense_is_refused_in_words(past: History, compare: Callable[..., Said]) -> None:
    past.drop(scan("a.png", 1), scan("b.png", 2, options=FOR_TRIAL), both("both/c.png"))
    past.done("default", band(0, 10))
    said = compare("default", "trail")
    assert 64 == said.code
    assert "There is no model 'trail', neither in the configuration nor in the history." in said.err
    assert "default, trial, idle" in said.err
    assert 64 == compare("trial", "trial").code
    said = compare("default", "idle")
    assert 65 == said.code
    assert "default and idle have done no scan in common." in said.err
    assert "2 scans have a job of default alone." in said.err
    said = compare("default", "trial")
    assert 65 == said.code
    assert "1 scan has a job of trial alone." in said.err
    assert "1 scans are not done yet." not in said.err
    assert "models = [...]" in said.err


def test_a_model_that_left_the_configuration_is_compared_by_its_history(
    past: History, compare: Callable[..., Said]
) -> None:
    past.drop(both("both/a.png"))
    for model in IN_USE:
        past.done(model, band(0, 10))
    (past.folder / "config.toml").write_text("")
    assert 1 == compare("default", "trial", "--json").json["compared"]
