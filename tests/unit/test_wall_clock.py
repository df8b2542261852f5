"""That somebody has set the wall clock is told from the time that has passed."""

from __future__ import annotations

from watcherd.wall_clock import WallClock


def test_steps_either_way_are_told_once_and_time_that_passes_is_none() -> None:
    """Nor is a clock that a time server slews, however far it has come in all."""
    wall, steady = 1_000_000.0, 50.0
    clock = WallClock(wall=lambda: wall, steady=lambda: steady)
    assert 0.0 == clock.set_by()
    wall, steady = wall + 30, steady + 30
    assert 0.0 == clock.set_by()
    wall += 3600
    assert [3600.0, 0.0] == [clock.set_by(), clock.set_by()]
    wall -= 86_400
    assert [-86_400.0, 0.0] == [clock.set_by(), clock.set_by()]
    for _ in range(100):
        wall, steady = wall + 60.03, steady + 60
        assert 0.0 == clock.set_by()


def test_the_real_clocks_agree() -> None:
    """Nobody sets them meanwhile."""
    assert 0.0 == WallClock().set_by()
