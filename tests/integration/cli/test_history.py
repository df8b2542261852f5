"""``watcherd jobs`` and ``watcherd show``: for people, for scripts, for spreadsheets."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from tests.integration.store.test_history import DEVICE, PROMISED
from tests.terminal import on_a_terminal
from watcherd.cli.evaluate_results import _write_csv
from watcherd.cli.jobs import _print_csv, job_table
from watcherd.evaluation.figures import Judged, Score
from watcherd.status.units import for_spreadsheets

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.cli.conftest import CommandLine

OUTPUT = {"kind", "path", "sha256", "bytes"}


def sources(watcherd: CommandLine, *arguments: str) -> list[str]:
    return [record["source"] for record in watcherd("jobs", *arguments, "--json").json]


# ------------------------------------------------------------------------------------------------------------- jobs


def test_jobs_as_json_have_every_promised_field(watcherd: CommandLine) -> None:
    """Devices and outputs are lists; what is not known is null."""
    records = watcherd("jobs", "--json").json
    assert 4 == len(records)
    for record in records:
        assert PROMISED <= record.keys()
    done = next(record for record in records if record["source"] == "a.png")
    assert ("a.png", "succeeded", 24, 16, 1) == tuple(
        done[key] for key in ("source", "state", "width", "height", "frames")
    )
    assert {"mask", "overlay", "result"} == {output["kind"] for output in done["outputs"]}
    assert all(OUTPUT <= output.keys() for output in done["outputs"])
    (device,) = done["devices"]
    assert set(DEVICE) <= device.keys()
    assert device["vram_peak_allocated_mib"] is None


def test_the_newest_job_comes_first_unless_another_order_is_asked_for(watcherd: CommandLine) -> None:
    """``--sort`` takes oldest, and every duration, the longest first."""
    assert [4, 3, 2, 1] == [record["id"] for record in watcherd("jobs", "--json").json]
    assert [1, 2, 3, 4] == [record["id"] for record in watcherd("jobs", "--sort", "oldest", "--json").json]
    assert ["a.png", "coronary/b_1.png", "no vessel.png", "refused.png"] == sources(watcherd, "--sort", "name")
    ends = [record["finished_at"] for record in watcherd("jobs", "--sort", "finished", "--json").json]
    assert sorted(ends, reverse=True) == ends
    waits = [record["queue_ms"] or 0 for record in watcherd("jobs", "--sort", "queue_ms", "--json").json]
    assert sorted(waits, reverse=True) == waits


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--state", "succeeded"], {"a.png", "coronary/b_1.png"}),
        (["--state", "succeeded", "--state", "failed", "--profile", "coronary"], {"coronary/b_1.png"}),
        (["--limit", "0"], {"a.png", "coronary/b_1.png", "no vessel.png", "refused.png"}),
        (["--name", "again"], {"a.png"}),
        (["--name", "b_1"], {"coronary/b_1.png"}),
        (["--name", "b%1"], set()),
        (["--profile", "coronary"], {"coronary/b_1.png"}),
        (["--error-class", "no-mask"], {"no vessel.png"}),
        (["--error-class", "input"], {"refused.png"}),
        (["--since", "1h", "--state", "failed"], {"no vessel.png", "refused.png"}),
        (["--since", "2100-01-01"], set()),
        (["--until", "2100-01-01"], {"a.png", "coronary/b_1.png", "no vessel.png", "refused.png"}),
        (["--until", "1h"], set()),
        (["--since", "7d", "--until", "2000-01-01"], set()),
        (["--name", "coronary/*"], {"coronary/b_1.png"}),
        (["--name", "b_?.png"], {"coronary/b_1.png"}),
        (["--name", "?.png"], {"a.png"}),
        (["--name", "no*"], {"no vessel.png"}),
        (["--name", "vessel*"], set()),
    ],
)
def test_filters_choose(watcherd: CommandLine, arguments: list[str], expected: set[str]) -> None:
    """By state, name (any that was dropped, wildcards taken as they stand), profile, error class and age."""
    assert expected == set(sources(watcherd, *arguments))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--since", "yesterday"], "--since yesterday is no time"),
        (["--until", "soon"], "--until soon is no time"),
        (["--json", "--csv"], "--json and --csv exclude each other"),
        (["--sort", "beauty"], "--sort beauty is not an order"),
        (["--state", "happy"], "happy"),
        (["--limit", "-1"], "--limit"),
        (["--error-class", "fate"], "fate"),
    ],
)
def test_a_filter_that_makes_no_sense_is_a_usage_error(watcherd: CommandLine, arguments: list[str], said: str) -> None:
    """Exit code 64, and the option is named."""
    answer = watcherd("jobs", *arguments)
    assert (64, "") == (answer.code, answer.out)
    assert said in answer.err


def test_jobs_as_csv_open_in_a_spreadsheet(watcherd: CommandLine) -> None:
    """One row for each job, a head with the fields' names, and no lists in cells."""
    rows = list(csv.DictReader(io.StringIO(watcherd("jobs", "--csv").out)))
    thresholds = {"a.png": "0.5", "coronary/b_1.png": "0.25", "no vessel.png": "0.5", "refused.png": "0.5"}
    assert thresholds == {row["source"]: row["threshold"] for row in rows}
    assert PROMISED - {"devices", "outputs"} <= rows[0].keys()


