"""Single files that belong together, told by their names, and how long they wait for one another. Pure.

Frames of one run, and channels of one case.

A run that was cut into pictures has names such as ``Name_1-3_1_0000000A_frame_000011.jpg``. What is read as a frame's
number: up to nine digits at the end of the name, before the extension, after ``frame``, ``fr`` or ``f`` (in capitals
or not), which is the name's beginning or set off by ``_``, ``-``, ``.`` or a space; one of these may also stand before
the digits. So ``_frame_000011``, ``-frame11``, ``.fr 3`` and ``_f011``; a bare ``_000011`` may be anything. Files of
one folder whose names differ in nothing but that number (and in capitals of the extension) are one run.

A case of several channels is named as nnU-Net names it: ``case_0000.nii.gz``, ``case_0001.nii.gz``, that is four digits
after ``_``, before the extension. Only for a model that takes several channels are these anything but two scans.
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


_CHANNEL = re.compile(
    rb"(?P<before>.+_)(?P<number>[0-9]{4})(?P<after>(?:\.[a-z][a-z0-9]*){0,2})", re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameName:
    """A frame's place, or a channel's, as its path says it. ``before`` and ``after``: the bytes around the digits."""

    before: bytes
    number: int
    after: bytes

    @property
    def run(self) -> tuple[bytes, bytes]:
        """What all frames of the run have in common."""
        return self.before, self.after.lower()


def frame_name(path: bytes) -> FrameName | None:
    """The place of the file at ``path``, below the inbox; None when its name is not that of a frame."""
    return _placed(_NAME, path)


def channel_name(path: bytes) -> FrameName | None:
    """The same for a channel of a case."""
    return _placed(_CHANNEL, path)


def name_of_several(path: bytes) -> FrameName | None:
    """The place of a file that is known to be one of several."""
    return frame_name(path) or channel_name(path)


def _placed(pattern: re.Pattern[bytes], path: bytes) -> FrameName | None:
    folder, slash, name = path.rpartition(b"/")
    found = pattern.fullmatch(name)
    if found is None:
        return None
    return FrameName(before=folder + slash + found["before"], number=int(found["number"]), after=found["after"])


def as_frame(options: Options, path: bytes, *, follows_runs: bool = True, channels: int = 1) -> Options:
    """The options of the file at ``path``: where runs are wanted and its name is a frame's, those of a frame; where the
    model has several ``channels`` and its name is a channel's, those of a channel."""
    runs = follows_runs and options.group_frames and frame_name(path) is not None
    several = channels > 1 and channel_name(path) is not None
    return replace(options, frame=show(path)) if runs or several else options


def quiet_time(seconds: float, *, sweep_seconds: float, told: bool) -> timedelta:
    """How long no frame must have come for a run to be complete.

    ``told``: events tell of new files at once. Where they do not, the next frame may lie there unseen until the next
    sweep.
    """
    return timedelta(seconds=seconds if told else seconds + sweep_seconds)
