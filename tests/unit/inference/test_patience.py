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


def learned(*kinds: WorkItem, most: float = 300.0, at_once: int = 1) -> Patience:
    """What has answered for one of each, after a tenth of a second."""
    patience = Patience(most)
    patience.begin(at_once)
    for kind in kinds:
        patience.heard(0.1)
        patience.ended([kind])
    return patience


def seconds(patience: Patience, *items: WorkItem) -> float:
    patience.at_hand([items])
    return patience.seconds


def test_a_replica_of_no_more_than_milliseconds_has_ten_seconds() -> None:
    """And never more than the configuration gives."""
    assert [10.0, 4.0] == [seconds(learned(item(), item(), most=most), item()) for most in (300.0, 4.0)]


def test_what_is_kept_of_sizes_does_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are too many, each is a first one again."""
    monkeypatch.setattr(patience, "KINDS", 2)
    learning = learned(*(item(width) for width in (1, 1, 2, 3)))
    assert [300.0, 10.0] == [seconds(learning, item(width)) for width in (1, 3)]


def test_frames_of_a_run_are_given_the_whole_time() -> None:
    """However short the last one was: the next may be of hundreds."""
    run = item(run="a#.png")
    learning = learned(item(), run, item(), run)
    assert [10.0, 300.0] == [seconds(learning, each) for each in (item(), run)]


def test_more_scans_than_are_computed_at_once_are_no_other_kind() -> None:
    """They are computed part by part, and each part is told of."""
    assert 10.0 == seconds(learned(item(), item(), at_once=1), *[item()] * 64)
    assert 300.0 == seconds(learned(item(), item(), at_once=16), *[item()] * 64)


def test_the_longest_silence_of_a_batch_is_its_measure() -> None:
    """Not the time that all of it took; of two batches at hand the longer one counts."""
    learning = learned(item(), item())
    for silence in (1.0, 3.0, 0.5):
        learning.heard(silence)
    learning.ended([item()])
    assert 60.0 == seconds(learning, item())
    learning.at_hand([[item()], [item(width=512)]])
    assert 300.0 == learning.seconds
