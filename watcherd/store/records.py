"""What goes into the store and what comes out of it: plain values, no SQL.

Times are aware datetimes on the way in and ISO-8601 UTC text with milliseconds in the database
(``2026-01-02T03:04:05.678Z``): of fixed width, so that text compares as time does, and readable in the shell.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from watcherd.values import Signature

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from watcherd.job import ErrorClass, Options, State
    from watcherd.values import DeviceUse, FrameMeasure, Intent

Disposal = Literal["pending", "archived", "kept", "deleted", "changed", "gone", "failed"]
"""What was done with a dropped file after its job had ended; ``pending``: nothing yet."""

Delivery = Literal["waiting", "due", "intended", "delivered", "none"]
"""Where the visible result of one arrival is: its job is unfinished; to be written; names written down; in the
outbox; nothing to write, because an earlier arrival of the same name and job has it."""


def stamp(moment: datetime) -> str:
    """The text that a time is stored as. Raises `ValueError` for a naive datetime."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone; the store keeps UTC")
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def moment(text: str) -> datetime:
    """The time that `stamp` wrote."""
    return datetime.fromisoformat(text)


def milliseconds(start: str, end: str) -> int:
    """Between two stamps; 0 when a clock was set back in between."""
    return max(0, round((moment(end) - moment(start)).total_seconds() * 1000))


def signed(number: int) -> int:
    """An unsigned 64-bit number (``st_ino``, ``st_dev``) as SQLite can hold it: in two's complement."""
    return number - 2**64 if number >= 2**63 else number


Identity = tuple[bytes, int, int, int]


class PathSignature(NamedTuple):
    """A `Signature` with its path and ctime: whether the file there is still the one that was seen, and what about it.

    ``path`` is below the inbox. Flat, for it is a row of the tables, and a key that other rows are looked up by.

    ``ctime_ns`` changes with permissions too, which makes an ignored file worth another look. 0: not written down.
    """

    path: bytes
    size_bytes: int
    mtime_ns: int
    device: int
    inode: int
    ctime_ns: int = 0

    @classmethod
    def at(cls, path: bytes, file: Signature, ctime_ns: int) -> Self:
        """The signature of a file at this path."""
        return cls(path, file.size, file.mtime_ns, file.device, file.inode, ctime_ns)

    @property
    def of_file(self) -> Signature:
        """The same without the path, as the inbox compares it."""
        return Signature(size=self.size_bytes, mtime_ns=self.mtime_ns, device=self.device, inode=self.inode)

    def identity(self) -> Identity:
        """What makes it the same file: not the device, whose number changes when a share is mounted again."""
        return self.path, self.size_bytes, self.mtime_ns, signed(self.inode)

    def columns(self) -> dict[str, Any]:
        """The signature as it is stored."""
        return {
            "path": self.path,
            "size_bytes": self.size_bytes,
            "mtime_ns": self.mtime_ns,
            "device": signed(self.device),
            "inode": signed(self.inode),
            "ctime_ns": self.ctime_ns,
        }

    @classmethod
    def of(cls, row: Any) -> Self:
        """The signature in a row of ``arrival``."""
        device, inode = row.device % 2**64, row.inode % 2**64
        return cls(row.path, row.size_bytes, row.mtime_ns, device, inode, row.ctime_ns)


