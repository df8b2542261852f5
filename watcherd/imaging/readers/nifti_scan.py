"""NIfTI volumes, plain or packed with gzip: the slices as they are stored, each turned as a viewer shows it.

A frame is a slice across the file's third axis, in the file's order, or, of a single slice, a picture along the axis
behind it, which is mostly time: that is the plane in which the scan was taken, and
the only one that can be read without holding the volume. It is shown in the radiological manner, as DICOM viewers do:
the patient's left is on the right, the front is up in axial slices and on the left in sagittal ones, the head is up in
coronal and sagittal ones. Only flips and a transposition are used, by the closest axes, so `Turn` has an exact inverse.
"""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import HeaderDataError

from watcherd.errors import InputError
from watcherd.formats import nifti
from watcherd.formats.volumes import Grid, Turn
from watcherd.imaging.readers.dicom_file import own_words
from watcherd.imaging.readers.scan import Pixels, Told, TruncatedError
from watcherd.imaging.readers.window import Window

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from watcherd.imaging.limits import DecodeLimits

LARGEST_HEADER: Final = 1 << 24
"""Bytes before the values: extensions may be long, but one that packs to nothing must not keep us reading."""

SINGULAR: Final = 1e-6
"""Volume that three axes of length 1 span; below it they lie in a plane, and say nothing of where things are."""

SLICES, TIME = 2, 3
"""The axes of slices and of time."""

DAMAGED: Final = "It is damaged or of a rare kind. Open and save it with another program."
COLOURS: Final = {("R", "G", "B"): 3, ("R", "G", "B", "A"): 3}


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
    """An open file. ``shape``: (first axis, second axis, slices, or pictures of one slice); ``header`` as nibabel's.

    ``affine``: of the header's two, the one that counts: the sform, or the qform where that is none or singular; else a
    guess. ``sides``: of a pixel along the first two axes, in the header's units; None where neither the sform nor the
    header's own list has them. ``grid_sides``: of a voxel along the first three axes by the header's own list, as other
    programs take them; None where they are no lengths, or the third axis is none of space.
    """

    def __init__(self, path: Path) -> None:
        self._raw: BinaryIO = path.open("rb")
        try:
            with own_words("The NIfTI file's header cannot be read"):
                self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        head = self._raw.read(nifti.HEAD)
        claimed = nifti.volume(head)
        assert claimed is not None
        self._raw.seek(0)
        packed = nifti.is_gzip(head)
        file: Any = gzip.GzipFile(fileobj=self._raw, mode="rb") if packed else self._raw
        if claimed.offset > LARGEST_HEADER:
            raise InputError("The NIfTI file's header is too long.", hint=DAMAGED)
        self.shape = _three(claimed.shape)
        kind = nibabel.Nifti2Image if claimed.version == 2 else nibabel.Nifti1Image
        self.header: Any = _header(file, kind.header_class, claimed)
        self._frames_axis = next((axis for axis, side in enumerate(claimed.shape) if axis > 1 and side != 1), 2)
        self.frame_ms = self._between_pictures(claimed)
        spec = (claimed.shape, self.header.get_data_dtype(), claimed.offset, *self._scaling())
        self._values: Any = ArrayProxy(file, spec, mmap=False)  # type: ignore[no-untyped-call]
        sform = self._form("sform")
        qform = None if sform is not None else self._form("qform")
        known = sform if sform is not None else qform
        self.affine: NDArray[Any] = np.asarray(self.header.get_base_affine()) if known is None else known
        self.sides = _sides(sform, claimed)
        self.grid_sides = _grid_sides(claimed) if self._frames_axis == SLICES else None
        self.known = known is not None
        self.turn = turn_of(self.affine)

    def _form(self, name: str) -> NDArray[Any] | None:
        """An affine of the header; None where it has no code or cannot be one."""
        try:
            matrix, code = getattr(self.header, f"get_{name}")(coded=True)
        except HeaderDataError:  # a rotation that is none
            return None
        if not code or matrix is None or not np.isfinite(matrix).all():
            return None
        lengths = np.linalg.norm(matrix[:3, :3], axis=0)
        if not lengths.all() or abs(np.linalg.det(matrix[:3, :3] / lengths)) < SINGULAR:
            return None
        return np.asarray(matrix)

    def _scaling(self) -> tuple[float, float]:
        """Slope and intercept, 1 and 0 where the slope says that there are none. Raises `InputError` for half of it."""
        slope, intercept = float(self.header["scl_slope"]), float(self.header["scl_inter"])
        if slope == 0 or not np.isfinite(slope):
            return 1.0, 0.0
        if not np.isfinite(intercept):
            raise InputError(
                f"The NIfTI file's values cannot be scaled: scl_slope is {slope:g}, and scl_inter is no number.",
                hint="Set scl_inter, or scl_slope to 0 if the values are to be taken as they are.",
            )
        return slope, intercept

    def _between_pictures(self, claimed: nifti.Volume) -> float | None:
        """Milliseconds between the pictures of one slice, where they lie along the axis of time."""
        factor = {"sec": 1000.0, "msec": 1.0, "usec": 0.001}.get(self.header.get_xyzt_units()[1])
        if self._frames_axis != TIME or factor is None:
            return None
        between = claimed.sides[TIME] * factor
        return float(f"{between:.7g}") if 0 < between < float("inf") else None

    def slice(self, index: int) -> Pixels:
        """A stored slice, in the file's units."""
        places: list[Any] = [0] * max(3, len(self._values.shape))
        places[:2] = [slice(None), slice(None)]
        places[self._frames_axis] = index
        values: Any = np.asarray(self._values[tuple(places[: len(self._values.shape)])])
        return _plain(values.reshape(self.shape[:2]))

    def close(self) -> None:
        self._raw.close()


