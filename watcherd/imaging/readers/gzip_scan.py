"""A picture packed with gzip, as research sets ship them (``im0001.ppm.gz``): unpacked into anonymous memory.

Limits are those of a member of a zip. What gzip says of the length is not believed: unpacking stops at the limit.
"""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from watcherd.errors import InputError
from watcherd.imaging.limits import most_unpacked
from watcherd.imaging.readers.scan import Told, TruncatedError, tags_of, told_by

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from watcherd.imaging.limits import DecodeLimits
    from watcherd.imaging.readers.scan import Pixels, Scan

BLOCK = 1 << 20


class GzipScan:
    """The picture in the file. ``opener``: opens what was unpacked, as `decode.decode` would."""

    format = "GZIP"

    def __init__(self, path: Path, limits: DecodeLimits, opener: Callable[[Path, DecodeLimits], Scan]) -> None:
        self._descriptor = os.memfd_create("watcherd-unpacked", os.MFD_CLOEXEC)
        try:
            _unpack(path, self._descriptor, min(most_unpacked(path.stat().st_size), limits.max_bytes))
            self._scan = opener(Path(f"/proc/self/fd/{self._descriptor}"), limits)
        except BaseException:
            os.close(self._descriptor)
            raise
        self.bit_depth, self.frames = self._scan.bit_depth, self._scan.frames

    @property
    def told(self) -> Told:
        return told_by(self._scan)

    def tags(self, keywords: Sequence[str]) -> dict[str, str]:
        return tags_of(self._scan, keywords)

    def read(self, index: int) -> Pixels:
        return self._scan.read(index)

    def close(self) -> None:
        self._scan.close()
        os.close(self._descriptor)


def _unpack(path: Path, descriptor: int, most: int) -> None:
    """Raises `InputError` for more than ``most`` bytes and for damage, `TruncatedError` for an early end."""
    count = 0
    try:
        with gzip.open(path) as packed, open(descriptor, "wb", closefd=False) as file:
            while block := packed.read(BLOCK):
                count += len(block)
                if count > most:
                    raise InputError(
                        f"The file is refused: {path.stat().st_size:,} bytes packed with gzip would become more than "
                        f"{most:,}, which is how archives attack.",
                        hint="Unpack it, if you trust it, and drop the picture.",
                    )
                file.write(block)
    except EOFError:
        raise TruncatedError(
            "The file is truncated: what gzip has packed in it has no end.",
            hint="The copy was interrupted; drop the file again.",
        ) from None
    except (zlib.error, gzip.BadGzipFile) as error:
        raise InputError("What gzip has packed in the file is damaged.", hint="Pack it again.") from error