@dataclass(frozen=True, kw_only=True, slots=True)
class ForModel:
    """What a further model is to do with a file. ``not_before``: when its job may be claimed, if not at once."""

    options: Options
    not_before: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class NewArrival:
    """A file that lies in the spool, copied, hashed and synced, and has to become a job.

    ``spool_name``: the spool's copy, below the spool folder. ``seen_at``: when it was first seen in the inbox.
    ``not_before``: when its job may be claimed, if not at once. ``note``: what its record says beside, if anything.
    ``overrides``: what its sidecars say, a JSON object. ``beside``: what other models are to do with it besides.
    """

    signature: PathSignature
    sha256: str
    spool_name: str
    options: Options
    seen_at: datetime
    not_before: datetime | None = None
    note: str = ""
    overrides: str = "{}"
    beside: tuple[ForModel, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelIdentity:
    """Which model: what a job is for, and what made a result. Fields as ``ModelInfo`` of the inference package."""

    segmenter: str
    model: str
    revision: str
    dtype: str

    @property
    def key(self) -> str:
        """What makes two models the same for the purpose of not computing a scan twice."""
        return json.dumps([self.segmenter, self.model, self.revision, self.dtype])

    def columns(self) -> dict[str, str]:
        """Names and values, as they are stored and shown."""
        return {
            "segmenter": self.segmenter,
            "model": self.model,
            "model_revision": self.revision,
            "dtype": self.dtype,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Enqueued:
    """What became of one `NewArrival`.

    ``duplicate``: it shares the job of an earlier arrival. ``asked_again``: that job had failed with something that
    may pass, or had been cancelled, and waits in the queue again. ``known``: this very file had been taken before.
    ``beside``: the same of each other model that it is for; empty for a file that was known.
    """

    arrival_id: int
    job_id: int
    duplicate: bool = False
    asked_again: bool = False
    known: bool = False
    beside: tuple[Enqueued, ...] = ()


class Claim(NamedTuple):
    """The right to move a job: held from `claim` until the job is moved, and worthless afterwards."""

    job_id: int
    run_id: int
    attempt_id: int
    arrival_id: int
    """The job's first arrival, whose results are delivered with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlace:
    """Where a single file belongs that is a frame of a run.

    ``name``: the run's, for people. ``frame``: the number in the file's name. ``apart``: the run has other frames,
    which were claimed before, or have to wait. ``late``: it came after these had been claimed.
    """

    name: str
    frame: int
    apart: bool
    late: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimedJob:
    """A job to be worked on.

    ``attempt``: how often it was tried in all, this time included; ``tries``: since a person last asked for it, which
    is what the retry rules count. ``crashes_alone``: deaths of its worker while it ran alone. ``path``: of the first
    arrival, below the inbox, in bytes; ``source``: the same for people. ``model``: the one that is to run it.
    ``run``: for a frame of a run; the jobs of one claim are those of one run, or of none. ``beside``: the name of its
    model where another one's results have the usual paths; else empty.
    """

    claim: Claim
    path: bytes
    source: str
    sha256: str
    spool_name: str | None
    size_bytes: int
    options: Options
    model: ModelIdentity
    attempt: int
    tries: int
    crashes_alone: int
    interruptions: int
    solo: bool
    priority: int
    queue_ms: int
    run: RunPlace | None = None
    beside: str = ""

    @property
    def id(self) -> int:
        """The job's id."""
        return self.claim.job_id


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What an attempt measured, as far as it came. ``inference_ms``: its share of its batches' time; shares add up.

    ``computed_by``: the model of the replica that worked on it, where that is not the one that the job was claimed for.
    ``pictures``: which version's picture it saw (`watcherd.job.Options`), where that is not the one of the job.
    """

    replica_id: int | None = None
    computed_by: ModelIdentity | None = None
    pictures: int | None = None
    decode_ms: int | None = None
    inference_ms: int | None = None
    render_ms: int | None = None
    batch_size: int | None = None
    host_peak_rss_mib: float | None = None
    devices: tuple[DeviceUse, ...] = ()
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    format: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the model said about a scan. ``mask_fraction``: of the pixels, 0 to 1."""

    answer: str | None = None
    decode: str | None = None
    note: str | None = None
    threshold: float | None = None
    mask_fraction: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why an attempt failed: the class that decides what happens next, and for people what, why and what to do."""

    error_class: ErrorClass
    error: str
    advice: str = ""
    answer: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """A result that was promised or delivered, as it stands in the database."""

    id: int
    job_id: int
    arrival_id: int
    state: Literal["intended", "delivered", "removed"]
    intent: Intent


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrivalInfo:
    """One name that was dropped, with what is needed to deliver to it and to dispose of its file.

    ``duplicate_of``: the job it shares, or None for the job's own arrival. ``beside``: as of a `ClaimedJob`.
    ``state``: of its job; for a file that is to leave the inbox, that of a model's job that has not succeeded, if any.
    """

    id: int
    job_id: int
    state: State
    signature: PathSignature
    sha256: str
    source: str
    duplicate_of: int | None
    beside: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class StagedJob:
    """The results of one job, ready to be delivered under its first arrival's name."""

    claim: Claim
    intents: Sequence[Intent]
    measured: Measured = field(default_factory=Measured)
    answer: Answer = field(default_factory=Answer)
    measures: Sequence[FrameMeasure] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
