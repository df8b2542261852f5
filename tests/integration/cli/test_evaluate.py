"""``watcherd evaluate`` over a small set whose figures are computed here once more, by numpy alone."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from watcherd.evaluation.agreement import COLOURS, agreement

if TYPE_CHECKING:
    from pathlib import Path

SIZE = (40, 56)
CONFIG = """\
[model]
segmenter = "fake"
[limits]
workers = 1
min_free_mib = 0
[profiles.bright]
folder = "bright"
threshold = 0.25
"""


def evaluate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "watcherd", "evaluate", "--images", folder / "images", "--masks", folder / "masks"]
    return subprocess.run(
        [*command, "--config", folder / "config.toml", "--out", folder / "out", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={key: value for key, value in os.environ.items() if not key.startswith("WATCHERD_")}
        | {"OMP_NUM_THREADS": "1"},
    )


def scans() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pixels and truth by name. Of the fake segmenter dark pixels are the mask, so its Dice is known."""
    chance = np.random.default_rng(7)
    found = {}
    for name, agreement_of in (("a", 0.95), ("b_1", 0.8), ("c", 0.6), ("d", 0.9), ("e", 0.7), ("f", 0.85)):
        pixels = chance.integers(0, 256, SIZE, np.uint8)
        truth = (pixels < 100) ^ (chance.random(SIZE) > agreement_of)
        found[name] = pixels, truth
    found["f"] = found["f"][0], np.zeros(SIZE, bool)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans with masks of every kind, fields of view, and things that belong to nothing."""
    root = tmp_path_factory.mktemp("set")
    for name in ("images", "masks", "fov"):
        (root / name).mkdir()
    (root / "config.toml").write_text(CONFIG)
    kinds: dict[str, Any] = {
        "a": lambda truth: Image.fromarray(truth.astype(np.uint8)),
        "b_1": lambda truth: Image.fromarray(np.repeat(truth[..., np.newaxis], 3, axis=2).astype(np.uint8) * 255),
        "c": Image.fromarray,
    }
    for name, (pixels, truth) in scans().items():
        Image.fromarray(pixels).save(root / "images" / f"{name}.png")
        make = kinds.get(name, lambda truth: Image.fromarray(truth.astype(np.uint8) * np.uint8(255)))
        make(truth).save(root / "masks" / f"{name}_manual.{'gif' if name == 'd' else 'png'}")
        field = np.zeros(SIZE, np.uint8)
        field[5:35, 8:50] = 255
        Image.fromarray(field).save(root / "fov" / f"{name}.png")
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(root / "images" / "alone.png")
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(root / "masks" / "nobody.png")
    return root


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    answer = evaluate(folder, "--fov", str(folder / "fov"), "--json")
    assert 0 == answer.returncode, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) if (mask | truth).any() else 1.0


INSIDE = (slice(5, 35), slice(8, 50))


def test_every_dice_is_that_of_numpy(report: dict[str, Any]) -> None:
    """Within 1e-6, inside the field of view, whatever the truth was stored as; an empty truth gives 0."""
    expected = {f"{name}.png": dice(pixels[INSIDE] <= 127, truth[INSIDE]) for name, (pixels, truth) in scans().items()}
    found = {scan["name"]: scan["dice"] for scan in report["scans"]}
    assert expected == pytest.approx(found, abs=1e-6)
    assert np.mean(list(expected.values())) == pytest.approx(report["summary"]["dice"]["mean"], abs=1e-9)
    assert 0 == expected["f.png"]


def test_the_sweep_is_that_of_numpy_and_names_the_best(report: dict[str, Any]) -> None:
    for point in report["sweep"]:
        cut = [
            dice((1 - pixels / 255)[INSIDE] > point["threshold"], truth[INSIDE]) for pixels, truth in scans().values()
        ]
        assert np.mean(cut) == pytest.approx(point["dice"], abs=2e-3)
    assert max(point["dice"] for point in report["sweep"]) == report["best"]["dice"]


def test_what_stands_alone_is_named_and_left_out(report: dict[str, Any]) -> None:
    assert 6 == len(report["scans"])
    alone, nobody = report["problems"]
    assert "alone.png has no mask" in alone
    assert "nobody.png belongs to no scan" in nobody


def test_files_are_there(report: dict[str, Any], folder: Path) -> None:
    """The table has every scan, the plots are pictures, and the five worst are drawn, the worst first."""
    with (folder / "out" / "scores.csv").open() as file:
        rows = {row["name"]: float(row["dice"]) for row in csv.DictReader(file)}
    assert {scan["name"]: scan["dice"] for scan in report["scans"]} == rows
    for name in ("plot.png", "reliability.png"):
        with Image.open(folder / "out" / name) as image:
            assert min(image.size) > 300
    names = sorted(path.name for path in (folder / "out" / "worst").iterdir())
    assert [f"{number}-{name[:-4]}.jpg" for number, name in enumerate(report["worst"], start=1)] == names
    assert "f.png" == report["worst"][0]
    assert 5 == len(names)


def test_nothing_of_the_trial_is_left_behind(report: dict[str, Any], folder: Path) -> None:
    """No inbox, no outbox, no history where the configuration would have them."""
    assert {"config.toml", "fov", "images", "masks", "out"} == {path.name for path in folder.iterdir()}


def test_a_profiles_threshold_and_runs_count(tmp_path: Path) -> None:
    """All frames of a run together; a mask of another size is an error that names both sizes, and the others count."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    (tmp_path / "config.toml").write_text(CONFIG)
    chance = np.random.default_rng(1)
    run = chance.integers(0, 256, (3, *SIZE), np.uint8)
    truth = run < 120
    tifffile.imwrite(tmp_path / "images" / "run.tif", run, photometric="minisblack")
    tifffile.imwrite(tmp_path / "masks" / "run.tif", truth.astype(np.uint8) * np.uint8(255), photometric="minisblack")
    for name, size in (("images", SIZE), ("masks", (SIZE[0], SIZE[1] + 1))):
        Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / name / "odd.png")
    answer = evaluate(tmp_path, "--profile", "bright")
    assert 65 == answer.returncode, answer.stderr
    assert "is 57 x 40, its scan 56 x 40" in answer.stderr
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in answer.stdout.splitlines() if "\t" in line}
    assert dice(run < 0.75 * 255, truth) == pytest.approx(float(rows["run.tif"][0]), abs=1e-4)
    assert "masks at threshold 0.25" in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--threshold", "2"), "neither sweep nor a number"),
        (("--suffix", "_nobody"), "No scan in"),
        (("--profile", "retina"), "There is no profile 'retina'"),
    ],
)
def test_mistakes_are_explained_before_the_model_is_loaded(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    answer = evaluate(folder, *arguments)
    assert answer.returncode in (64, 65)
    assert said in answer.stderr


def test_the_three_colours_show_agreement_misses_and_inventions() -> None:
    """And the legend below names them."""
    mask, truth = np.zeros((700, 700), bool), np.zeros((700, 700), bool)
    mask[100:300, 100:300] = truth[200:400, 100:300] = True
    picture = np.asarray(agreement(np.full((700, 700), 90, np.uint8), mask, truth, title="a: Dice 0.500"))
    for name, row in (("invented", 150), ("agreed", 250), ("missed", 350)):
        assert COLOURS[name] == tuple(picture[row, 200].tolist())
    legend = picture[700:]
    assert all((legend == colour).all(axis=2).any() for colour in COLOURS.values())
