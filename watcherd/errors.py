"""Every error that watcherd raises on purpose.

WatcherdError                 what happened, why, and what to do (exit code 70)
├── UsageError                a command was called wrongly (64)
├── ConfigError               the configuration is wrong (78)
├── UnavailableError          something needed is not there: daemon, device, model (69)
├── BusyError                 try again later: another daemon holds the state folder (75)
├── StoreError                the database cannot be used (70)
│   └── StaleJobError         a job moved under us: compare-and-set matched no row
└── JobError                  one job's failure, with its error class
    ├── InputError            bad file: no retry
    ├── TransientError        may pass by itself
    ├── OutOfMemoryError      a smaller batch may do
    ├── CrashError            the process that worked on it died or hung
    ├── NoMaskError           the model answered without a mask
    └── LostBytesError        the scan's own bytes are not there any more
"""

from __future__ import annotations

import errno
from typing import ClassVar, Final

from watcherd.job import ErrorClass

EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors of the kernel, whatever is done next, when the process or the machine has run out of descriptors or memory."""

NO_ROOM_FOR_A_PROCESS: Final = EXHAUSTED | {errno.EAGAIN}
"""Errors of the kernel when no process can be started now: descriptors, memory or processes have run out."""


class WatcherdError(Exception):
    """What happened, and in ``hint`` what a person can do about it."""

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(WatcherdError):
    """A command was called wrongly."""

    exit_code = 64


class ConfigError(WatcherdError):
    """The configuration is wrong; the message names the key, the value and what is allowed."""

    exit_code = 78


class UnavailableError(WatcherdError):
    """Something that is needed is not there."""

    exit_code = 69


class BusyError(WatcherdError):
    """Somebody else holds what is needed; try again later."""

    exit_code = 75


class StoreError(WatcherdError):
    """The database cannot be used; ``transient``: not now, but perhaps later."""

    transient: ClassVar[bool] = False


class StaleJobError(StoreError):
    """A compare-and-set on a job matched no row: its state, run or attempt had changed."""


class JobError(WatcherdError):
    """One job's failure. ``error_class`` decides what happens next (see ``retry.py``)."""

    error_class: ClassVar[ErrorClass] = ErrorClass.TRANSIENT


class InputError(JobError):
    """The scan itself is bad; trying again cannot help."""

    exit_code = 65
    error_class = ErrorClass.INPUT


class TransientError(JobError):
    """May pass by itself: a full disk, a share that is away."""

    exit_code = 75
    error_class = ErrorClass.TRANSIENT


class OutOfMemoryError(JobError):
    """The device's memory did not suffice."""

    error_class = ErrorClass.MEMORY


class CrashError(JobError):
    """The process that worked on the scan died, or hung and was killed."""

    error_class = ErrorClass.CRASH


class NoMaskError(JobError):
    """The model answered, but without a mask; ``answer`` is what it said."""

    error_class = ErrorClass.NO_MASK

    def __init__(self, message: str, *, answer: str | None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.answer = answer


class LostBytesError(JobError):
    """The copy of a scan is missing, or holds other bytes than those that were dropped."""

    error_class = ErrorClass.LOST
