"""Times and signatures as they are stored."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcherd.store import PathSignature, moment, stamp
from watcherd.store.records import milliseconds, signed

MOMENTS = st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - the zone is beside it


@given(MOMENTS)
def test_a_time_comes_back_to_the_millisecond(time: datetime) -> None:
    assert moment(stamp(time)) == time.replace(microsecond=time.microsecond // 1000 * 1000)


@given(MOMENTS, MOMENTS)
def test_text_compares_as_time_does(one: datetime, other: datetime) -> None:
    assert (stamp(one) < stamp(other)) == (moment(stamp(one)) < moment(stamp(other)))


def test_a_time_is_stored_in_utc() -> None:
    there = datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=timezone(timedelta(hours=2)))
    assert stamp(there) == "2026-01-02T01:04:05.678Z"


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        stamp(datetime(2026, 1, 2))  # noqa: DTZ001 - the mistake itself


def test_a_clock_that_was_set_back_gives_no_negative_duration() -> None:
    assert milliseconds("2026-01-02T03:04:05.678Z", "2026-01-02T03:04:06.680Z") == 1002
    assert milliseconds("2026-01-02T03:04:06.680Z", "2026-01-02T03:04:05.678Z") == 0


@given(st.integers(0, 2**64 - 1))
def test_an_unsigned_number_fits_and_comes_back(number: int) -> None:
    assert -(2**63) <= signed(number) < 2**63
    assert signed(number) % 2**64 == number


def test_another_device_number_is_no_other_file() -> None:
    one = PathSignature(b"a.png", 1, 2, 3, 4)
    assert one.identity() == one._replace(device=9, ctime_ns=9).identity()
    for field in ("path", "size_bytes", "mtime_ns", "inode"):
        assert one.identity() != one._replace(**{field: b"b" if field == "path" else 9}).identity()
