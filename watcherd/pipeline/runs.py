"""Several files that are computed as one: what each is told about its place among the others. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from watcherd.flights import Place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watcherd.flights import Flight
    from watcherd.store import ClaimedJob


def arrange(flights: Sequence[Flight], *, channels: int = 1) -> list[Flight]:
    """The decoded scans of one claim in the order in which they are to be segmented.

    Frames of a run learn their place, whether they are followed as one, and what is to be noted. So do the channels of
    a case, where the model takes several ``channels``.
    """
    frames = sorted((flight for flight in flights if flight.job.run), key=lambda flight: _number(flight.job))
    others = [flight for flight in flights if not flight.job.run]
    if channels > 1:
        return _as_case(frames, channels) + others
    obstacle = _obstacle(frames)
    for position, flight in enumerate(frames, 1):
        run = flight.job.run
        assert run is not None
        flight.place = Place(name=run.name, frame=run.frame, position=position, frames=len(frames))
        if len(frames) > 1 and not obstacle:
            flight.together = run.name
            flight.note = f"frame {position} of {len(frames)} of a run, followed together"
            flight.note += f"; {_why_apart(flight.job)}" if run.apart else ""
        elif obstacle or run.apart:
            flight.note = f"segmented by itself, apart from its run: {obstacle or _why_apart(flight.job)}"
    return frames + others


def _as_case(files: Sequence[Flight], channels: int) -> list[Flight]:
    """Whether they are all there, and fit together, the replica finds out: it knows what the model takes."""
    for position, flight in enumerate(files, 1):
        run = flight.job.run
        assert run is not None
        flight.place = Place(name=run.name, frame=run.frame, position=position, frames=len(files))
        flight.together, flight.channel = run.name, run.frame
        flight.note = f"channel {run.frame:04d} of a case of {channels}, whose mask this is"
    return list(files)


def _number(job: ClaimedJob) -> int:
    return job.run.frame if job.run else 0


def _obstacle(frames: Sequence[Flight]) -> str:
    """Why these files cannot be followed as one video; empty when they can."""
    scans = [flight.decoded for flight in frames if flight.decoded is not None]
    if any(scan.frames > 1 for scan in scans):
        return "a file of the run has several frames itself"
    sizes = Counter(f"{scan.width} x {scan.height}" for scan in scans)
    if len(sizes) > 1:
        return f"its frames are of different sizes ({', '.join(size for size, _ in sizes.most_common(3))})"
    return ""


def _why_apart(job: ClaimedJob) -> str:
    """Why a frame was not claimed with all the others of its run."""
    if job.solo:
        return "it has to run alone, since something failed with it among others"
    if job.tries > 1:
        return "it was tried again after its run"
    if job.run and job.run.late:
        return "it came after its run was segmented"
    return "other frames of its run were segmented apart from it"
