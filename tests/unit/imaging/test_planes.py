"""DICOM pictures that lie behind one another make a volume, in the order and on the grid that ITK gives them."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.unit.imaging.dicoms import content, dataset
from watcherd.imaging.decode import Decoded, DecodeLimits, decode
from watcherd.imaging.readers.planes import Plane, grid_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED = "1.2.840.10008.5.1.4.1.1.2.1"
COS, SIN = float(np.cos(0.2)), float(np.sin(0.2))
ALONG, DOWN, NORMAL = (COS, SIN, 0.0), (-SIN, COS, 0.0), (0.0, 0.0, 1.0)


def plane(place: float, *, along: tuple[float, float, float] = ALONG, shift: float = 0.0) -> Plane:
    return Plane(position=(10.0 + shift, 20.0, place), along=along, down=DOWN, spacing=(0.7, 0.8))


def values() -> NDArray[np.int16]:
    return np.random.default_rng(1).integers(-1000, 1000, (4, 6, 5)).astype(np.int16)


def series(places: list[float]) -> bytes:
    """A zip of one file for each slice, named in the order of ``places``."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, (place, slice_) in enumerate(zip(places, values(), strict=True)):
            whole = dataset(
                slice_,
                SOPClassUID=CT,
                Modality="CT",
                ImagePositionPatient=[10.0, 20.0, place],
                ImageOrientationPatient=[*ALONG, *DOWN],
                PixelSpacing=[0.7, 0.8],
                RescaleSlope=1,
                RescaleIntercept=-24,
            )
            archive.writestr(f"IM{number}.dcm", content(whole))
    return file.getvalue()


def enhanced(places: list[float]) -> bytes:
    """One file with a functional group for each slice."""

    def item(**attributes: Any) -> Dataset:
        made = Dataset()
        for name, value in attributes.items():
            setattr(made, name, value)
        return made

    shared = item(
        PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=[*ALONG, *DOWN])]),
        PixelMeasuresSequence=Sequence([item(PixelSpacing=[0.7, 0.8], SliceThickness=2)]),
    )
    frames = [
        item(PlanePositionSequence=Sequence([item(ImagePositionPatient=[10.0, 20.0, place])])) for place in places
    ]
    whole = dataset(
        values(),
        SOPClassUID=ENHANCED,
        Modality="CT",
        SharedFunctionalGroupsSequence=Sequence([shared]),
        PerFrameFunctionalGroupsSequence=Sequence(frames),
    )
    return content(whole)


def decoded(folder: Path, data: bytes) -> Decoded:
    (folder / "scan").write_bytes(data)
    return decode(folder / "scan", folder / "a.npy", DecodeLimits(), (), folder / "a-volume.npy")


@pytest.mark.parametrize("make", [series, enhanced])
@pytest.mark.parametrize("rising", [True, False])
def test_a_series_of_slices_is_a_volume(tmp_path: Path, make: Any, rising: bool) -> None:
    """Slices rise along the normal, whichever way the files are named; the grid is that of the first of them."""
    places = [5.0, 8.0, 11.0, 14.0] if rising else [14.0, 11.0, 8.0, 5.0]
    volume = decoded(tmp_path, make(places)).volume
    assert volume is not None
    assert volume.grid is not None
    assert (3.0, 0.7, 0.8) == pytest.approx(volume.grid.spacing_mm)
    offset = -24 if make is series else 0
    assert np.array_equal(values()[:: 1 if rising else -1].astype(np.float32) + offset, volume.stored())
    right = [-COS * 0.8, SIN * 0.7, 0, -10]
    assert right == pytest.approx(volume.grid.affine[0] if volume.grid.affine else ())
    assert [0, 0, 3, 5] == pytest.approx(volume.grid.affine[2] if volume.grid.affine else ())


def test_slices_with_a_gap_are_no_volume(tmp_path: Path) -> None:
    volume = decoded(tmp_path, series([5.0, 8.0, 14.0, 17.0])).volume
    assert volume is not None
    assert volume.grid is not None
    assert (None, 0.7, 0.8) == volume.grid.spacing_mm


def test_a_run_over_time_is_no_volume(tmp_path: Path) -> None:
    """Its one position is that of the whole file."""
    whole = dataset(
        values(), ImagePositionPatient=[0, 0, 0], ImageOrientationPatient=[*ALONG, *DOWN], PixelSpacing=[1, 1]
    )
    volume = decoded(tmp_path, content(whole)).volume
    assert volume is not None
    assert volume.grid is None or not volume.grid.is_volume


@pytest.mark.parametrize(
    "planes",
    [
        [],
        [plane(0)],
        [plane(0), plane(0)],
        [plane(0), plane(1), plane(2.5)],
        [plane(0), plane(1, along=(1.0, 0.0, 0.0))],
        [plane(0), plane(1, shift=4), plane(2)],
    ],
)
def test_what_is_no_volume(planes: list[Plane]) -> None:
    """Nothing, one picture, two at one place, unequal steps, turned, and shifted sideways."""
    found, _ = grid_of(planes)
    assert found is None or not found.is_volume


def test_a_tilted_gantry_makes_a_sheared_grid() -> None:
    found, _ = grid_of([plane(number, shift=0.3 * number) for number in range(3)])
    assert found is not None
    assert found.is_volume
    assert found.is_sheared
