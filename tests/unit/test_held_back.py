"""What the intake tells the queue about the frames of a run: how long to wait, and whether more are on their way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.runs import a_run, one_lane
from watcherd.config import build
from watcherd.inbox.expected import Expected
from watcherd.inbox.requests import IntakeRequests
from watcherd.inbox.values import Candidate
from watcherd.intake.intake import Intake
from watcherd.intake.look import Sweep
from watcherd.job import DEFAULT_MODEL, Options
from watcherd.store.records import ForModel
from watcherd.values import Signature

if TYPE_CHECKING:
    from pathlib import Path

NOTHING = cast("Any", None)
NOW = datetime(2026, 1, 2, tzinfo=UTC)
SWEEP = Sweep(began=0.0, chunks=iter(()), full=True)


class Telling:
    """An intake, and what it tells other threads."""

    def __init__(self, folder: Path) -> None:
        values = {"inbox": {"run_quiet_seconds": 5.0, "sweep_seconds": 40.0}}
        self.requests, self.expected = IntakeRequests(), Expected()
        run, lane = a_run(build(values, base=folder)), one_lane(object(), follows_runs=True)
        self.intake = Intake(run, NOTHING, lane, self.requests, self.expected, lambda: None)

    def quiet(self) -> timedelta:
        self.intake._take_requests()
        return self.expected.quiet


@pytest.fixture
def telling(tmp_path: Path) -> Telling:
    """Its events tell of every new file, and it has swept the inbox once."""
    made = Telling(tmp_path)
    made.intake._presence.events = cast("Any", SimpleNamespace(complete=True))
    made.intake._look.sweeps.count_full()
    return made


def test_frames_are_held_back_and_other_scans_are_not(telling: Telling) -> None:
    """Only where runs are wanted, and only files that are named as frames."""
    into_queue = telling.intake._into_queue
    held_back = partial(into_queue._for_a_model, now=NOW, joins=into_queue._lanes.get(DEFAULT_MODEL))
    wanted = Options(group_frames=True)
    held = held_back(wanted, b"a_frame_1.png")
    assert ("a_frame_1.png", NOW + timedelta(seconds=5)) == (held.options.frame, held.not_before)
    for options, name in ((wanted, b"a_1.png"), (Options(), b"a_frame_1.png")):
        assert ForModel(options=options) == held_back(options, name)


def test_a_run_waits_for_a_sweep_where_events_do_not_tell_of_new_files(telling: Telling) -> None:
    """On a network share, or when not every folder can be watched."""
    presence = telling.intake._presence
    assert timedelta(seconds=45) == telling.expected.quiet, "known before anything is claimed"
    assert timedelta(seconds=5) == telling.quiet()
    presence.network = True
    assert timedelta(seconds=45) == telling.quiet()
    presence.network = False
    presence.events = cast("Any", SimpleNamespace(complete=False))
    assert timedelta(seconds=45) == telling.quiet()


def test_more_frames_are_expected_while_the_inbox_is_not_known(telling: Telling) -> None:
    """Before the first sweep, during one, when one is due, and while a file of the run is not taken yet."""
    sweeps, expected = telling.intake._look.sweeps, telling.expected.may_bring
    assert not expected(b"x/a_frame_")
    sweeps.need()
    assert expected(b"x/a_frame_")
    sweeps.begin(SWEEP)
    assert expected(b"x/a_frame_")
    sweeps.end_oldest()
    assert not expected(b"x/a_frame_")
    seen = Signature(size=1, mtime_ns=1, device=1, inode=1)
    telling.intake._waiting.settler.observe(
        Candidate(path=b"x/a_frame_2.png", signature=seen, ctime_ns=1, blocks=8), 0.0
    )
    assert expected(b"x/a_frame_")
    assert not expected(b"x/b_frame_")


def test_more_frames_are_expected_before_the_first_sweep(tmp_path: Path) -> None:
    telling = Telling(tmp_path)
    assert telling.expected.may_bring(b"x/a_frame_")
    telling.intake._look.sweeps.begin(SWEEP)
    telling.intake._look.sweeps.end_oldest()
    assert telling.expected.may_bring(b"x/a_frame_")
    telling.intake._look.sweeps.count_full()
    assert not telling.expected.may_bring(b"x/a_frame_")


def test_an_intake_is_idle_once_all_that_it_has_seen_is_taken(telling: Telling) -> None:
    """Files that are waited for, sidecars whose fate is open, and what other threads wait for keep it busy."""
    intake, expected = telling.intake, telling.expected
    assert intake.idle
    expected.waits_for(b"scan.png")
    assert not intake.idle
    expected.forget(b"scan.png")
    expected.sidecars(waiting=True)
    assert not intake.idle
    expected.sidecars(waiting=False)
    telling.requests._errands.append(lambda: None)
    assert not intake.idle
    intake._run_errands()
    assert intake.idle
