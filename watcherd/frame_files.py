"""Single files that are the frames of one run, told by their names, and how long they wait for one another. Pure.

A run that was cut into pictures has names such as ``Name_1-3_1_0000000A_frame_000011.jpg``. What is read as a frame's
number: up to nine digits at the end of the name, before the extension, after ``frame``, ``fr`` or ``f`` (in capitals
or not), which is the name's beginning or set off by ``_``, ``-``, ``.`` or a space; one of these may also stand before
the digits. So ``_frame_000011``, ``-frame11``, ``.fr 3`` and ``_f011``; a bare ``_000011`` may be anything. Files of
one folder whose names differ in nothing but that number (and in capitals of the extension) are one run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from watcherd.file_names import show

if TYPE_CHECKING:
    from watcherd.job import Options

LONGEST = 30
"""Quiet times for which a run that keeps growing is held back in all; later frames are another piece of it."""

_NAME = re.compile(
    rb"(?P<before>(?:.*[_\-. ])?(?:frame|fr|f)[_\-. ]?)(?P<number>[0-9]{1,9})(?P<after>(?:\.[a-z][a-z0-9]*){0,2})",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameName:
    """A frame's place, as its path says it. ``before`` and ``after``: the path's bytes around the digits."""

    before: bytes
    number: int
    after: bytes

    @property
    def run(self) -> tuple[bytes, bytes]:
        """What all frames of the run have in common."""
        return self.before, self.after.lower()


def frame_name(path: bytes) -> FrameName | None:
    """The place of the file at ``path``, below the inbox; None when its name is not that of a frame."""
    folder, slash, name = path.rpartition(b"/")
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    return FrameName(before=folder + slash + found["before"], number=int(found["number"]), after=found["after"])


def as_frame(options: Options, path: bytes) -> Options:
    """The options of the file at ``path``: where runs are wanted and its name is a frame's, those of a frame."""
    if not options.group_frames or frame_name(path) is None:
        return options
    return replace(options, frame=show(path))


def quiet_time(seconds: float, *, sweep_seconds: float, told: bool) -> timedelta:
    """How long no frame must have come for a run to be complete.

    ``told``: events tell of new files at once. Where they do not, the next frame may lie there unseen until the next
    sweep.
    """
    return timedelta(seconds=seconds if told else seconds + sweep_seconds)
