"""`watcherd review` and `reviews`, and accepted masks as the truth of `watcherd evaluate`."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pytest

from watcherd.store import reader, reviews

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.cli.conftest import CommandLine


def test_a_verdict_is_kept_with_its_note_and_taken_back(watcherd: CommandLine) -> None:
    job = watcherd.job("a.png")
    assert "1 accepted\n" == watcherd("review", str(job), "--accept", "--note", "=good").out
    (row,) = watcherd("reviews", "--json").json
    assert (job, "accepted", "=good", "a.png") == (row["job_id"], row["verdict"], row["note"], row["source"])
    (cells,) = csv.DictReader(io.StringIO(watcherd("reviews", "--csv").out))
    assert "'=good" == cells["note"]
    assert [] == watcherd("reviews", "--rejected", "--json").json
    assert "1 rejected\n" == watcherd("review", str(job), "--reject").out
    assert "a.png" in watcherd("reviews").out
    watcherd("review", str(job), "--forget")
    assert [] == watcherd("reviews", "--json").json
    kinds = [event["kind"] for event in watcherd("show", str(job), "--json").json["events"]]
    assert ["accepted", "rejected", "review-taken-back"] == kinds[-3:]


def test_a_mask_that_is_made_anew_has_an_outdated_review(watcherd: CommandLine) -> None:
    job = watcherd.job("a.png")
    watcherd("review", str(job), "--accept")
    watcherd("retry", str(job))
    assert watcherd("reviews", "--json").json[0]["outdated"]


@pytest.mark.parametrize("arguments", [("--accept", "--reject"), (), ("--accept", "--forget")])
def test_one_verdict_is_wanted(watcherd: CommandLine, arguments: tuple[str, ...]) -> None:
    assert 64 == watcherd("review", "1", *arguments).code


def test_what_has_no_mask_cannot_be_accepted(watcherd: CommandLine) -> None:
    said = watcherd("review", str(watcherd.job("refused.png")), "--accept")
    assert (64, True) == (said.code, "no mask to review" in said.err)
    assert "There is no job 999" in watcherd("review", "999", "--accept").err
    assert 64 == watcherd("review", "1", "--accept", "--note", "x" * 2001).code


def test_accepted_masks_are_copied_under_their_scans_names(watcherd: CommandLine, tmp_path: Path) -> None:
    job, other = watcherd.job("a.png"), watcherd.job("coronary/b_1.png")
    watcherd("review", str(job), str(other), "--accept")
    (tmp_path / "outbox" / "masks" / "coronary" / "b_1.png").write_bytes(b"changed")
    said = watcherd("reviews", "--masks", str(tmp_path / "truth"))
    assert "was changed since it was delivered" in said.err
    assert (tmp_path / "outbox/masks/a.png").read_bytes() == (tmp_path / "truth" / "a.png").read_bytes()
    assert not (tmp_path / "truth" / "coronary").exists()


def test_accepted_masks_are_the_truth_of_an_evaluation(watcherd: CommandLine, tmp_path: Path) -> None:
    out = str(tmp_path / "evaluation")
    assert 65 == watcherd("evaluate", "--accepted", "--jobs", "", "--out", out).code
    assert 64 == watcherd("evaluate", "--jobs", "", "--out", out).code
    watcherd("review", str(watcherd.job("a.png")), "--accept")
    said = watcherd("evaluate", "--accepted", "--jobs", "", "--out", out)
    assert 0 == said.code, said.err
    found = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert [("a.png", 1.0)] == [(scan["name"], scan["dice"]) for scan in found["scans"]]
    again = watcherd("evaluate", "--accepted", "--jobs", "", "--out", out)
    assert (64, True) == (again.code, "not written over" in again.err)


def test_a_pruned_job_takes_its_review_along(watcherd: CommandLine) -> None:
    job = watcherd.job("a.png")
    watcherd("review", str(job), "--accept")
    watcherd.configure("[retention]\nhistory_days = 1e-9\n")
    watcherd("prune", "--trust-clock")
    with reader(watcherd.config.state.database) as connection:
        left = {row["job_id"] for row in reviews.every(connection)}
    assert left <= {record["id"] for record in watcherd("jobs", "--json").json}
