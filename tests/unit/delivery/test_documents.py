"""The words beside the masks: a result's JSON, and the note of a scan that gave none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from watcherd.delivery.documents import failure_note, outputs, result_json
from watcherd.job import ErrorClass, State
from watcherd.values import Intent

MASK = Intent(kind="mask", staged=Path("/staging/1"), final=b"masks/M\xfcller \\1.png", sha256="ab" * 32, bytes=7)

RECORD: dict[str, Any] = {
    "id": 17,
    "state": "failed",
    "error": "The model gave no mask.",
    "error_class": ErrorClass.NO_MASK.value,
    "answer": "I see\nno vessel.",
    "advice": "Look at the prompt.",
    "attempts": 1,
    "finished_at": "2026-01-02T03:04:05.678Z",
}


def test_the_outputs_are_listed_as_promised() -> None:
    """Kind, path below the outbox as text, hash and size."""
    assert [{"kind": "mask", "path": r"masks/M\xfcller \\1.png", "sha256": "ab" * 32, "bytes": 7}] == outputs([MASK])


def test_a_results_json_is_the_record_with_these_files() -> None:
    """Every value comes back as it was; what is not known is null; earlier outputs are replaced."""
    record = {
        "id": 17,
        "source": 'a "quoted" \\ name\n.png',
        "answer": "Größe \u2028 \U0001f600 \x00",
        "mask_fraction": 0.1 + 0.2,
        "solo": False,
        "frames": True,
        "error": None,
        "devices": [{"device": "cpu", "vram_peak_allocated_mib": None}],
        "outputs": ["earlier"],
    }
    content = result_json(record, [MASK], duplicate_of=12, id=18)
    assert record | {"duplicate_of": 12, "id": 18, "outputs": outputs([MASK])} == json.loads(content)
    assert content.endswith(b"}\n")


def test_a_results_json_has_a_line_for_each_key() -> None:
    """So that it reads well, and grep finds one thing."""
    lines = result_json({"id": 1, "answer": "a\nb"}, []).decode().splitlines()
    assert ["{", '  "id": 1,', '  "answer": "a\\nb",', '  "outputs": []', "}"] == lines


@pytest.mark.parametrize("state", [State.FAILED, State.QUARANTINED, State.CANCELLED])
def test_a_note_says_what_why_and_what_to_do(state: State) -> None:
    """For every state that gives no mask."""
    said = failure_note(RECORD | {"state": state.value}, r"coronary/M\xfcller.png").decode()
    for words in (r"coronary/M\xfcller.png", "The model gave no mask.", "Look at the prompt.", "watcherd retry 17",
                  "no-mask", "tried once", "2026-01-02T03:04:05.678Z"):  # fmt: skip
        assert words in said, words


@pytest.mark.parametrize("kind", [None, *ErrorClass])
def test_a_note_does_not_advise_what_cannot_help(kind: ErrorClass | None) -> None:
    """A bad scan stays bad: only another model, or other settings, could make a mask of it."""
    said = failure_note(RECORD | {"error_class": kind and kind.value}, "a.png").decode()
    lasting = kind in (ErrorClass.INPUT, ErrorClass.NO_MASK)
    assert lasting == ("tried again once the model or its settings have changed: watcherd retry 17" in said)
    assert lasting != ("tried again: watcherd retry 17" in said)


def test_a_note_says_nothing_that_is_not_known() -> None:
    """A scan that was taken back has no error, and nothing is made up."""
    bare = RECORD | {"state": "cancelled", "error": None, "error_class": None, "answer": None, "advice": None}
    said = failure_note(bare, "a.png").decode()
    assert "None" not in said
    for word in ("why:", "answer:", "to do:"):
        assert word not in said
