"""``watcherd evaluate`` over masks that exist: in a folder, of past jobs, against others; and what it does with maps.

No model is run here: where one would be, maps stand in for it that are known.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import sqlite3
import sys
from base64 import b64encode
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.ndimage import gaussian_filter

from tests.integration.cli.conftest import Said
from tests.integration.store.helpers import claim_one, enqueue, intents, later, scan, staged, start_run
from watcherd.cli.app import run
from watcherd.errors import UnavailableError, UsageError
from watcherd.evaluation.figures import LEVELS, Judged, Score
from watcherd.evaluation.plots import _dice, _figure, _height
from watcherd.service import evaluated, trial
from watcherd.store import Database, queue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from watcherd.config import Config

SIZE = (64, 80)
NAMES = [f"p{patient}_{frame}" for patient in range(6) for frame in range(2)]


Evaluate = "Callable[..., Said]"


def truth_of(name: str) -> np.ndarray:
    chance = np.random.default_rng(NAMES.index(name))
    ground = gaussian_filter(chance.random(SIZE), 2)
    return ground > np.quantile(ground, 0.75)


def map_of(name: str) -> np.ndarray:
    """Of 16 bits; vessels are faint, so that a low threshold is better."""
    chance = np.random.default_rng(100 + NAMES.index(name))
    found = np.clip(0.4 * truth_of(name) + chance.normal(0.1, 0.12, SIZE), 0, 1)
    return np.round(found * LEVELS).astype(np.uint16)


def mask_of(name: str, threshold: float) -> np.ndarray:
    return map_of(name) > int(threshold * LEVELS)


def save(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255) if mask.dtype == bool else mask).save(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Drawn masks, those of two thresholds, maps and scans, and no configuration anywhere."""
    for name in NAMES:
        save(tmp_path / "drawn" / f"{name}_manual.png", truth_of(name))
        save(tmp_path / "low" / f"{name}.png", mask_of(name, 0.25))
        save(tmp_path / "high" / f"{name}.png", mask_of(name, 0.5))
        save(tmp_path / "maps" / f"{name}.png", map_of(name))
        save(tmp_path / "scans" / f"{name}.png", (map_of(name) >> 8).astype(np.uint8))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.delenv("WATCHERD_CONFIG", raising=False)
    monkeypatch.setattr("watcherd.config.toml_file.SEARCHED", (Path("config.toml"),))
    monkeypatch.setattr("watcherd.cli.evaluate_masks.SEARCHED", (Path("config.toml"),))
    return tmp_path


@pytest.fixture
def evaluate(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def call(*arguments: str | Path) -> Said:
        capsys.readouterr()
        code = run(["evaluate", "--masks", str(folder / "drawn"), *map(str, arguments)])
        said = capsys.readouterr()
        return Said(code=code, out=said.out, err=said.err)

    return call


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))


# ---------------------------------------------------------------------------------------------------- masks in a folder


