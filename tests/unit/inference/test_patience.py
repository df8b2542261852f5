"""How long a replica may be silent, by what its batches have taken; its life is in test_supervisor.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from watcherd.inference.messages import WorkItem
from watcherd.inference.pool import patience
from watcherd.inference.pool.patience import Patience
from watcherd.job import Options

if TYPE_CHECKING:
    import pytest


def item(width: int = 24, run: str = "") -> WorkItem:
    nowhere = Path("/nowhere")
    return WorkItem(job_id=1, decoded=nowhere, frames=1, options=Options(), target=nowhere, size=(width, 16), run=run)


def test_a_replica_of_no_more_than_milliseconds_has_ten_seconds() -> None:
    """And never more than the configuration gives."""
    usual, short = Patience(300.0), Patience(4.0)
    for each in (usual, short):
        each.ended([item()], 0.001)
        each.ended([item()], 0.001)
    assert [10.0, 4.0] == [each.seconds([item()]) for each in (usual, short)]


def test_what_is_kept_of_sizes_does_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are too many, each is a first one again."""
    monkeypatch.setattr(patience, "KINDS", 2)
    learning = Patience(300.0)
    for width in (1, 1, 2, 3):
        learning.ended([item(width)], 0.1)
    assert [300.0, 10.0] == [learning.seconds([item(width)]) for width in (1, 3)]


def test_frames_of_a_run_are_given_the_whole_time() -> None:
    """However short the last one was: the next may be of hundreds."""
    learning = Patience(300.0)
    for _ in range(3):
        learning.ended([item()], 0.1)
        learning.ended([item(run="a#.png")], 0.1)
    assert [10.0, 300.0] == [learning.seconds([each]) for each in (item(), item(run="a#.png"))]
