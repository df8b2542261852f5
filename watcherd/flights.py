"""Jobs under way: what has come of each, how each comes back from a station, and the register of them all."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Any

from watcherd.errors import JobError, TransientError
from watcherd.file_names import storable
from watcherd.store import Answer, Measured, ModelIdentity

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from watcherd.imaging.values import Decoded, Rendered
    from watcherd.inference.messages import NotSegmented, Segmented
    from watcherd.store import ClaimedJob
    from watcherd.values import FrameMeasure


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a frame stood among the frames that were segmented in one go.

    ``name``: the run's, with ``#`` for the number. ``frame``: the number in the file's name. ``position``: from 1;
    ``frames``: of how many.
    """

    name: str
    frame: int
    position: int
    frames: int

    def record(self, *, followed: bool) -> dict[str, Any]:
        """As it stands in the result's JSON. ``followed``: with the model's memory from frame to frame."""
        return {
            "name": self.name,
            "frame": self.frame,
            "position": self.position,
            "frames": self.frames,
            "followed": followed,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaRecord:
    """A replica as the history knows it: its row, and the model that it has loaded."""

    id: int | None
    model: ModelIdentity


@dataclass(slots=True, eq=False)
class Flight:
    """A claimed job, with what has come of it so far. ``render_ms`` and ``decode_ms``: time in the worker.

    ``replica``: which one answered. ``fetched``: its bytes were fetched anew, for its copy was missing or damaged.
    ``place``: of a frame in its run; ``together``: the name of the run with whose other frames it is followed, or of
    the case whose channel it is, which is number ``channel``; ``note``: what the record has to say of that.
    ``stem``: what its files in the run folder are called; no other flight has the same, for a job that went back to the
    queue may be claimed before its last flight is cleared away.
    """

    job: ClaimedJob
    decoded: Decoded | None = None
    decode_ms: int | None = None
    replica: ReplicaRecord | None = None
    answer: Segmented | NotSegmented | None = None
    render_ms: int | None = None
    renders: int = 0
    fetched: bool = False
    place: Place | None = None
    together: str = ""
    channel: int | None = None
    note: str = ""
    number: int = field(default_factory=count().__next__)

    @property
    def id(self) -> int:
        """The job's id."""
        return self.job.id

    @property
    def model_name(self) -> str:
        """The model that was asked for, as the configuration calls it."""
        return self.job.options.model

    @property
    def model(self) -> ModelIdentity:
        """What the record names: the model of the replica that answered, and before that the one it is meant for."""
        return self.replica.model if self.replica else self.job.model

    @property
    def stem(self) -> str:
        """Of its files in the run folder."""
        return f"{self.id}-{self.number}"

    def measured(self) -> Measured:
        """What was measured so far."""
        decoded, answer, replica = self.decoded, self.answer, self.replica
        return Measured(
            replica_id=replica.id if replica else None,
            computed_by=replica.model if replica and replica.model != self.job.model else None,
            pictures=decoded.pictures if decoded and decoded.pictures != self.job.options.pictures else None,
            decode_ms=self.decode_ms,
            inference_ms=round(answer.inference_ms) if answer and answer.inference_ms is not None else None,
            render_ms=self.render_ms,
            batch_size=answer.batch_size if answer else None,
            host_peak_rss_mib=answer.host_peak_rss_mib if answer else None,
            devices=answer.devices if answer else (),
            width=decoded.width if decoded else None,
            height=decoded.height if decoded else None,
            frames=decoded.frames if decoded else None,
            format=decoded.format if decoded else None,
        )


@dataclass(frozen=True)
class Drawn:
    """A scan's results are drawn and staged."""

    flight: Flight
    rendered: Rendered
    segmented: Segmented

    @cached_property
    def measured(self) -> Measured:
        """What was measured."""
        return self.flight.measured()

    @property
    def attributes(self) -> dict[str, str]:
        """What the configuration asks for of the scan's DICOM attributes."""
        return self.flight.decoded.tags if self.flight.decoded else {}

    @property
    def of_the_scan(self) -> str:
        """What the record has to say of the scan itself."""
        return self.flight.decoded.note if self.flight.decoded else ""

    @cached_property
    def answer(self) -> Answer:
        """What the model said."""
        said = self.segmented
        return Answer(
            answer=storable(said.answer) if said.answer else said.answer,
            decode=said.decode,
            note=storable("; ".join(filter(None, (said.note, self.of_the_scan, self.rendered.note)))) or None,
            threshold=self.flight.job.options.threshold,
            mask_fraction=round(self.rendered.mask_fraction, 6),
        )

    @property
    def measures(self) -> tuple[FrameMeasure, ...]:
        """What the masks come to."""
        return self.rendered.measures


@dataclass(frozen=True, slots=True)
class Failed:
    """Something went wrong with a scan. ``alone``: it was the only one that the failing process worked on.

    ``drawn``: its results were drawn, and could not be promised: to draw them again would not help.
    """

    flight: Flight
    error: JobError
    alone: bool = False
    drawn: bool = False


def job_error(error: BaseException) -> JobError:
    """What ended a worker, as the error of the scan that it worked on."""
    if isinstance(error, JobError):
        return error
    return TransientError(f"An imaging worker failed: {type(error).__name__}: {error}")


class Flights:
    """The register of jobs under way. Behind one lock: every station's thread and every replica's thread uses it.

    A flight itself belongs to the station that has it: it is handed on through the queues between them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[int, Flight] = {}
        self._of_models: Counter[str] = Counter()

    def begin(self, jobs: Sequence[ClaimedJob]) -> list[Flight]:
        """These were claimed. A job that went back to the queue may have another flight here, which counts no more."""
        flights = [Flight(job) for job in jobs]
        with self._lock:
            for flight in flights:
                self._forget(flight.id)
                self._flights[flight.id] = flight
                self._of_models[flight.model_name] += 1
        return flights

    def _forget(self, job_id: int) -> None:
        if (flight := self._flights.pop(job_id, None)) is not None:
            self._of_models[flight.model_name] -= 1

    def get(self, job_id: int) -> Flight | None:
        """A job's flight; None when it is not under way any more."""
        with self._lock:
            return self._flights.get(job_id)

    def land(self, flights: Iterable[Flight]) -> None:
        """These are recorded. A job that was claimed again meanwhile is another flight, and stays."""
        with self._lock:
            for flight in flights:
                if self._flights.get(flight.id) is flight:
                    self._forget(flight.id)

    def all(self) -> list[Flight]:
        """Those under way now."""
        with self._lock:
            return list(self._flights.values())

    @property
    def count(self) -> int:
        """How many are under way."""
        with self._lock:
            return len(self._flights)

    def count_of(self, model_name: str) -> int:
        """How many are under way for the model of this name."""
        with self._lock:
            return self._of_models[model_name]


class ReplicaRecords:
    """Which model each replica has loaded. Behind one lock: each replica's thread tells it and asks it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[int, ReplicaRecord] = {}

    def put(self, number: int, record: ReplicaRecord) -> None:
        """This replica is ready."""
        with self._lock:
            self._records[number] = record

    def get(self, number: int) -> ReplicaRecord:
        """The record of a replica that has been ready. What computed a result is told by the one that answered."""
        with self._lock:
            return self._records[number]
