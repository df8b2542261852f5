"""What becomes of a job whose attempt failed. Pure: counts, the time and chance are passed in.

| error class | next |
|---|---|
| input, no-mask | failed at once: trying again cannot help |
| lost | failed at once: its bytes were looked for everywhere; dropping the scan again brings them |
| transient | queued after 30 s, 2 min, 10 min, with jitter; then failed |
| memory | alone at once; from then on as transient |
| crash | in a batch: alone at once, the attempt counted against nobody; alone: once more, then quarantined |
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from watcherd.job import ErrorClass, State

if TYPE_CHECKING:
    from collections.abc import Callable

DELAYS = (timedelta(seconds=30), timedelta(minutes=2), timedelta(minutes=10))
"""Waits before the second, third and fourth attempt."""

JITTER = 0.2
"""Part by which a wait is made longer or shorter, so that jobs that failed together do not come back together."""

LONGEST = DELAYS[-1] * (1 + JITTER)
"""Time of the longest wait."""

CRASHES_ALONE = 2
"""Workers that a job may kill while it runs alone; then it is quarantined."""

INTERRUPTIONS = 3
"""Deaths of the daemon during which a job ran, after which it runs alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Where the job goes.

    ``not_before``: when it may be claimed again; None when it is not queued. ``solo``: it runs alone from now on.
    ``crashes_alone``: the count to be stored. ``counted``: whether the attempt is the job's own (the other jobs of a
    batch whose worker died have done nothing). ``why``: for the event and for people.
    """

    state: State
    why: str
    not_before: datetime | None = None
    solo: bool = False
    crashes_alone: int = 0
    counted: bool = True


def decide(
    error_class: ErrorClass,
    *,
    attempts: int,
    crashes_alone: int,
    solo: bool,
    now: datetime,
    random: Callable[[], float],
) -> Decision:
    """What becomes of a job after a failed attempt.

    ``attempts``: tries so far, this one included. ``crashes_alone``: deaths of its worker while it ran alone, before
    this one. ``solo``: whether it was alone this time. ``random``: gives numbers from 0 to 1.
    """
    if error_class in (ErrorClass.INPUT, ErrorClass.NO_MASK):
        return Decision(state=State.FAILED, why="trying again cannot help", solo=solo, crashes_alone=crashes_alone)
    if error_class is ErrorClass.LOST:
        return Decision(state=State.FAILED, why="its bytes are nowhere", solo=solo, crashes_alone=crashes_alone)
    if error_class is ErrorClass.CRASH:
        return _after_crash(crashes_alone=crashes_alone, solo=solo, now=now, random=random)
    if error_class is ErrorClass.MEMORY and not solo:
        return Decision(
            state=State.QUEUED,
            why="not enough memory; alone next",
            not_before=now,
            solo=True,
            crashes_alone=crashes_alone,
        )
    if attempts > len(DELAYS):
        why = f"gave up after {attempts} attempts"
        return Decision(state=State.FAILED, why=why, solo=solo, crashes_alone=crashes_alone)
    return Decision(
        state=State.QUEUED,
        why="may pass by itself",
        not_before=now + _jittered(DELAYS[max(0, attempts - 1)], random),
        solo=solo,
        crashes_alone=crashes_alone,
    )


def _after_crash(*, crashes_alone: int, solo: bool, now: datetime, random: Callable[[], float]) -> Decision:
    if not solo:
        why = "the worker died with several scans; each runs alone next"
        return Decision(
            state=State.QUEUED, why=why, not_before=now, solo=True, crashes_alone=crashes_alone, counted=False
        )
    crashes = crashes_alone + 1
    if crashes >= CRASHES_ALONE:
        why = f"killed its worker {crashes} times when run alone"
        return Decision(state=State.QUARANTINED, why=why, solo=True, crashes_alone=crashes)
    return Decision(
        state=State.QUEUED,
        why="killed its worker when run alone; once more",
        not_before=now + _jittered(DELAYS[0], random),
        solo=True,
        crashes_alone=crashes,
    )


def after_daemon_death(*, interruptions: int, crashes_alone: int, solo: bool, now: datetime) -> Decision:
    """What becomes of a job that was running when the daemon itself died: queued at once.

    ``interruptions``: how often that has happened to it, this time included. Nobody knows which job it was, if any;
    but one that takes the daemon down must not do so for ever. So from `INTERRUPTIONS` on it runs alone, and alone
    it is quarantined after as many times more.
    """
    if solo and interruptions >= 2 * INTERRUPTIONS:
        why = f"the daemon died {interruptions} times while it ran"
        return Decision(state=State.QUARANTINED, why=why, solo=True, crashes_alone=crashes_alone)
    return Decision(
        state=State.QUEUED,
        why="the daemon died while it ran",
        not_before=now,
        solo=solo or interruptions >= INTERRUPTIONS,
        crashes_alone=crashes_alone,
    )


def pause_after_loss(tries: int) -> timedelta:
    """How long a job waits whose results were lost or could not get the names promised to them: the first time not."""
    return DELAYS[min(tries, len(DELAYS) + 1) - 2] if tries > 1 else timedelta(0)


def _jittered(delay: timedelta, random: Callable[[], float]) -> timedelta:
    return delay * (1 + JITTER * (2 * random() - 1))
