"""What one scan may cost, checked against what its header claims, before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass

from watcherd.errors import InputError
from watcherd.values import quickly_pickled

MAX_DECODED_BYTES = 8 << 30
"""Bytes of all frames of a scan together, as 8-bit pixels in the run folder."""

MOST_MEMBER_BYTES = 1 << 30
"""Bytes of one picture that a zip or gzip has packed, unpacked; it is held in memory."""

RATIO, ROOM = 200, 64 << 20
"""What is unpacked may be this many times as large as what it was packed in, and always as large as ``ROOM`` bytes:
empty pictures without a compression of their own shrink to almost nothing."""


def most_unpacked(size: int) -> int:
    """How many bytes may come out of one picture that is packed into ``size`` bytes."""
    return min(MOST_MEMBER_BYTES, max(ROOM, RATIO * size))


BYTES_PER_PIXEL = 8
"""Bytes of a worker's memory that a pixel of colours, floats or 16 bits takes while it is decoded or drawn, at most."""


@quickly_pickled
@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeLimits:
    """``max_pixels`` of one frame, ``max_frames`` of a scan, ``max_bytes`` of all its decoded frames.

    ``memory_mib`` is what the worker was given (`worker.start_worker`), for the message when it does not suffice.
    """

    max_pixels: int = 200_000_000
    max_frames: int = 2000
    memory_mib: int = 2048
    max_bytes: int = MAX_DECODED_BYTES

    def check_size(self, width: int, height: int) -> None:
        """Raises `InputError` when a frame of this size is too large, or empty."""
        if width < 1 or height < 1:
            raise InputError(f"The scan has no pixels: its size is {width} x {height}.", hint="Export it again.")
        if width * height > self.max_pixels:
            raise InputError(
                f"The scan is too large: {width} x {height} pixels, more than {self.max_pixels:,} in all.",
                hint="Crop it or scale it down, or raise limits.max_pixels in the configuration.",
            )

    def check_memory(self, width: int, height: int, bytes_per_pixel: int) -> None:
        """Raises `InputError` when a frame of this size needs more than a worker has.

        ``bytes_per_pixel``: what is held at once of a pixel at least, while the frame is unpacked.
        """
        needed = -(-width * height * bytes_per_pixel // 2**20)
        if needed > self.memory_mib:
            raise InputError(
                f"The scan is too large for a worker's memory: {width} x {height} pixels, of {bytes_per_pixel} bytes "
                f"while they are unpacked, need at least {needed:,} MiB, and there are {self.memory_mib:,}.",
                hint=f"Scale it down, or raise limits.worker_memory_mib in the configuration above {needed:,}.",
            )

    def check_frames(self, frames: int) -> None:
        """Raises `InputError` when a scan has more frames than allowed, or none."""
        if frames < 1:
            raise InputError("The file holds no picture.", hint="Export the scan again.")
        if frames > self.max_frames:
            raise InputError(
                f"The scan has too many frames: {frames:,}, more than {self.max_frames:,}.",
                hint="Split the run, or raise limits.max_frames in the configuration.",
            )

    def check_bytes(self, decoded: int) -> None:
        """Raises `InputError` when all frames together would fill more of the run folder than allowed."""
        if decoded > self.max_bytes:
            raise InputError(
                f"The scan is too large: its frames need {decoded / 2**30:.1f} GiB once decoded, "
                f"more than {self.max_bytes / 2**30:.1f} GiB.",
                hint="Split the run or scale it down.",
            )
