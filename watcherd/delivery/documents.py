"""The words that go with a scan's masks: the JSON of a result, the note of a scan that gave none. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from watcherd.file_names import show, storable
from watcherd.job import MAY_PASS, State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Promised(Protocol):
    """A result file with the name that it will have below the outbox."""

    @property
    def kind(self) -> str: ...
    @property
    def final(self) -> bytes: ...
    @property
    def sha256(self) -> str: ...
    @property
    def bytes(self) -> int: ...


def outputs(promised: Sequence[Promised]) -> list[dict[str, Any]]:
    """The result files as the record lists them."""
    return [
        {"kind": file.kind, "path": show(file.final), "sha256": file.sha256, "bytes": file.bytes} for file in promised
    ]


class Decoded(Protocol):
    """What reading the scan has shown."""

    @property
    def window(self) -> tuple[float, float] | None: ...
    @property
    def spacing_mm(self) -> tuple[float, float] | None: ...
    @property
    def frame_ms(self) -> float | None: ...
    @property
    def tags(self) -> Mapping[str, str]: ...


def of_the_source(decoded: Decoded | None) -> dict[str, Any]:
    """What a result says of its scan besides its size. ``dicom``: the attributes that the configuration asks for."""
    if decoded is None:
        return {"window": None, "spacing_mm": None, "frame_ms": None, "dicom": {}}
    return {
        "window": decoded.window,
        "spacing_mm": decoded.spacing_mm,
        "frame_ms": decoded.frame_ms,
        "dicom": {storable(keyword): storable(value) for keyword, value in decoded.tags.items()},
    }


def result_json(record: Mapping[str, Any], promised: Sequence[Promised], **changes: Any) -> bytes:
    """A result's JSON: the job's record with these files as its outputs."""
    document = {**record, **changes, "outputs": outputs(promised)}
    # A line for each key reads well, and costs a tenth of what json's own indentation does.
    lines = [f'  "{key}": {_value(value)}' for key, value in document.items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def joined(note: str | None, beside: str | None) -> str | None:
    """The note of a result: what is said of the scan, then what is said of the name that it was dropped under."""
    return "; ".join(filter(None, (note, beside))) or None


MEASURES = ("area_fraction", "components", "length", "mean_width", "max_width", "unit")


def measures(frames: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of a scan's masks: each frame's, and those of the frame with most mask as the history has them."""
    fullest = max(frames, key=lambda frame: float(frame["area_fraction"]), default=None)
    of_the_scan = {name: fullest[name] if fullest else None for name in MEASURES}
    return {"measured_frame": fullest["frame"] if fullest else None, **of_the_scan, "measures": list(frames)}


_encoded = json.JSONEncoder(ensure_ascii=False).encode
_quoted = json.encoder.encode_basestring


def _value(value: Any) -> str:
    """As JSON; most values of a record are words, numbers or missing, and the encoder is slow to start for them."""
    if value is None:
        return "null"
    kind = type(value)
    if kind is str:
        return _quoted(value)
    return str(value) if kind is int else _encoded(value)


_WHAT = {
    State.FAILED: "This scan gave no mask.",
    State.QUARANTINED: "This scan ended the program that worked on it, twice, and was set aside.",
    State.CANCELLED: "This scan was taken back before it was worked on.",
}


def failure_note(record: Mapping[str, Any], source: str, beside: str | None = None) -> bytes:
    """What a person finds instead of a mask: what happened, why, what to do, and what is said of the name."""
    state = State(record["state"])
    lines = [_WHAT[state], "", f"scan:     {source}"]
    if record["error"]:
        lines.append(f"why:      {record['error']}")
    if record["answer"]:
        lines.append(f"answer:   {record['answer']}")
    if record["advice"]:
        lines.append(f"to do:    {record['advice']}")
    if beside:
        lines.append(f"note:     {beside}")
    again = f"watcherd retry {record['id']}"
    lasting = record["error_class"] and record["error_class"] not in MAY_PASS
    when = " once the model or its settings have changed" if lasting else ""
    lines += [
        f"job:      {record['id']} ({record['error_class'] or state}, {_times(record['attempts'])})",
        f"when:     {record['finished_at']}",
        "",
        f"To have it tried again{when}: {again}. Dropping other bytes under this name is a new scan.",
    ]
    return ("\n".join(lines) + "\n").encode()


def _times(attempts: int) -> str:
    return "tried once" if attempts == 1 else f"tried {attempts} times"
