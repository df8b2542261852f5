"""The table of the kinds of files, and the lists that are made from it or stand beside it."""

from __future__ import annotations

from typing import get_args

from watcherd.config import Output
from watcherd.outputs import BY_NAME, DRAWN, TABLE


def test_the_configuration_may_ask_for_what_can_be_drawn_and_nothing_else() -> None:
    """In the same order: so the documentation lists them."""
    assert get_args(Output) == DRAWN


def test_no_two_kinds_share_a_name_or_a_folder() -> None:
    """Two files of one scan would have one path."""
    assert len(TABLE) == len(BY_NAME) == len({kind.folder for kind in TABLE})


def test_every_kind_has_a_suffix_that_is_taken_off_as_a_whole() -> None:
    from watcherd.outbox.deliver import suffix_of

    for kind in TABLE:
        assert kind.suffixes
        assert all(suffix == suffix_of(f"result.{kind.name}{suffix}") for suffix in kind.suffixes)
