"""What the main process and a replica's process say to each other. Paths cross, pixels do not.

The replica is sent lists of `WorkItem`, and None at the end; it answers with lists of `FromReplica`: what came together
crosses together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeAlias

from watcherd.errors import JobError, NoMaskError
from watcherd.job import DEFAULT_MODEL, ErrorClass, Options
from watcherd.values import quickly_pickled

if TYPE_CHECKING:
    from pathlib import Path

    from watcherd.config import Log, Model
    from watcherd.formats.volumes import VolumeFile
    from watcherd.inference.base import ModelInfo, Placement
    from watcherd.values import DeviceUse


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaSpec:
    """Everything a replica's process needs to know at its start.

    ``name``: of its model, as the configuration calls it.
    ``visible``: UUIDs of its GPUs, in the order of ``placement.devices``; empty on a CPU.
    ``cache``: folder for measured reserves and golden answers. ``stack``: file for the stack dump of a hang.
    ``threads``: CPU threads for torch; 0: as torch likes. ``node``: the machine that it is to run on; empty: this one.
    """

    number: int
    name: str = DEFAULT_MODEL
    model: Model
    placement: Placement
    visible: tuple[str, ...] = ()
    cache: Path
    stack: Path
    log: Log
    hidden_names: bool = False
    threads: int = 0
    node: str = ""


@quickly_pickled
@dataclass(frozen=True, kw_only=True, slots=True)
class WorkItem:
    """One scan for a replica.

    ``decoded``: the ``.npy`` of its frames. ``target``: where results go, with ``-mask.npy`` and
    ``-probability.npy`` appended. ``run``: neighbours in a batch with the same one are the frames of one run, in
    order, or the channels of one case. ``note``: what the record says besides what the model has to say. ``modality``:
    as `Frame` has it. ``size``: width and height in pixels. ``volume``: the file's own numbers, for a model that takes
    volumes. ``channel``: the number in the name of a file that is one channel of a case; None for one that is the
    whole.
    """

    job_id: int
    decoded: Path
    frames: int
    options: Options
    target: Path
    run: str = ""
    note: str = ""
    modality: str = ""
    size: tuple[int, int] = (0, 0)
    volume: VolumeFile | None = None
    channel: int | None = None


@quickly_pickled
@dataclass(frozen=True, kw_only=True, slots=True)
class Segmented:
    """A scan's masks are computed: ``mask`` is uint8 (frames, height, width) of label values,
    ``probability`` uint16 of the same shape (65535 is 1), kept when it was asked for.

    ``inference_ms``: its frames' share of the wall time of their batches, so that shares add up to the time spent.
    ``batch_size``: frames in the largest of these batches. ``followed``: as a frame of a run, with the model's memory.
    """

    job_id: int
    mask: Path
    probability: Path | None
    classes: int
    labels: tuple[str, ...]
    answer: str | None
    decode: str | None
    note: str | None
    inference_ms: float
    batch_size: int
    devices: tuple[DeviceUse, ...]
    host_peak_rss_mib: float | None
    followed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class NotSegmented:
    """A scan gave no mask, and why."""

    job_id: int
    error_class: ErrorClass
    error: str
    hint: str = ""
    answer: str | None = None
    inference_ms: float | None = None
    batch_size: int | None = None
    devices: tuple[DeviceUse, ...] = ()
    host_peak_rss_mib: float | None = None

    @classmethod
    def of(cls, job_id: int, error: Exception) -> Self:
        """The record of an error that stopped one scan."""
        if not isinstance(error, JobError):
            what = f"the segmenter failed: {type(error).__name__}: {error}"
            return cls(job_id=job_id, error_class=ErrorClass.TRANSIENT, error=what)
        answer = error.answer if isinstance(error, NoMaskError) else None
        return cls(job_id=job_id, error_class=error.error_class, error=error.message, hint=error.hint, answer=answer)


@quickly_pickled
@dataclass(frozen=True, kw_only=True, slots=True)
class Marked:
    """A sign of life from the thread that owns the devices: its stage, the fraction done, the jobs at hand."""

    stage: str
    fraction: float | None = None
    jobs: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """The model is loaded and passed its checks. ``follows_runs``: it is a `watcherd.inference.base.RunSegmenter`.
    ``takes_volumes``: a `VolumeSegmenter`, of so many ``channels``."""

    info: ModelInfo
    load_ms: int
    batch_size: int
    weights: tuple[DeviceUse, ...]
    host_rss_mib: float | None
    follows_runs: bool = False
    takes_volumes: bool = False
    channels: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadFailed:
    """The model cannot be loaded as asked; trying the same again will not help."""

    message: str
    hint: str = ""
    exit_code: int = 69


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchEnded:
    """Every scan of the batch has been answered for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Poisoned:
    """The process's device context is broken; it exits now and answers for nothing more."""

    error: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Worn:
    """The process exits by itself, since an error inside the model may have left anything behind: another one is to be
    started. What it has answered for is sound."""

    error: str


Outcome: TypeAlias = Segmented | NotSegmented
FromReplica: TypeAlias = Outcome | Marked | Ready | LoadFailed | BatchEnded | Poisoned | Worn
