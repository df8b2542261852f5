"""Who may see the page: tokens, sessions and tries, by a clock that is passed in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from watcherd.errors import UnavailableError
from watcherd.web.access import (
    MOST_ADDRESSES,
    SESSION_SECONDS,
    TRIES,
    TRIES_IN_ALL,
    TRIES_SECONDS,
    Sessions,
    Tries,
    token,
)

if TYPE_CHECKING:
    from pathlib import Path


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_session_ends_by_itself() -> None:
    clock = Clock()
    sessions = Sessions("secret", clock)
    session = sessions.begin("Anna Müller.x")
    assert "Anna Müller.x" == sessions.who(session)
    clock.now += SESSION_SECONDS
    assert sessions.who(session) is None


def test_another_secret_ends_all_sessions_and_an_ended_one_stays_so() -> None:
    session = Sessions("secret").begin("x")
    assert Sessions("secret").who(session) == "x"
    assert Sessions("other").who(session) is None
    sessions = Sessions("secret")
    sessions.end(session)
    assert sessions.who(session) is None


def test_a_session_cannot_be_lengthened_or_given_to_another() -> None:
    sessions = Sessions("secret", Clock())
    until, nonce, name, signature = sessions.begin("x").split(".")
    for forged in ([str(int(until) + 1), nonce, name], [until, nonce, "cm9vdA"], [until, nonce + "a", name]):
        assert sessions.who(".".join([*forged, signature])) is None


def test_a_form_belongs_to_its_session() -> None:
    sessions = Sessions("secret")
    one, other = sessions.begin("x"), sessions.begin("x")
    assert sessions.is_form_token(one, sessions.form_token(one))
    assert not sessions.is_form_token(other, sessions.form_token(one))
    assert not sessions.is_form_token(one, "ä")


def test_the_secret_is_compared_whole() -> None:
    sessions = Sessions("secret")
    assert sessions.is_secret("secret")
    assert not [said for said in ("", "secre", "secret ", "SECRET", "\udcff"[:0]) if sessions.is_secret(said)]


def test_wrong_tries_wait_and_others_do_not() -> None:
    clock = Clock()
    tries = Tries(clock)
    for _ in range(TRIES):
        assert 0 == tries.wait("a")
        tries.failed("a")
    assert 0 < tries.wait("a") <= TRIES_SECONDS
    assert 0 == tries.wait("b")
    clock.now += TRIES_SECONDS
    assert 0 == tries.wait("a")


def test_many_addresses_together_wait_too_and_are_not_all_remembered() -> None:
    clock = Clock()
    tries = Tries(clock)
    for number in range(TRIES_IN_ALL):
        tries.failed(str(number))
    assert tries.wait("new") > 0
    for number in range(2 * MOST_ADDRESSES):
        tries.failed(str(number))
    assert len(tries._failed) == MOST_ADDRESSES


def test_a_token_is_made_once_and_belongs_to_its_owner(tmp_path: Path) -> None:
    made = token(tmp_path)
    assert len(made) >= 32
    (tmp_path / "web.token").chmod(0o644)
    assert made == token(tmp_path)
    assert 0o600 == (tmp_path / "web.token").stat().st_mode & 0o777


def test_a_token_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "web.token").write_text("\n")
    with pytest.raises(UnavailableError, match="holds no token"):
        token(tmp_path)
    (tmp_path / "web.token").unlink()
    (tmp_path / "web.token").symlink_to(tmp_path / "other")
    with pytest.raises(UnavailableError, match="cannot be kept"):
        token(tmp_path)
    with pytest.raises(UnavailableError, match="start watcherd once"):
        token(tmp_path / "nowhere")