@pytest.mark.parametrize(
    "text", ["=HYPERLINK(1)", "+1.png", "-rf.png", "@SUM(A1).png", "\t=1.png", "\r=1", "\uff1d1.png"]
)
def test_text_that_a_spreadsheet_would_compute_begins_with_an_apostrophe(text: str) -> None:
    """Anybody who may drop a file chooses its name. Numbers stay numbers."""
    assert f"'{text}" == for_spreadsheets(text)
    assert ["a=1.png", "", -1.5, None] == [for_spreadsheets(value) for value in ("a=1.png", "", -1.5, None)]


def test_every_csv_guards_its_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """That of the jobs, and that of an evaluation's scores."""
    record = {"source": "=cmd|' /C calc'!A0", "threshold": -0.5}
    written = io.StringIO()
    monkeypatch.setattr(sys, "stdout", written)
    _print_csv(["source", "threshold"], [record])
    monkeypatch.undo()
    assert ["'=cmd|' /C calc'!A0", "-0.5"] == list(csv.reader(io.StringIO(written.getvalue())))[1]
    score = Score(both=1, invented=0, missed=0)
    _write_csv(tmp_path / "scores.csv", [Judged(name="=1+1.png", score=score, group="=2+2")])
    assert "\n'=1+1.png,1.0" in (tmp_path / "scores.csv").read_text().replace("\r", "")


def test_csv_of_nothing_still_has_its_head(watcherd: CommandLine) -> None:
    """A script that reads the columns does not stumble over a day without scans."""
    full, empty = watcherd("jobs", "--csv").out, watcherd("jobs", "--csv", "--since", "2100-01-01").out
    assert full.splitlines()[0] == empty.strip()


def test_jobs_are_lines_of_tabs_when_nobody_looks(watcherd: CommandLine) -> None:
    """One line for each job, so that cut and awk work; an error of several lines is put on one."""
    head, *rows = watcherd("jobs").out.splitlines()
    assert ["id", "state", "source", "size", "mask", "queued", "inference", "finished", "error"] == head.split("\t")
    assert 4 == len(rows)
    assert {head.count("\t")} == {row.count("\t") for row in rows}


def test_jobs_fit_a_terminal_of_80_columns(watcherd: CommandLine) -> None:
    """On a terminal there is a table, no line wider than the terminal, with states and times in one piece."""
    lines = on_a_terminal("jobs", "--config", str(watcherd.config_file))
    assert not [line for line in lines if "\t" in line]
    assert 4 < len(lines)
    assert 80 >= max(map(len, lines))
    assert [line for line in lines if "The file is not an" in line], "there is no room left for words"
    assert 4 == sum(bool(re.search(r"(succeeded|failed) .*\d\d:\d\d", line)) for line in lines)


def test_a_narrow_terminal_keeps_room_for_names(watcherd: CommandLine) -> None:
    """It is spared the figures, which `show` has."""
    records, now = watcherd("jobs", "--json").json, datetime.now(UTC)
    for width, spared in ((50, True), (80, False)):
        console = Console(width=width, record=True, file=None, force_terminal=False)
        with console.capture() as captured:
            console.print(job_table(records, now, width=width))
        assert spared == ("took" not in captured.get())
        assert "coronary/b_1.png" in captured.get(), "a name is broken"


# ------------------------------------------------------------------------------------------------------------- show


def test_show_as_json_is_the_record_with_its_story(watcherd: CommandLine) -> None:
    """The promised fields, every transition, every attempt with its devices, every name with its results."""
    shown = watcherd("show", str(watcherd.job("a.png")), "--json").json
    assert PROMISED <= shown.keys()
    moves = [event["to_state"] for event in shown["events"] if event["to_state"]]
    assert ["queued", "running", "delivering", "succeeded"] == moves
    assert [1] == [attempt["number"] for attempt in shown["tries"]]
    assert shown["tries"][0]["devices"][0].keys() >= set(DEVICE)
    assert {"a.png": "queued", "again.png": "duplicate"} == {name["source"]: name["fate"] for name in shown["arrivals"]}
    for name in shown["arrivals"]:
        assert {"mask", "overlay", "result"} == {output["kind"] for output in name["outputs"]}
        assert "archived" == name["disposal"]


