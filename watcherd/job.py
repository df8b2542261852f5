"""A job: its states, the table of transitions between them, and the options it was frozen with.

The picture of the states in the README is generated from `TRANSITIONS` (``python -m watcherd.job``).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any, Literal, Self

from watcherd.file_names import storable


class State(StrEnum):
    """Where a job is. The names are stored in the database and checked there."""

    QUEUED = "queued"
    """Waiting, from ``not_before`` on."""
    RUNNING = "running"
    """Claimed by this run of the daemon."""
    DELIVERING = "delivering"
    """Results are computed and staged; final names and hashes are written down."""
    SUCCEEDED = "succeeded"
    """Results are in the outbox."""
    FAILED = "failed"
    """Will not be tried again by itself; the reason is recorded."""
    QUARANTINED = "quarantined"
    """It killed its worker twice when run alone."""
    CANCELLED = "cancelled"
    """Taken back by a person."""


TRANSITIONS: dict[State, dict[State, str]] = {
    State.QUEUED: {
        State.RUNNING: "claimed",
        State.CANCELLED: "cancelled by a person",
    },
    State.RUNNING: {
        State.DELIVERING: "results staged",
        State.QUEUED: "retry, shutdown or crash",
        State.FAILED: "gave up",
        State.QUARANTINED: "killed its worker twice alone",
    },
    State.DELIVERING: {State.SUCCEEDED: "results renamed into place"},
    State.SUCCEEDED: {State.QUEUED: "asked for again"},
    State.FAILED: {State.QUEUED: "retry asked for"},
    State.QUARANTINED: {State.QUEUED: "retry asked for"},
    State.CANCELLED: {State.QUEUED: "retry asked for"},
}
"""For every state, the states it may become and why. Nothing else moves a job."""

FINISHED = frozenset({State.SUCCEEDED, State.FAILED, State.QUARANTINED, State.CANCELLED})
"""States in which a job waits for nobody."""


def may_become(old: State, new: State) -> bool:
    """Whether the table of transitions has a way from ``old`` to ``new``."""
    return new in TRANSITIONS[old]


class ErrorClass(StrEnum):
    """Why an attempt failed; decides what happens next (see ``retry.py``)."""

    INPUT = "input"
    """The file is bad: no retry."""
    TRANSIENT = "transient"
    """May pass: 30 s, 2 min, 10 min, with jitter."""
    MEMORY = "memory"
    """Not enough device memory: a smaller batch, alone, then as transient."""
    CRASH = "crash"
    """The worker died or hung: alone next, quarantined after two."""
    NO_MASK = "no-mask"
    """The model answered without a mask: failed, with its answer."""
    LOST = "lost"
    """The scan's own bytes are nowhere any more: failed, until they are dropped again."""


MAY_PASS = frozenset({ErrorClass.TRANSIENT, ErrorClass.MEMORY, ErrorClass.CRASH, ErrorClass.LOST})
"""A job that failed like this is tried again when its scan is dropped again; a bad file stays bad."""


class Fate(StrEnum):
    """What became of an arrival itself; a queued one's further fate is its job's state."""

    SETTLING = "settling"
    """Still changing, or still open for writing."""
    IGNORED = "ignored"
    """Not a scan; the reason is recorded."""
    QUEUED = "queued"
    """Ingested: it has a job of its own."""
    DUPLICATE = "duplicate"
    """The same bytes, options and model as an earlier arrival: it shares that one's job."""


UNREADABLE = "What the scan was asked for holds half a surrogate pair or a NUL, which is no text."

Decode = Literal["verify", "generate", "forced"]


DEFAULT_MODEL = "default"
"""The name of the model that does what no other one is asked for: that of the table ``[model]``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What one scan is to be done with: frozen into the job when the scan is ingested.

    ``model``: the name of the model that is to do it, as the configuration calls it.
    ``threshold``: a pixel belongs to the mask where its probability is greater than this, 0 to 1.
    ``outputs``: kinds of results, sorted. ``prompt``, ``draft`` and ``decode`` speak to models that read text.
    ``no_mask``: what an answer without a mask means, ``"fail"`` or ``"empty"``.
    ``tta``: average over flips (test-time augmentation).
    ``instances``: keep the instances of what is found apart, each with a label value of its own.
    ``group_frames``: treat single files of one run as video.
    ``kind``: the kind of image, ``"auto"``, ``"fundus"`` or ``"xray"``.
    ``frame``: for a file that is a frame of a run, its path as it is shown; else empty. A frame's mask also depends on
    its neighbours, so that equal bytes in another place are another job.
    ``pictures``: which version's picture of the file the model sees (`watcherd.formats.table.Format.pictures`); nobody
    asks for it: it follows from the file.
    ``refused``: why the scan's sidecar cannot be followed; its job fails with this.
    """

    profile: str = "default"
    model: str = DEFAULT_MODEL
    threshold: float = 0.5
    outputs: tuple[str, ...] = ("mask", "overlay")
    prompt: str = ""
    draft: str = ""
    decode: Decode = "verify"
    no_mask: Literal["fail", "empty"] = "fail"
    tta: bool = False
    instances: bool = False
    group_frames: bool = False
    kind: Literal["auto", "fundus", "xray"] = "auto"
    frame: str = ""
    pictures: int = 0
    refused: str = ""

    def to_json(self) -> str:
        """The options as canonical JSON: equal options give equal text, those of most scans the same as ever."""
        values = asdict(self)
        for rare in ("frame", "instances", "pictures", "refused"):
            if not values[rare]:
                del values[rare]
        if self.model == DEFAULT_MODEL:
            del values["model"]
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read back what `to_json` wrote; keys of a later version are left out."""
        known = {field.name for field in fields(cls)}
        values: dict[str, Any] = {key: value for key, value in json.loads(text).items() if key in known}
        if "outputs" in values:
            values["outputs"] = tuple(values["outputs"])
        return cls(**values)

    def checked(self) -> Self:
        """These options, refused if some text of theirs cannot be stored and read back."""
        values = (getattr(self, field.name) for field in fields(self))
        if all(value == storable(value) for value in values if isinstance(value, str)):
            return self
        return type(self)(profile=storable(self.profile), model=storable(self.model), refused=UNREADABLE)

    def for_picture(self, pictures: int) -> Self:
        """These options for a file of which this version's picture is made; one that is refused has none."""
        return self if self.refused or pictures == self.pictures else replace(self, pictures=pictures)

    @property
    def asks_for_probability(self) -> bool:
        """Whether the model's probabilities are wanted besides the mask that is made of them."""
        return "probability" in self.outputs

    def key(self, model_key: str) -> str:
        """What makes two jobs on the same bytes the same job: these options and the model, as SHA-256 in hex."""
        return hashlib.sha256(f"{self.to_json()}\n{model_key}".encode()).hexdigest()


def diagram() -> str:
    """The table of transitions as a Mermaid state diagram, as it stands in the README."""
    lines = ["stateDiagram-v2", "    [*] --> queued: ingested"]
    for old, ways in TRANSITIONS.items():
        lines += [f"    {old} --> {new}: {why}" for new, why in ways.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(diagram())