def test_what_the_plots_need_is_missed_before_anything_is_computed(
    folder: Path, evaluate: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder may take hours."""
    monkeypatch.setattr(sys.modules["watcherd.cli.evaluate"], "find_spec", lambda _module: None)
    said = evaluate("--predictions", folder / "low")
    assert (69, 'Install it: pip install "watcherd[plots]"') == (said.code, said.err.splitlines()[-1])
    assert [] == list((folder / "empty").iterdir())


def test_masks_in_a_folder_are_judged_without_a_model_or_a_configuration(
    folder: Path, evaluate: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "segment", lambda *_, **__: pytest.fail("a model was run"))
    found = evaluate("--predictions", folder / "high", "--json").json
    expected = {f"{name}.png": dice(mask_of(name, 0.5), truth_of(name)) for name in NAMES}
    assert expected == pytest.approx({one["name"]: one["dice"] for one in found["scans"]}, abs=1e-9)
    assert found == json.loads((folder / "empty" / "evaluation" / "evaluation.json").read_text())
    assert {None} == {one["auc"] for one in found["scans"]}
    assert np.mean(list(expected.values())) == pytest.approx(found["summary"]["dice"]["mean"])
    with (folder / "empty" / "evaluation" / "scores.csv").open() as file:
        assert {"cldice", "hd95", "assd", "nsd", "auc", "ap", "betti0", "betti1", "length"} <= set(
            next(csv.reader(file))
        )


def test_the_sets_own_figures_weigh_as_they_are_defined(folder: Path, evaluate: Callable[..., Said]) -> None:
    found = evaluate("--predictions", folder / "low", "--json").json["summary"]
    pairs = [(mask_of(name, 0.25), truth_of(name)) for name in NAMES]
    both, either = ([int(each(mask, truth).sum()) for mask, truth in pairs] for each in (np.logical_and, np.logical_or))
    assert sum(both) / sum(either) == pytest.approx(found["ciou"]["mean"])
    assert np.mean(np.divide(both, either)) == pytest.approx(found["giou"]["mean"])
    assert found["ciou"]["low"] < found["ciou"]["mean"] < found["ciou"]["high"]


def test_label_maps_are_judged_by_class_too(folder: Path, evaluate: Callable[..., Said]) -> None:
    """Over the scans that have the class; all together as before. A mask of 0 and 255 has no classes."""
    expected = []
    for name in NAMES:
        own, truth = mask_of(name, 0.25), truth_of(name)
        right = np.arange(SIZE[1]) >= (30 if name != NAMES[0] else 999)
        labels = [area.astype(np.uint8) * (1 + right[np.newaxis].astype(np.uint8)) for area in (own, truth)]
        save(folder / "labels" / f"{name}.png", labels[0])
        save(folder / "drawn" / f"{name}_manual.png", labels[1])
        if right.any():
            expected.append(dice(labels[0] == 2, labels[1] == 2))
    found = evaluate("--predictions", folder / "labels", "--json").json
    assert {"1", "2"} == found["classes"].keys()
    assert np.mean(expected) == pytest.approx(found["classes"]["2"]["dice"]["mean"])
    assert 11 == found["classes"]["2"]["cldice"]["scans"]
    binary = evaluate("--predictions", folder / "low", "--json").json
    assert {} == binary["classes"]
    assert binary["summary"]["dice"] == found["summary"]["dice"]
    assert "Means by class" in evaluate("--predictions", folder / "labels").out


def test_groups_widen_intervals_and_are_read_from_names_or_folders(folder: Path, evaluate: Callable[..., Said]) -> None:
    alone = evaluate("--predictions", folder / "low", "--json").json
    found = evaluate("--predictions", folder / "low", "--group", r"(p\d)_", "--json").json
    assert {f"p{patient}" for patient in range(6)} == {one["group"] for one in found["scans"]}
    assert "Groups of scans: 6." in found["doubts"][0]
    assert [] == alone["doubts"]
    assert alone["summary"]["dice"]["low"] != found["summary"]["dice"]["low"]
    for said, hint in (
        (evaluate("--predictions", folder / "low", "--group", "(x"), "no regular expression"),
        (evaluate("--predictions", folder / "low", "--group", "q"), "does not fit the name"),
    ):
        assert 64 == said.code
        assert hint in said.err


def test_what_stands_alone_is_named(folder: Path, evaluate: Callable[..., Said]) -> None:
    save(folder / "low" / "nobody.png", np.zeros(SIZE, bool))
    save(folder / "drawn" / "unseen.png", np.zeros(SIZE, bool))
    found = evaluate("--predictions", folder / "low", "--json").json
    assert 12 == len(found["scans"])
    assert any("nobody.png has no mask" in problem for problem in found["problems"])
    assert any("unseen.png belongs to no scan" in problem for problem in found["problems"])


def test_the_longer_name_may_be_the_judged_ones_and_folders_may_differ(
    folder: Path, evaluate: Callable[..., Said]
) -> None:
    """`low/a/p0_0_manual_model.png` for `drawn/p0_0_manual.png`."""
    for name in NAMES:
        target = folder / "other" / "a" / f"{name}_manual_model.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        (folder / "low" / f"{name}.png").rename(target)
    found = evaluate("--predictions", folder / "other", "--json").json
    assert 12 == len(found["scans"])
    assert [] == found["problems"]


def test_scans_give_pictures_their_ground(folder: Path, evaluate: Callable[..., Said]) -> None:
    """And their names; without them pictures are drawn on black."""
    bare = evaluate("--predictions", folder / "low", "--out", "bare", "--json").json
    found = evaluate("--predictions", folder / "low", "--images", folder / "scans", "--out", "full", "--json").json
    sums = [np.asarray(Image.open(document["files"]["worst"][0])).sum(dtype=float) for document in (bare, found)]
    assert sums[0] < sums[1]
    assert bare["scans"] == found["scans"]


def test_runs_have_j_and_f_and_their_maps_are_read_page_by_page(folder: Path, evaluate: Callable[..., Said]) -> None:
    """Pixels of all frames together, J and F as means over them; single scans have none."""
    pages = {"low": mask_of, "drawn": lambda name, _: truth_of(name), "maps": lambda name, _: map_of(name)}
    for kind, of in pages.items():
        run_of = np.stack([of(name, 0.25) for name in NAMES[:3]])
        run_of = run_of.astype(np.uint8) * np.uint8(255) if run_of.dtype == bool else run_of
        tifffile.imwrite(folder / kind / "run.tif", run_of, photometric="minisblack")
    given = ("--predictions", folder / "low", "--probabilities", folder / "maps", "--json")
    scans = {one["name"]: one for one in evaluate(*given).json["scans"]}
    found, pairs = scans["run.tif"], [(mask_of(name, 0.25), truth_of(name)) for name in NAMES[:3]]
    assert np.mean([(mask & truth).sum() / (mask | truth).sum() for mask, truth in pairs]) == pytest.approx(found["j"])
    assert (found["j"] + found["f"]) / 2 == pytest.approx(found["jf"])
    masks, truths = (np.stack(areas) for areas in zip(*pairs, strict=True))
    assert dice(masks, truths) == pytest.approx(found["dice"])
    assert np.mean([scans[f"{name}.png"]["hd95"] for name in NAMES[:3]]) == pytest.approx(found["hd95"])
    assert found["auc"] > 0.9
    assert scans[f"{NAMES[0]}.png"]["j"] is None


def test_one_scan_will_do(folder: Path, evaluate: Callable[..., Said]) -> None:
    """It has figures, and no intervals."""
    for name in NAMES[1:]:
        (folder / "low" / f"{name}.png").unlink()
    found = evaluate("--predictions", folder / "low", "--against", folder / "high", "--json").json
    assert (1, None) == (found["summary"]["dice"]["scans"], found["summary"]["dice"]["low"])
    assert found["against"]["differences"]["dice"]["interval"] is None


# ------------------------------------------------------------------------------------------------- masks as people make


@pytest.mark.parametrize("kind", ["inverted", "soft", "said", "large"])
def test_odd_drawn_masks_are_told_with_what_was_done(folder: Path, evaluate: Callable[..., Said], kind: str) -> None:
    name = NAMES[0]
    path = folder / "drawn" / f"{name}_manual.png"
    truth = truth_of(name)
    path.unlink()
    if kind == "inverted":  # a boolean array: tifffile says that 0 is white
        tifffile.imwrite(path.with_suffix(".tif"), truth)
    elif kind == "soft":
        Image.fromarray((gaussian_filter(truth.astype(float), 1) * 255).astype(np.uint8)).save(path)
        truth = np.asarray(Image.open(path)) > 127
    elif kind == "said":
        save(path, ~truth)
    else:
        save(path, np.zeros((SIZE[1], SIZE[0]), bool))
    said = evaluate("--predictions", folder / "low", "--json")
    found = json.loads(said.out)
    scores = {one["name"]: one["dice"] for one in found["scans"]}
    words = {
        "inverted": "It was turned over: its black counts.",
        "soft": "is soft, with",
        "said": "75% of",
        "large": "It is as large as the other turned by 90 degrees.",
    }
    assert 1 == sum(words[kind] in problem for problem in found["problems"]), found["problems"]
    assert words[kind] in said.err
    if kind in ("inverted", "soft"):
        assert scores[f"{name}.png"] == pytest.approx(dice(mask_of(name, 0.25), truth), abs=2e-3)
    assert (kind == "large") == (f"{name}.png" not in scores)
    assert (65 if kind == "large" else 0) == said.code


def test_inverted_masks_can_be_said_to_be(folder: Path, evaluate: Callable[..., Said]) -> None:
    for name in NAMES:
        save(folder / "drawn" / f"{name}_manual.png", ~truth_of(name))
    found = evaluate("--predictions", folder / "low", "--inverted", "--json").json
    assert dice(mask_of(NAMES[0], 0.25), truth_of(NAMES[0])) == pytest.approx(found["scans"][0]["dice"])
    assert [] == found["problems"]


# ---------------------------------------------------------------------------------------------- maps, sweep, thresholds


def test_maps_give_auc_and_a_sweep_by_any_figure(folder: Path, evaluate: Callable[..., Said]) -> None:
    given = ("--predictions", folder / "high", "--probabilities", folder / "maps")
    found = evaluate(*given, "--by", "cldice", "--json").json
    assert min(one["auc"] for one in found["scans"]) > 0.9
    choice = found["choice"]
    assert ("cldice", 0.5) == (choice["figure"], choice["in_use"])
    means = {point["threshold"]: point["mean"] for point in choice["points"] if point["mean"] is not None}
    assert max(means.values()) == choice["best"]["mean"] == means[choice["best"]["threshold"]]
    assert choice["gain"]["interval"]["low"] > 0
    told = evaluate(*given)
    assert f"threshold = {found['best']['threshold']:g}" not in told.out.split("[model]")[0]
    assert "chosen on the scans that it is judged on" in told.out


def test_the_threshold_is_written_with_a_backup(folder: Path, evaluate: Callable[..., Said]) -> None:
    """Nothing else of the file changes, and its mode neither."""
    text = '# mine\n[model]\nthreshold = 0.5 # as before\r\n\n[profiles.retina]\nfolder = "retina"\n'
    config = folder / "empty" / "config.toml"
    config.write_bytes(text.encode())
    config.chmod(0o640)
    given = ("--predictions", folder / "high", "--probabilities", folder / "maps", "--write")
    said = evaluate(*given)
    assert 0 == said.code, said.err
    best = json.loads((folder / "empty" / "evaluation" / "evaluation.json").read_text())["best"]["threshold"]
    assert best < 0.5
    assert text.replace("0.5 #", f"{best:g} #") == config.read_bytes().decode()
    assert text == (folder / "empty" / "config.toml.before-1").read_bytes().decode()
    assert 0o640 == config.stat().st_mode & 0o777
    assert 0 == evaluate(*given, "--profile", "retina").code
    assert f'[profiles.retina]\nthreshold = {best:g}\nfolder = "retina"\n' in config.read_text()
    assert (folder / "empty" / "config.toml.before-2").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "There is nothing to judge"),
        (("--predictions", "low", "--jobs", ""), "exclude each other"),
        (("--probabilities", "maps", "--jobs", ""), "--probabilities needs --predictions"),
        (("--predictions", "low", "--threshold", "0.3"), "exist already"),
        (("--images", "scans", "--threshold", "0.3", "--write"), "--write needs a sweep"),
        (("--predictions", "low", "--write"), "no scan has a probability map"),
        (("--predictions", "low", "--by", "beauty"), "no figure of a threshold"),
        (("--predictions", "low", "--tolerance", "near"), "is no distance"),
        (("--predictions", "nowhere"), "is no folder"),
        (("--predictions", "empty"), "No scan in"),
        (("--jobs", "sins 7d"), "is not understood"),
    ],
)
def test_mistakes_are_explained(
    folder: Path, evaluate: Callable[..., Said], arguments: Sequence[str], said: str
) -> None:
    (folder / "empty" / "config.toml").write_text("")
    (folder / "empty" / "state").mkdir()
    Database.open(folder / "empty" / "state" / "watcherd.db").close()
    given = [folder / each if (folder / each).is_dir() and each else each for each in arguments]
    answer = evaluate(*given)
    assert answer.code in (64, 65)
    assert said in answer.err


# -------------------------------------------------------------------------------------------------------------- compare


def test_two_sets_of_masks_are_compared_scan_by_scan(folder: Path, evaluate: Callable[..., Said]) -> None:
    found = evaluate("--predictions", folder / "low", "--against", folder / "high", "--json").json
    gaps = [dice(mask_of(name, 0.25), truth_of(name)) - dice(mask_of(name, 0.5), truth_of(name)) for name in NAMES]
    difference = found["against"]["differences"]["dice"]
    assert np.mean(gaps) == pytest.approx(difference["mean"])
    assert 0 < difference["interval"]["low"] < difference["mean"] < difference["interval"]["high"]
    assert difference["p"] < 0.01
    assert f"{NAMES[int(np.argmax(np.abs(gaps)))]}.png" == found["against"]["most_apart"][0]
    drawn = [Path(path).name for path in found["files"]["differ"]]
    assert 10 == len(drawn)
    assert {"1a", "1b"} == {name.split("-")[0] for name in drawn[:2]}
    (folder / "high" / f"{NAMES[0]}.png").unlink()
    less = evaluate("--predictions", folder / "low", "--against", folder / "high", "--json").json
    assert 11 == less["against"]["differences"]["dice"]["scans"]
    assert any(f"{NAMES[0]}.png has no mask in" in problem for problem in less["problems"])


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """In place of the daemon: the maps cut at the threshold, as it would hand them back; and what it was given."""
    given: list[Config] = []

    def segment(
        config: Config, images: Sequence[Path], folder: Path, *, profile: str | None, threshold: float | None
    ) -> dict[str, trial.Segmented]:
        given.append(config)
        cut = config.model.threshold if threshold is None else threshold
        found = {}
        for image in images:
            mask, probability = folder / "masks" / image.name, folder / "maps" / image.name
            save(mask, mask_of(image.stem, cut))
            save(probability, map_of(image.stem))
            found[image.name] = trial.Segmented(mask=mask, probability=probability, model="stand-in 1")
        return found

    monkeypatch.setattr(trial, "segment", segment)
    return given


def test_an_empty_folder_without_a_configuration_will_do(
    folder: Path, evaluate: Callable[..., Said], model: list[Config]
) -> None:
    """It is the default model that is judged, and this is said."""
    said = evaluate("--images", folder / "scans", "--json")
    assert "There is no configuration: the default model is judged" in said.err
    assert 12 == len(said.json["scans"])
    assert "vessel" == model[0].model.segmenter
    assert ["evaluation"] == [path.name for path in (folder / "empty").iterdir()]


def test_a_configuration_that_is_named_and_not_there_is_an_error(
    folder: Path, evaluate: Callable[..., Said], model: list[Config]
) -> None:
    assert 78 == evaluate("--images", folder / "scans", "--config", folder / "nowhere.toml").code
    assert [] == model


def test_the_worked_example_of_the_docs(folder: Path, evaluate: Callable[..., Said], model: list[Config]) -> None:
    """Two thresholds, paired, with interval: the commands are those of docs/evaluate.md."""
    page = (Path(__file__).parents[3] / "docs" / "evaluate.md").read_text()
    commands = [line for line in page.splitlines() if line.startswith("watcherd evaluate") and "--out at-" in line]
    assert 2 == len(commands)
    answers, words = [], list[str]()
    for line in commands:
        words[:] = line.replace("DIR/images", str(folder / "scans")).replace("--masks DIR/masks ", "").split()[2:]
        answers.append(evaluate(*words))
        assert 0 == answers[-1].code, answers[-1].err
    document = json.loads((folder / "empty" / "at-0.5" / "evaluation.json").read_text())
    assert 0.5 == document["threshold"]
    gaps = [dice(mask_of(name, 0.5), truth_of(name)) - dice(mask_of(name, 0.25), truth_of(name)) for name in NAMES]
    assert np.mean(gaps) == pytest.approx(document["against"]["differences"]["dice"]["mean"])
    assert "These masks less those in at-0.25/masks, scan by scan" in answers[1].out
    again = evaluate(*words)
    assert 64 == again.code
    assert "--keep overwrites nothing" in again.err


# ------------------------------------------------------------------------------------------------------------ past jobs


@pytest.fixture
def history(folder: Path) -> Path:
    """Finished jobs of all scans, with masks and maps in an outbox; the first scan was done twice."""
    here = folder / "empty"
    (here / "config.toml").write_text("")
    (here / "state").mkdir()
    outbox = here / "outbox"
    with Database.open(here / "state" / "watcherd.db") as database:
        database.write(lambda connection: fill(connection, outbox))
    return outbox


def fill(connection: Any, outbox: Path) -> None:
    run_id = start_run(connection)
    for number, name in enumerate([NAMES[0], *NAMES]):
        enqueue(connection, run_id, scan(f"retina/{name}.png", number, mtime=number), now=later(minutes=number))
        claim = claim_one(connection, run_id, now=later(minutes=number))
        final = {"mask": f"masks/retina/{number}.png", "probability": f"probabilities/retina/{number}.png"}
        save(outbox / final["mask"], mask_of(name, 0.25))
        save(outbox / final["probability"], map_of(name))
        promised = [
            replace(
                intent,
                final=final[intent.kind].encode(),
                sha256=hashlib.sha256((outbox / final[intent.kind]).read_bytes()).hexdigest(),
                bytes=(outbox / final[intent.kind]).stat().st_size,
            )
            for intent in intents(name, tuple(final))
        ]
        queue.begin_delivery(connection, [replace(staged(claim), intents=promised)], now=later(minutes=number))
        queue.finish_delivery(connection, [claim], now=later(minutes=number))


def test_past_jobs_are_judged_by_what_lies_in_the_outbox(
    history: Path, evaluate: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest of each scan, whatever its result is called; nothing is segmented."""
    monkeypatch.setattr(trial, "segment", lambda *_, **__: pytest.fail("a model was run"))
    found = evaluate("--jobs", "since 2026-01-01", "--json").json
    expected = {f"retina/{name}.png": dice(mask_of(name, 0.25), truth_of(name)) for name in NAMES}
    assert expected == pytest.approx({one["name"]: one["dice"] for one in found["scans"]})
    assert ["vesselness vesselness 1"] == found["models"]
    assert 0.25 == found["threshold"] == found["choice"]["in_use"]
    assert [problem for problem in found["problems"] if "older than another" in problem]
    assert 65 == evaluate("--jobs", "since 2026-01-03").code
    assert 12 == len(evaluate("--jobs", "name 'retina/*' until 2027-01-01", "--json").json["scans"])


def test_of_two_models_jobs_for_a_scan_it_is_said_which_counts_and_how_to_choose(
    history: Path, evaluate: Callable[..., Said]
) -> None:
    with closing(sqlite3.connect(history.parent / "state" / "watcherd.db")) as connection, connection:
        connection.execute("UPDATE job SET options = json_set(options, '$.model', 'trial') WHERE id = 1")
    found = evaluate("--jobs", "", "--json").json
    (said,) = (problem for problem in found["problems"] if problem.startswith("Job 1,"))
    assert "is of the model trial, and job 2 of default counts: left out. Choose with --jobs 'model trial'." in said
    assert [f"retina/{NAMES[0]}.png"] == [
        one["name"] for one in evaluate("--jobs", "model trial", "--json").json["scans"]
    ]
    assert 12 == len(evaluate("--jobs", "model default", "--json").json["scans"])


def test_a_mask_that_was_changed_or_is_gone_is_not_judged_as_the_models(
    history: Path, evaluate: Callable[..., Said]
) -> None:
    save(history / "masks" / "retina" / "5.png", np.zeros(SIZE, bool))
    (history / "masks" / "retina" / "6.png").unlink()
    said = evaluate("--jobs", "", "--json")
    found = json.loads(said.out)
    assert 65 == said.code
    assert 10 == len(found["scans"])
    assert any("was changed since it was delivered" in problem for problem in found["problems"])
    assert any("cannot be read: No such file" in problem for problem in found["problems"])


# ------------------------------------------------------------------------------------------------------ in the history


def rows(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / "empty" / "state" / "watcherd.db")) as connection:
        return connection.execute(sql).fetchall()