def test_show_tells_the_story_in_words(watcherd: CommandLine) -> None:
    """What happened, when, to which names; both names of a scan that was dropped twice."""
    said = watcherd("show", str(watcherd.job("a.png"))).out
    for words in ("a.png succeeded", "24 x 16", "threshold 0.5", "mask + overlay", "What happened", "Attempts",
                  "fake, revision ", "waited ", ", took ", "    cpu\n",
                  "again.png: the same scan again, file in the archive", "masks/again.png"):  # fmt: skip
        assert words in said, words


def test_show_says_why_a_scan_failed_and_what_to_do(watcherd: CommandLine) -> None:
    """The model's own answer too, where it spoke."""
    said = watcherd("show", str(watcherd.job("refused.png"))).out
    assert "why:" in said
    assert "to do:" in said
    assert 2 == said.count("The file is not an image"), "once at the top, once with its attempt"
    assert "I see no vessel here." in watcherd("show", str(watcherd.job("no vessel.png"))).out


def test_a_job_that_is_not_there_is_a_usage_error(watcherd: CommandLine) -> None:
    """Exit code 64, with the command that lists them."""
    answer = watcherd("show", "4711")
    assert (64, "") == (answer.code, answer.out)
    assert "There is no job 4711" in answer.err
    assert "watcherd jobs" in answer.err
    answer = watcherd("show", "one")
    assert 64 == answer.code
    assert "with 'one' in its name" in answer.err


def test_a_scan_is_found_by_its_name(watcherd: CommandLine) -> None:
    """By its whole name, by any name that was dropped, by a part of it that fits one."""
    for name in ("a.png", "again.png", "aga"):
        assert watcherd.job("a.png") == watcherd("show", name, "--json").json["id"], name
    answer = watcherd("show", "png")
    assert (64, "") == (answer.code, answer.out)
    assert "'png' fits several scans" in answer.err
    assert "refused.png" in answer.err


def test_without_a_display_the_picture_is_named(watcherd: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 69 and the way to it; a job that failed has none."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    answer = watcherd("show", "a.png", "--open")
    assert (69, "") == (answer.code, answer.out)
    assert "There is no display here" in answer.err
    assert str(watcherd.config.outbox.path / "overlays" / "a.jpg") in answer.err
    assert 64 == watcherd("show", "refused.png", "--open").code


def test_with_a_display_a_viewer_opens_the_overlay(
    watcherd: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """xdg-open gets the overlay's path as its one argument; if it fails, so does the command."""
    viewer, seen = tmp_path / "bin" / "xdg-open", tmp_path / "seen"
    viewer.parent.mkdir()
    viewer.write_text(f'#!/bin/sh\nprintf "%s" "$*" > "{seen}"; exit ${{FAIL:-0}}\n')
    viewer.chmod(0o755)
    monkeypatch.setenv("PATH", str(viewer.parent), prepend=os.pathsep)
    monkeypatch.setenv("DISPLAY", ":7")
    assert 0 == watcherd("show", "a.png", "--open").code
    assert str(watcherd.config.outbox.path / "overlays" / "a.jpg") == seen.read_text()
    monkeypatch.setenv("FAIL", "3")
    assert 69 == watcherd("show", "a.png", "--open").code


def test_show_fits_a_terminal_of_80_columns(watcherd: CommandLine) -> None:
    """Nothing is cut off; in a pipe each thing is on one line."""
    lines = on_a_terminal("show", "a.png", "--config", str(watcherd.config_file))
    assert 80 >= max(map(len, lines))
    assert [line for line in lines if "Names and results" in line]
    assert not [line for line in lines if "…" in line]


@pytest.mark.parametrize(("lines", "way"), [(1, "print"), (5000, "typer.echo")], ids=["at the end", "in the middle"])
def test_a_reader_that_has_seen_enough_is_no_error(lines: int, way: str) -> None:
    """``watcherd jobs | head -1`` ends quietly, whether the pipe breaks in the middle of the output or at its end."""
    program = CHATTY.format(lines=lines, way=way)
    reader, writer = os.pipe()
    os.close(reader)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    answer = subprocess.run(
        [sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, text=True, env=environment
    )
    os.close(writer)
    assert (0, "") == (answer.returncode, answer.stderr)


CHATTY = """
import sys, typer
from watcherd.cli import app as cli
@cli.app.command()
def chatter():
    for _ in range({lines}):
        {way}("x" * 100)
sys.exit(cli.run(["chatter"]))
"""
