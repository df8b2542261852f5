"""What a scan's record says comes from all who had to do with it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from watcherd.flights import Drawn
from watcherd.job import Options


def drawn(*, model: str | None = None, scan: str = "", render: str | None = None) -> Drawn:
    flight = SimpleNamespace(job=SimpleNamespace(options=Options()), decoded=SimpleNamespace(note=scan))
    segmented = SimpleNamespace(answer=None, decode=None, note=model)
    return Drawn(
        flight=cast("Any", flight),
        rendered=cast("Any", SimpleNamespace(note=render, mask_fraction=0.5)),
        segmented=cast("Any", segmented),
    )


def test_the_note_has_what_the_model_the_scan_and_the_drawing_have_to_say() -> None:
    assert "one; two; three" == drawn(model="one", scan="two", render="three").answer.note
    assert "two" == drawn(scan="two").answer.note
    assert drawn().answer.note is None