def test_an_evaluation_is_a_row_of_the_history(folder: Path, history: Path, evaluate: Callable[..., Said]) -> None:
    """With its means and their intervals, and each scan's figures, so that models compare over months."""
    low = evaluate("--predictions", folder / "low", "--json").json
    high = evaluate("--predictions", folder / "high", "--against", folder / "low", "--json").json
    jobs = evaluate("--jobs", "since 2026-01-01", "--json").json
    assert [1, 2, 3] == [one["evaluation"] for one in (low, high, jobs)]
    told = rows(
        folder,
        "select source, judged, against, truth, scans, failed, dice, dice_low, cldice_high, hd95 "
        "from evaluations order by id",
    )
    dice, line, distance = (high["summary"][name] for name in ("dice", "cldice", "hd95"))
    expected = ("predictions", str(folder / "high"), str(folder / "low"), str(folder / "drawn"), len(NAMES), 0)
    assert (*expected, dice["mean"], dice["low"], line["high"], distance["mean"]) == told[1]
    assert [("predictions", None), ("jobs", None)] == [(told[0][0], told[0][2]), (told[2][0], told[2][2])]
    scans = rows(folder, "select name, dice, hd95, unit, group_name from evaluation_scans where evaluation_id = 2")
    assert {(one["name"], one["dice"], one["hd95"], one["unit"], one["group"]) for one in high["scans"]} == set(scans)


