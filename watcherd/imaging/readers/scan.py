"""What every reader of image files offers: the frames of one file as plain arrays of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from watcherd.errors import InputError
from watcherd.formats.volumes import UNTURNED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from watcherd.formats.volumes import Grid, Turn
    from watcherd.imaging.limits import DecodeLimits
    from watcherd.imaging.readers.curves import Shown
    from watcherd.imaging.readers.planes import Plane

Pixels = NDArray[Any]
"""(height, width) or (height, width, 3), of any integer or floating type, upright as displayed, bright is high."""

Size = tuple[int, int]
"""Width and height."""


class TruncatedError(InputError):
    """The file ends too early. It may be still on its way: wait and look again before it counts as bad."""

    truncated: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What a file says about its pictures besides their pixels.

    ``window``: how its author wants them shown; None: found from the values. ``others``: what to try when hardly
    anything is seen through that, the best first. ``inverted``: high is dark, once windowed. ``scaled``: the values are
    in units of the file's own, with a slope, so that those of several files go together whatever their types.
    ``note``: what a reader of the record must know. ``modality``: DICOM's word for what took it (``XA``, ``OP``).
    ``spacing_mm``: (height, width) of one pixel, upright as displayed. ``frame_ms``: from one frame to the next.
    ``turn``, ``backward``, ``grid``: see `watcherd.formats.volumes.VolumeFile`. ``planes``: where each frame lies in
    the patient, where a DICOM file says so of all; a zip makes a volume of them.
    """

    window: Shown | None = None
    others: tuple[Shown, ...] = ()
    inverted: bool = False
    spacing_mm: tuple[float, float] | None = None
    frame_ms: float | None = None
    scaled: bool = False
    note: str = ""
    modality: str = ""
    turn: Turn = UNTURNED
    backward: bool = False
    grid: Grid | None = None
    planes: tuple[Plane, ...] = ()


class Scan(Protocol):
    """An open image file. ``bit_depth``: bits of one value of one channel.

    Readers of formats that say more also have ``told``, a `Told`: see `told_by`.
    """

    format: str
    bit_depth: int
    frames: int

    def read(self, index: int) -> Pixels:
        """One frame. Raises anything: decoders are not to be trusted, `decode.decode` is where errors become ours."""

    def close(self) -> None: ...


BAND = 1 << 20
"""Pixels of a frame that are worked on together: what is computed of them takes several times their own memory."""


def bands(height: int, width: int) -> Iterator[slice]:
    """The rows of a frame in pieces of about `BAND` pixels; small frames whole."""
    rows = max(1, BAND // max(1, width))
    return (slice(top, min(height, top + rows)) for top in range(0, height, rows))


def tried(reader: Callable[[Path, DecodeLimits], Scan], source: Path, limits: DecodeLimits) -> Scan:
    """A file that is open, and whose first frame can be read. Raises what the reader raises."""
    scan = reader(source, limits)
    try:
        scan.read(0)
    except BaseException:
        scan.close()
        raise
    return scan


def told_by(scan: Scan) -> Told:
    """What a file says about its pictures; nothing where its reader has no such attribute."""
    told: Told = getattr(scan, "told", Told())
    return told


def tags_of(scan: Scan, keywords: Sequence[str]) -> dict[str, str]:
    """Values of these DICOM attributes, as far as the file has them, from readers that offer ``tags``."""
    found: dict[str, str] = scan.tags(keywords) if keywords and hasattr(scan, "tags") else {}
    return found


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """The picture upright, by the EXIF or TIFF orientation 1 to 8 (others count as 1)."""
    if orientation >= 5 and orientation <= 8:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def over_black(colours: Pixels, alpha: Pixels, *, multiplied: bool = False) -> Pixels:
    """Lay the picture over black, which is what scans have outside their field of view.

    ``alpha``: (height, width) of the same type, its largest value opaque. ``multiplied``: the colours are already
    multiplied by it. A picture that is transparent everywhere is taken as opaque: its writer left alpha unset.
    """
    opaque = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "iu" else 1
    if multiplied or (alpha == opaque).all() or not alpha.any():
        return colours
    laid = np.empty(colours.shape, colours.dtype)
    for rows in bands(*alpha.shape):
        share = alpha[rows].astype(np.float32) / opaque
        values = colours[rows] * (share[..., np.newaxis] if colours.ndim == 3 else share)
        laid[rows] = np.rint(values) if colours.dtype.kind in "iu" else values
    return laid
