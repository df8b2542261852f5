"""What the benchmarks decide without measuring: verdicts, slopes, the tables of the page, strace's counts."""

from __future__ import annotations

import io
import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib import import_module
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import __main__ as bench
from benchmarks import checkpoint_memory, end_to_end, gpu_sa2va, long_history, power_cut, report
from benchmarks.feeding import cpu_of_children
from benchmarks.figure import Figure, Target, number, quantile, slope
from benchmarks.own_cost import calls
from benchmarks.running import small_scan
from benchmarks.store_scale import NOW
from benchmarks.turns import Course, Turn
from tests import sa2va_training as training
from tests.sa2va_folder import DATA
from tests.sa2va_tiny import TRUNK
from watcherd.inference.segmenters.sa2va.prompt import Words
from watcherd.inference.segmenters.sa2va.renames import sources

ROOT = Path(__file__).parents[2]
MACHINES = ("machine-cpu", "machine-gpu", "machine-long")
CHAPTERS = [*bench.chapters(), *bench.long(), *bench.gpu("cpu")]

STRACE = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 90.00    0.900000          10     90000       120 futex
 10.00    0.100000          10        56           fdatasync
------ ----------- ----------- --------- --------- ----------------
100.00    1.000000                 90056       120 total
"""


def figure(**changes: object) -> Figure:
    values: dict[str, object] = {"name": "rate", "unit": "1/s", "values": [3.0, 1.0, 2.0], "definition": "so"}
    return Figure(**{**values, **changes})  # type: ignore[arg-type]


def measured(**chapters: list[Figure]) -> dict[str, object]:
    machine = {"cores": 2, "python": "3.11.7", "load_average": [0.4, 0, 0]}
    named = {name: [each.as_json() for each in figures] for name, figures in chapters.items()}
    return {"kind": "cpu", "chapters": named, "machine": machine, "quick": False, "seconds": 500.0}


@pytest.mark.parametrize(
    ("target", "value", "verdict"),
    [
        (Target(most=100), 100, "ok"),
        (Target(most=100), 150, "MISSED by 50 %"),
        (Target(least=0.95), 0.95, "ok"),
        (Target(least=2000), 1000, "MISSED by 50 %"),
    ],
)
def test_a_target_says_by_how_much_it_is_missed(target: Target, value: float, verdict: str) -> None:
    assert verdict == target.verdict(value)


def test_what_was_not_measured_reaches_no_target() -> None:
    assert "not measured" == figure(values=[], target=Target(most=1)).verdict
    assert "not measured" in report.line(figure(values=[]))


def test_a_ratio_of_all_runs_is_judged_and_not_the_median_of_the_ratios() -> None:
    both = figure(values=[1.0, 2.0, 3.0], overall=1.5, target=Target(least=1.6))
    assert ("MISSED by 6 %", 1.5, 2.0) == (both.verdict, both.as_json()["value"], both.as_json()["median"])
    assert " 1.50 " in report.line(both)


def test_a_slope_is_that_of_each_run() -> None:
    grows = slope("s", "ms", {1: [10.0, 1.0], 3: [14.0, 1.0]}, of="ms", against="frames", definition="so")
    assert [2.0, 0.0] == grows.values


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (1234.5, "1,234"), (0.00123, "0.00123"), (12.345, "12.3")])
def test_a_number_has_three_digits(value: float, text: str) -> None:
    assert text == number(value)


def test_a_quantile_is_one_of_the_values() -> None:
    assert [50, 99, 100] == [quantile(range(1, 101), place) for place in (0.5, 0.99, 1.0)]


def test_straces_table_is_read_with_and_without_errors() -> None:
    assert {"futex": 90000, "fdatasync": 56} == calls(STRACE)


def test_the_cpu_of_a_child_is_still_known_when_it_has_ended() -> None:
    before = cpu_of_children(os.getpid())
    busy = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    child = subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    alive = cpu_of_children(os.getpid()) - before
    child.communicate()
    ended = cpu_of_children(os.getpid()) - before
    assert alive == pytest.approx(0.3, abs=0.1)
    assert ended == pytest.approx(alive, abs=0.1)


def test_only_the_time_of_a_ways_own_turns_counts() -> None:
    """Standing still does not, nor what it waits for at first; it may have ended before its last turn was over."""
    course = Course(waits=0.2, cpu=0.0, slices=[(10.0, 11.0), (13.0, 14.0)])
    assert [0.3, 1.3, 1.8] == [pytest.approx(course.seconds_until(end)) for end in (10.5, 13.5, 20.0)]


@pytest.mark.parametrize(("name", "limits"), [("vessel", [0.8]), ("none", [])])
def test_the_model_alone_is_the_limit_where_there_is_a_model(name: str, limits: list[float]) -> None:
    seconds = {"daemon": 0.5, "script": 0.6, "dataloader": 0.5, "model": 0.4}
    turns = {way: [Turn(seconds=each, cpu_seconds=each)] * 5 for way, each in seconds.items()}
    figures = {figure.name: figure for figure in end_to_end.figures(name, 10, 2.0, 4, turns)}
    assert figures[f"{name}: daemon over straight script"].value == pytest.approx(1.2)
    assert [each.value for said, each in figures.items() if said == f"{name}: daemon over model alone"] == limits
    assert figures["  model"].value == pytest.approx(2.5)


def test_small_scans_differ_and_can_be_opened() -> None:
    scans = [small_scan(number) for number in (0, 1, 1_000_000)]
    assert 3 == len(set(scans))
    assert {(24, 16)} == {Image.open(io.BytesIO(scan)).size for scan in scans}


def test_a_history_too_long_to_be_checked_is_made_like_a_checked_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(name: str) -> str:
        long_history.make(tmp_path / name, 300, now=NOW, waiting=10)
        with closing(sqlite3.connect(tmp_path / name)) as connection:
            return "\n".join(connection.iterdump())

    checked = made("checked.db")
    monkeypatch.setattr(long_history, "MOST_CHECKED", 0)
    assert checked == made("unchecked.db")


def test_the_tables_of_the_page_come_from_the_json(tmp_path: Path) -> None:
    """Other chapters and all prose stay; doing it twice changes nothing."""
    page = tmp_path / "page.md"
    page.write_text(
        "# Prose\n<!-- bench: machine-cpu -->\n<!-- bench: end -->\nmore\n"
        "<!-- bench: job -->\nold\n<!-- bench: end -->\n<!-- bench: idle -->\nkept\n<!-- bench: end -->\n"
    )
    (tmp_path / "bench.json").write_text(json.dumps(measured(job=[figure(target=Target(least=4))])))
    bench.write_docs(tmp_path, page)
    text = page.read_text()
    assert "| rate | 2.00 1/s | 1.00 to 3.00 | 3 | at least 4: MISSED by 50 % |" in text
    assert ("old" not in text, "kept" in text, "more" in text, "2 cores" in text) == (True,) * 4
    bench.write_docs(tmp_path, page)
    assert text == page.read_text()


def test_a_chapter_without_a_place_on_the_page_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for 'job'"):
        report.with_tables("# Empty\n", measured(job=[figure()]))


def test_every_chapter_has_its_place_on_the_page() -> None:
    places = re.findall(r"<!-- bench: ([\w-]+) -->", (ROOT / "docs" / "performance.md").read_text())
    assert sorted([*MACHINES, *CHAPTERS]) == sorted(name for name in places if name != "end")


def test_quick_measures_the_same_chapters() -> None:
    assert list(bench.chapters()) == list(bench.quick())


def test_a_chapter_of_another_kind_is_refused_and_not_left_out() -> None:
    assert ["job"] == list(bench.asked_for(bench.parse(["--only", "job"])))
    assert list(bench.long()) == list(bench.asked_for(bench.parse(["--long"])))
    with pytest.raises(SystemExit, match="job-scale: not among start, idle"):
        bench.asked_for(bench.parse(["--only", "job", "--only", "job-scale"]))


def test_without_a_gpu_nothing_is_measured_in_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only to see that it runs may a CPU stand in."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "cpu" == bench.the_gpu(quickly=True)
    with pytest.raises(SystemExit, match="no GPU here"):
        bench.the_gpu(quickly=False)


def test_a_full_size_models_folder_holds_what_the_network_held() -> None:
    """Under the checkpoint's names, from which `renames` makes ours again; two of ours are one tensor there."""
    config, words = gpu_sa2va.small(), Words(DATA / "tokenizer")
    network = gpu_sa2va.build(config, words, "cpu", torch.float32).state_dict()
    stored = gpu_sa2va.as_checkpoint(network)
    origins = sources(network)
    assert set(stored) == {name for origin in origins.values() for name in origin.names}
    taken = {name: origin.take([stored[source] for source in origin.names]) for name, origin in origins.items()}
    different = [name for name in network if not torch.equal(network[name], taken[name])]
    assert ["sam2.shared_image_embedding.positional_embedding"] == different


