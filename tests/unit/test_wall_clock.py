"""That somebody has set the wall clock is told from the time that has passed."""

from __future__ import annotations

from watcherd.wall_clock import Step, WaitsClock, WallClock


def test_steps_either_way_are_told_once_and_time_that_passes_is_none() -> None:
    """Nor is a clock that a time server slews, however far it has come in all."""
    wall, steady = 1_000_000.0, 50.0
    clock = WallClock(wall=lambda: wall, steady=lambda: steady)
    assert clock.set_by() is None
    wall, steady = wall + 30, steady + 30
    assert clock.set_by() is None
    wall += 3600
    assert [Step(seconds=3600.0, before=wall), None] == [clock.set_by(), clock.set_by()]
    wall -= 86_400
    assert [Step(seconds=-86_400.0, before=wall), None] == [clock.set_by(), clock.set_by()]
    for _ in range(100):
        wall, steady = wall + 60.03, steady + 60
        assert clock.set_by() is None


def test_a_step_may_have_been_at_any_moment_since_the_last_look() -> None:
    """Two seconds ago: what the clock showed then, had it been set already."""
    wall, steady = 1_000_000.0, 50.0
    clock = WallClock(wall=lambda: wall, steady=lambda: steady)
    wall, steady = wall + 3602, steady + 2
    assert Step(seconds=3600.0, before=1_003_600.0) == clock.set_by()


def test_waits_are_judged_by_the_clock_that_they_were_written_by() -> None:
    """Until they are set: nothing that waits is due since somebody has set the clock forward."""
    wall, steady = 1_000_000.0, 50.0
    clock = WaitsClock(wall=lambda: wall, steady=lambda: steady)
    wall, steady = wall + 30.2, steady + 30
    assert 1_000_030.2 == clock.now().timestamp()
    wall += 86_400
    assert 1_000_030.0 == clock.now().timestamp()
    clock.waits_are_set(wall - steady)
    assert 1_086_430.2 == clock.now().timestamp()


def test_the_real_clocks_agree() -> None:
    """Nobody sets them meanwhile."""
    assert WallClock().set_by() is None
