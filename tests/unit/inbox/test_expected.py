"""What the intake tells other threads of files that are not in the queue yet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from watcherd.inbox.expected import Expected


@pytest.fixture
def expected() -> Expected:
    """Of an inbox that has been swept."""
    made = Expected()
    made.swept(whole=True)
    return made


def test_everything_is_expected_until_the_inbox_was_swept(expected: Expected) -> None:
    assert not expected.may_bring(b"x/a_frame_")
    assert expected.nothing
    expected.swept(whole=False)
    assert expected.may_bring(b"x/a_frame_")
    assert not expected.nothing


def test_a_file_is_expected_while_it_is_waited_for(expected: Expected) -> None:
    """By the beginning of its path."""
    expected.waits_for(b"x/a_frame_1.png")
    expected.waits_for(b"x/a_frame_2.png")
    assert [True, False] == [expected.may_bring(before) for before in (b"x/a_frame_", b"x/b_frame_")]
    expected.forget(b"x/a_frame_1.png")
    assert expected.may_bring(b"x/a_frame_")
    expected.forget_all()
    assert not expected.may_bring(b"x/a_frame_")
    assert expected.nothing


def test_a_sidecar_whose_fate_is_open_brings_no_frame_but_keeps_the_service_busy(expected: Expected) -> None:
    expected.sidecars(waiting=True)
    assert not expected.nothing
    assert not expected.may_bring(b"")


def test_frames_that_were_left_by_an_earlier_run_wait_from_the_intakes_beginning(expected: Expected) -> None:
    before = datetime.now(UTC)
    expected.begin(timedelta(seconds=5))
    assert timedelta(seconds=5) == expected.quiet
    assert before <= expected.since <= datetime.now(UTC)
    since = expected.since
    expected.clock_was_set(-60.0)
    assert since - timedelta(seconds=60) == expected.since