def test_a_made_checkpoint_is_one_and_its_random_numbers_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In files of holes, filled in place; the model that they make gives numbers, and the same when it is split."""
    training.small_sam2(monkeypatch, TRUNK)
    empty = checkpoint_memory.write(tmp_path / "holes", "layer-norm")
    assert empty.path.stat().st_size > 4 * 512 * empty.path.stat().st_blocks
    filled = checkpoint_memory.write(tmp_path / "filled", "layer-norm", filled=True)
    assert "" == filled.warning
    one = training.loaded(filled, {"": "cpu"}, "bfloat16")
    parameters = dict(one.engine.network.named_parameters())
    assert [] == [name for name, each in parameters.items() if not each.isfinite().all() or not each.any()]
    split = training.loaded(filled, {"": "cpu", "language.model.layers.1": "cpu"}, "bfloat16")
    first, second = training.probability_of(one), training.probability_of(split)
    assert (first == second).all()
    assert first.std() > 0
    with checkpoint_memory.Peak() as peak:
        checkpoint_memory.load(filled, "cpu")
    assert 0 < peak.bytes


def test_what_grows_is_drawn(tmp_path: Path) -> None:
    grows = slope("s", "ms", {1: [10.0], 3: [14.0]}, of="ms", against="frames", definition="so")
    bench.save(measured(frames=[grows, figure()]), tmp_path / "new")
    assert {"bench.json", "bench.png"} == {path.name for path in (tmp_path / "new").iterdir()}


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_every_module_can_be_imported(path: Path) -> None:
    import_module(f"benchmarks.{path.stem}")


@pytest.mark.parametrize(
    ("problem", "sort"),
    [
        ("a.png: its bytes are nowhere", "lost"),
        ("scan 01234567: its copy is not in the spool", "lost"),
        ("a.json: lists masks/a.png, which is not there or differs", "half-written"),
        ("scan 01234567: its copy holds other bytes", "half-written"),
        ("a.png: has one result too many (01234567)", "double"),
        ("job 1 was done 2 times", "double"),
        ("job 1 is still running", "unfinished"),
    ],
)
def test_what_a_power_cut_did_is_told_apart(problem: str, sort: str) -> None:
    """By the words of the invariants."""
    assert sort == power_cut.sort_of(problem)


@pytest.mark.parametrize(("cuts", "kinds"), [(300, 4), (7, 4), (1, 1), (99, 2)])
def test_power_cuts_are_shared_out_among_the_disks(cuts: int, kinds: int) -> None:
    """All of them, as evenly as can be, and not too many in one life of a daemon."""
    rounds = power_cut._shared_out(cuts, kinds)
    assert cuts == sum(rounds)
    assert 0 == len(rounds) % kinds
    assert max(rounds) <= power_cut.ROUND
    assert max(rounds) - min(rounds) <= 1


def test_a_machine_without_what_it_takes_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an exit code of its own, and in words."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["power_cut", "--cuts", "1"])
    assert power_cut.SKIPPED == power_cut.main()