def _header(file: BinaryIO, kind: Any, claimed: nifti.Volume) -> Any:
    """The header alone, as nibabel mends what it can: it would refuse a file for a field that does not matter here."""
    header = kind(file.read(kind.template_dtype.itemsize), check=False)
    header["vox_offset"] = claimed.offset
    header.check_fix()
    return header


def _sides(sform: NDArray[Any] | None, claimed: nifti.Volume) -> tuple[float, float] | None:
    """Of a pixel along the first two axes. nibabel makes 1 of a side of 0, which is nobody's measure."""
    found = np.linalg.norm(sform[:3, :2], axis=0) if sform is not None else np.abs(claimed.sides[:2])
    return (float(found[0]), float(found[1])) if np.isfinite(found).all() and found.all() else None


def _grid_sides(claimed: nifti.Volume) -> tuple[float, float, float] | None:
    if len(claimed.shape) <= SLICES:
        return None
    first, second, third = (abs(float(side)) for side in claimed.sides[:3])
    return (first, second, third) if all(0 < side < float("inf") for side in (first, second, third)) else None


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape as that of one volume, or of one slice at several times. Raises `InputError` for more, and for none."""
    if len(shape) < 2 or 0 in shape:
        raise InputError("The NIfTI file holds no picture.", hint="Export the scan again.")
    further = [side for side in shape[2:] if side != 1]
    if len(further) > 1:
        raise InputError(
            f"The NIfTI file holds several volumes: its shape is {' x '.join(map(str, shape))}.",
            hint="Drop one file for each volume; `fslsplit` or nibabel's `four_to_three` make them.",
        )
    return shape[0], shape[1], further[0] if further else 1


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
        self.told = Told(
            window=self._window(),
            spacing_mm=self._spacing(),
            frame_ms=self._file.frame_ms if self.frames > 1 else None,
            turn=self._file.turn,
            grid=self._grid(),
        )

    def _window(self) -> Window | None:
        low, high = (float(self._file.header[name]) for name in ("cal_min", "cal_max"))
        return Window(low=low, high=high) if np.isfinite((low, high)).all() and low < high else None

    def _grid(self) -> Grid | None:
        """Spacing by the header's own list of sides, whatever the sform says: SimpleITK and nibabel do the same."""
        file, factor = self._file, self._factor()
        if file.grid_sides is not None:
            across, down, behind = (side * factor for side in file.grid_sides)
            rows = [tuple(float(value) * factor for value in row) for row in file.affine[:3]]
            affine = (rows[0], rows[1], rows[2]) if file.known else None
            return Grid(spacing_mm=(behind, down, across), affine=affine)  # type: ignore[arg-type]
        if file.sides is not None:
            return Grid(spacing_mm=(None, file.sides[1] * factor, file.sides[0] * factor))
        return None

    def _factor(self) -> float:
        """The header's unit in mm, which it is unless it says otherwise."""
        return {"meter": 1000.0, "micron": 0.001}.get(self._file.header.get_xyzt_units()[0], 1.0)

    def _spacing(self) -> tuple[float, float] | None:
        """(height, width)."""
        factor = self._factor()
        if self._file.sides is None:
            return None
        sides = [float(f"{side * factor:.7g}") for side in self._file.sides]  # what float32 knows of 0.8
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
