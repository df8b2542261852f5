"""Tell a file that ends too early from one that is broken: the first may still be on its way.

Says so only when it is sure: a file in no format known here, or broken in another way, is for the decoder to judge.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from watcherd.formats.dicom import HEAD
from watcherd.formats.ends import EndError
from watcherd.formats.table import FORMATS, Sign

if TYPE_CHECKING:
    from typing import BinaryIO

    from watcherd.formats.table import End


def ends_early(file: BinaryIO) -> str:
    """Why the file is sure to stop before its format's end, for example "a PNG without its end mark"; else empty.

    ``file``: seekable, from its start; its position is moved. Raises OSError as reading does.
    """
    size = file.seek(0, 2)
    file.seek(0)
    end = _end_of(file.read(HEAD))
    if end is None:
        return ""
    file.seek(0)
    try:
        early = end.is_early(file, size)
    except (EndError, struct.error):
        early = True
    return end.says if early else ""


def _end_of(head: bytes) -> End | None:
    """How it is told whether a file that begins with ``head`` ends early."""
    return next(
        (end for sign in Sign for row in FORMATS for end in row.ends if row.shows(sign, head, end.begins)), None
    )
