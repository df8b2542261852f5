"""NIfTI volumes, plain or packed with gzip: the slices as they are stored, each turned as a viewer shows it.

A frame is a slice across the file's third axis, in the file's order: that is the plane in which the scan was taken, and
the only one that can be read without holding the volume. It is shown in the radiological manner, as DICOM viewers do:
the patient's left is on the right, the front is up in axial slices and on the left in sagittal ones, the head is up in
coronal and sagittal ones. Only flips and a transposition are used, by the closest axes, so `Turn` has an exact inverse.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import nibabel
import numpy as np

from watcherd import nifti_structure
from watcherd.errors import InputError
from watcherd.imaging.dicom_file import own_words
from watcherd.imaging.scan import Pixels, Told, TruncatedError
from watcherd.imaging.window import Window

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from watcherd.imaging.limits import DecodeLimits

LARGEST_HEADER: Final = 1 << 24
"""Bytes before the values: extensions may be long, but one that packs to nothing must not keep us reading."""

DAMAGED: Final = "It is damaged or of a rare kind. Open and save it with another program."
COLOURS: Final = {("R", "G", "B"): 3, ("R", "G", "B", "A"): 3}


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """How a stored slice, (first axis, second axis), becomes a picture, (height, width).

    ``swap``: the first axis runs across the picture, as it mostly does. ``down``, ``across``: flip that direction.
    """

    swap: bool = True
    down: bool = False
    across: bool = False

    def shown(self, stored: Pixels) -> Pixels:
        """The picture of a slice; further axes (colours) stay last."""
        picture = stored.swapaxes(0, 1) if self.swap else stored
        return self._flipped(picture)

    def stored(self, picture: Pixels) -> Pixels:
        """The slice of a picture: the inverse of `shown`."""
        flipped = self._flipped(picture)
        return flipped.swapaxes(0, 1) if self.swap else flipped

    def _flipped(self, picture: Pixels) -> Pixels:
        return picture[:: -1 if self.down else 1, :: -1 if self.across else 1]


def turn_of(affine: NDArray[Any]) -> Turn:
    """How slices with this affine (voxels to mm, right-anterior-superior) are shown; as stored where it says nothing.

    Across the picture runs left-right, else front-back; down runs front-back, else head-foot.
    """
    with np.errstate(all="ignore"):
        codes = nibabel.aff2axcodes(affine) if np.isfinite(affine).all() else (None, None, None)  # type: ignore[no-untyped-call]
    first, second = codes[0], codes[1]
    if first is None or second is None:
        return Turn()
    swap = first in "LR" or (first in "AP" and second in "SI")
    across, down = (first, second) if swap else (second, first)
    return Turn(swap=swap, across=across in "RA", down=down in "AS")


class NiftiFile:
    """An open file. ``shape``: (first axis, second axis, slices); ``header`` and ``affine`` as nibabel's."""

    def __init__(self, path: Path) -> None:
        self._raw: BinaryIO = path.open("rb")
        try:
            with own_words("The NIfTI file's header cannot be read"):
                self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        head = self._raw.read(nifti_structure.HEAD)
        claimed = nifti_structure.volume(head)
        assert claimed is not None
        self._raw.seek(0)
        packed = nifti_structure.is_gzip(head)
        file: Any = gzip.GzipFile(fileobj=self._raw, mode="rb") if packed else self._raw
        if claimed.offset > LARGEST_HEADER:
            raise InputError("The NIfTI file's header is too long.", hint=DAMAGED)
        self.shape = _three(claimed.shape)
        kind = nibabel.Nifti2Image if claimed.version == 2 else nibabel.Nifti1Image
        files = {"image": nibabel.FileHolder(fileobj=file)}
        self.image = kind.from_file_map(files, mmap=False)  # type: ignore[no-untyped-call]
        self.header: Any = self.image.header
        self.affine: NDArray[Any] = np.asarray(self.image.affine)
        self.turn = turn_of(self.affine)

    def slice(self, index: int) -> Pixels:
        """A stored slice, in the file's units."""
        ndim = len(self.image.shape)
        values: Any = np.asarray(self.image.dataobj[(slice(None), slice(None), index, *[0] * (ndim - 3))[:ndim]])
        return _plain(values.reshape(self.shape[:2]))

    def close(self) -> None:
        self._raw.close()


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape as that of one volume. Raises `InputError` for several, and for none."""
    if len(shape) < 2 or 0 in shape:
        raise InputError("The NIfTI file holds no picture.", hint="Export the scan again.")
    further = shape[3:]
    if any(side != 1 for side in further):
        raise InputError(
            f"The NIfTI file holds several volumes: its shape is {' x '.join(map(str, shape))}.",
            hint="Drop one file for each volume; `fslsplit` or nibabel's `four_to_three` make them.",
        )
    return shape[0], shape[1], shape[2] if len(shape) > 2 else 1


def _plain(values: Pixels) -> Pixels:
    """Numbers in the machine's own byte order; colours as a last axis of three."""
    if values.dtype.names:
        channels = COLOURS.get(values.dtype.names)
        if channels is None:
            raise InputError("The NIfTI file's values are of an unknown kind.", hint=DAMAGED)
        return np.stack([values[name] for name in values.dtype.names[:channels]], axis=-1)
    if values.dtype.kind not in "iuf" or values.dtype.itemsize > 8:
        raise InputError("The NIfTI file's values are complex or longer than 64 bits.", hint="Save them as float32.")
    return values.astype(values.dtype.newbyteorder("="), copy=False)


class NiftiScan:
    """A volume as frames."""

    format = "NIFTI"

    def __init__(self, path: Path, limits: DecodeLimits) -> None:
        self._file = NiftiFile(path)
        try:
            with own_words("The NIfTI file's header cannot be understood"):
                self._check(limits)
        except BaseException:
            self.close()
            raise

    def _check(self, limits: DecodeLimits) -> None:
        first, second, self.frames = self._file.shape
        limits.check_size(*((first, second) if self._file.turn.swap else (second, first)))
        limits.check_frames(self.frames)
        limits.check_bytes(first * second * self.frames)
        kind = self._file.header.get_data_dtype()
        limits.check_memory(first, second, kind.itemsize + 1)
        self.bit_depth = 8 if kind.names else kind.itemsize * 8
        self.told = Told(window=self._window(), spacing_mm=self._spacing())

    def _window(self) -> Window | None:
        low, high = (float(self._file.header[name]) for name in ("cal_min", "cal_max"))
        return Window(low=low, high=high) if np.isfinite((low, high)).all() and low < high else None

    def _spacing(self) -> tuple[float, float] | None:
        """(height, width); the header's unit is mm unless it says otherwise."""
        factor = {"meter": 1000.0, "micron": 0.001}.get(self._file.header.get_xyzt_units()[0], 1.0)
        zooms = self._file.header.get_zooms()[:2]
        sides = [float(f"{float(side) * factor:.7g}") for side in zooms]  # what float32 knows of 0.8
        if not all(np.isfinite(sides)) or min(sides) <= 0:
            return None
        return (sides[1], sides[0]) if self._file.turn.swap else (sides[0], sides[1])

    def read(self, index: int) -> Pixels:
        try:
            with own_words("The NIfTI file's slices cannot be read"):
                return np.ascontiguousarray(self._file.turn.shown(self._file.slice(index)))
        except InputError as error:
            if isinstance(error.__context__, EOFError):
                raise TruncatedError(
                    "The file is truncated: it ends before its last slice.",
                    hint="The copy was interrupted; drop the file again.",
                ) from None
            raise

    def close(self) -> None:
        self._file.close()