def test_what_cannot_be_kept_is_said_and_its_files_are_there(
    folder: Path, history: Path, evaluate: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures took their time: they are not thrown away."""

    def refuse(*_: Any) -> str:
        raise UnavailableError("The service does not answer.", hint="See watcherd status.")

    monkeypatch.setattr("watcherd.cli.evaluate_history.steered", refuse)
    said = evaluate("--predictions", folder / "low", "--json")
    assert said.json["evaluation"] is None
    assert "not in the history, only in its files: The service does not answer." in said.err
    assert Path(said.json["files"]["page"]).is_file()
    assert [] == rows(folder, "select * from evaluations")


def test_without_a_history_there_are_only_files(folder: Path, evaluate: Callable[..., Said]) -> None:
    """A configuration alone begins none."""
    assert evaluate("--predictions", folder / "low", "--json").json["evaluation"] is None
    (folder / "empty" / "config.toml").write_text("")
    assert evaluate("--predictions", folder / "low", "--json").json["evaluation"] is None
    assert not (folder / "empty" / "state").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": "guess"},
        {"scans": []},
        {"figures": {"dice": {"mean": float("nan")}}},
        {"failed": "none"},
        {"truth": 7},
    ],
)
def test_what_is_no_evaluation_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """Whoever may write into the mailbox may leave anything there."""
    one = {"name": "a", "group_name": "a", "unit": "px", "figures": {"dice": 1.0}}
    right = {
        "version": "1", "source": "images", "model": "m", "threshold": None, "profile": None, "truth": "t",
        "judged": "j", "against": None, "failed": 0, "figures": {"dice": {"mean": 1.0}}, "scans": [one],
    }  # fmt: skip
    with Database.open(tmp_path / "watcherd.db") as database:
        assert "evaluation 1" == evaluated.record(database, right, later())
        with pytest.raises(UsageError, match="no evaluation"):
            evaluated.record(database, right | wrong, later())


# ------------------------------------------------------------------------------------------------------------- pictures


def test_the_page_is_one_file_with_all_pictures_in_it(folder: Path, evaluate: Callable[..., Said]) -> None:
    """Plots, worst, best, and those that differ; nothing is asked for, and no words are obeyed."""
    save(folder / "low" / "p0_0<img src=x>.png", mask_of("p0_0", 0.25))
    (folder / "low" / "p0_0.png").unlink()
    (folder / "drawn" / "p0_0_manual.png").rename(folder / "drawn" / "p0_0<img src=x>_manual.png")
    found = evaluate("--predictions", folder / "low", "--against", folder / "high", "--json").json
    page = Path(found["files"]["page"]).read_text()
    pictures = [name for kind in ("worst", "best", "differ") for name in found["files"][kind]]
    assert 5 + 5 + 10 == len(pictures)
    assert len(pictures) == page.count("data:image/jpeg;base64,")
    assert 3 == page.count("data:image/png;base64,")
    assert all(b64encode(Path(name).read_bytes()).decode() in page for name in pictures)
    assert not re.search(r"<(?!img alt=)(img|script|link)|https?:", page)
    assert "img-src data:" in page
    best = [Path(name).stem.partition("-")[2] for name in found["files"]["best"]]
    ordered = sorted(found["scans"], key=lambda one: (one["dice"], one["name"]))
    assert [Path(one["name"]).stem for one in ordered[:-6:-1]] == best


@pytest.mark.parametrize("count", [3, 28, 60])
def test_names_in_the_plot_do_not_overlap(count: int) -> None:
    """Long ones too, and with signs that matplotlib would take for a formula."""
    judged = [
        Judged(
            name=f"{place}_a$very$long_name of a scan, of {count}{'x' * 60}.png",
            score=Score(both=place, invented=9, missed=9),
        )
        for place in range(count)
    ]
    figure, axes = _figure(3, _height(judged))
    _dice(axes[0], judged)
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in axes[0].get_yticklabels()]
    assert count == len(boxes)
    assert all(box.x0 >= 0 for box in boxes)
    tops = sorted((box.y0, box.y1) for box in boxes)
    assert all(upper[0] >= lower[1] - 1 for lower, upper in pairwise(tops))
    assert max(box.width for box in boxes) < axes[0].get_window_extent().width
