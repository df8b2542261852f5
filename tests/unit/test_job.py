"""The states, their transitions, and the options of a job."""

import re
from pathlib import Path

import pytest

from watcherd.job import FINISHED, TRANSITIONS, Options, State, diagram, may_become

README = Path(__file__).parents[2] / "README.md"


def test_every_state_has_its_row_and_can_be_reached() -> None:
    """No state is forgotten in the table, and none but the first is without a way to it."""
    assert set(State) == set(TRANSITIONS)
    reached = {new for ways in TRANSITIONS.values() for new in ways}
    assert set(State) == reached


def test_every_finished_state_can_only_be_asked_for_again() -> None:
    """What has ended moves by a person's wish alone."""
    assert {State.QUEUED} == {new for state in FINISHED for new in TRANSITIONS[state]}


def test_a_running_job_cannot_succeed_without_being_delivered() -> None:
    """Success means that results are in the outbox."""
    assert not may_become(State.RUNNING, State.SUCCEEDED)
    assert may_become(State.DELIVERING, State.SUCCEEDED)


def test_the_readmes_picture_is_the_table() -> None:
    """The diagram is generated; run ``python -m watcherd.job`` and paste what it prints."""
    found = re.search(r"```mermaid\n(.*?)\n```", README.read_text(), re.DOTALL)
    assert found
    assert diagram() == found[1]


def test_options_come_back_as_they_were() -> None:
    """What is frozen into a job is read back equal."""
    options = Options(profile="coronary", threshold=0.25, outputs=("mask", "probability"), prompt="Ä", tta=True)
    assert options == Options.from_json(options.to_json())


def test_options_of_a_later_version_are_read() -> None:
    """An unknown key is left out rather than stopping the queue."""
    text = Options().to_json().replace("{", '{"colour_of_the_future":1,', 1)
    assert Options() == Options.from_json(text)


def test_instances_are_left_out_where_nobody_asks_for_them() -> None:
    """The keys of jobs from before there were any stay equal."""
    assert "instances" not in Options().to_json()
    asking = Options(instances=True)
    assert asking == Options.from_json(asking.to_json())


@pytest.mark.parametrize(
    "change", [{"threshold": 0.4}, {"prompt": "x"}, {"outputs": ("mask",)}, {"tta": True}, {"instances": True}]
)
def test_other_options_make_another_job(change: dict[str, object]) -> None:
    """Everything that may change the result is part of the key; so is the model."""
    assert Options().key("m") != Options(**change).key("m")  # type: ignore[arg-type]
    assert Options().key("m") != Options().key("n")
    assert Options().key("m") == Options().key("m")
