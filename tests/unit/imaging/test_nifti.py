"""NIfTI volumes become frames as a viewer shows them, and their masks come back onto the very same voxels."""

from __future__ import annotations

import gzip
import itertools
import re
import struct
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import pytest

from watcherd.errors import InputError
from watcherd.formats.npy_frames import FrameFile, write_frames
from watcherd.formats.truncation import ends_early
from watcherd.formats.volumes import Turn
from watcherd.imaging.decode import Decoded, DecodeLimits, TruncatedError, decode
from watcherd.imaging.encode import RenderRequest, render
from watcherd.imaging.readers.nifti_scan import turn_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SHAPE = (7, 9, 5)
SPACING = (0.5, 0.8, 2.5)
MARKER = (1, 6, 3)
"""A voxel that lies in no place of symmetry."""

NAME = "MUSTERMANN^ERIKA"


def affine(axes: str, *, tilt: float = 0.0) -> NDArray[np.float64]:
    """Voxels to mm for axes that run towards the letters of ``axes``, turned by ``tilt`` radians."""
    towards = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    matrix = np.eye(4)
    matrix[:3, :3] = 0
    for column, letter in enumerate(axes):
        row, sign = towards[letter]
        matrix[row, column] = sign * SPACING[column]
    cos, sin = np.cos(tilt), np.sin(tilt)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    matrix[:3, :3] = turn @ matrix[:3, :3]
    matrix[:3, 3] = (12.5, -30.0, 7.25)
    return matrix


def written(path: Path, values: NDArray[Any], matrix: NDArray[np.float64] | None = None, **header: Any) -> Path:
    image = nibabel.Nifti1Image(values, affine("RAS") if matrix is None else matrix)
    for name, value in header.items():
        image.header[name] = value
    plain = path.with_suffix(".nii")
    image.to_filename(plain)
    content = plain.read_bytes()
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


def marked() -> NDArray[np.int16]:
    values = np.zeros(SHAPE, np.int16)
    values[MARKER] = 1000
    return values


def decoded(source: Path, limits: DecodeLimits | None = None) -> Decoded:
    return decode(source, source.with_suffix(".npy"), limits or DecodeLimits())


def mask_of(source: Path, scan: Decoded, labels: NDArray[np.uint8], classes: int = 1) -> Path:
    """Through `render`, as the service does it."""
    mask = source.with_suffix(".mask.npy")
    write_frames(mask, labels, labels.shape, np.uint8)
    folder = source.parent / "out"
    folder.mkdir(exist_ok=True)
    request = RenderRequest(
        pixels=scan.path,
        mask=mask,
        folder=folder,
        stem="all",
        kinds=("mask",),
        classes=classes,
        source=source,
        scan=scan,
    )
    (file,) = render(request).files
    assert file.path.name == "all.mask.nii.gz"
    return file.path


ORIENTATIONS = [
    "".join(letters) for pairs in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*pairs)
]


@pytest.mark.parametrize("tilt", [0.0, 0.3])
@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_a_masks_marker_is_at_the_scans_voxel(tmp_path, axes, tilt):
    """In all 48 orientations, straight and oblique: what was bright in the frames is 1 in the mask's same voxel."""
    source = written(tmp_path / "scan", marked(), affine(axes, tilt=tilt))
    scan = decoded(source)
    frames = np.stack(list(FrameFile(scan.path)))
    mask = nibabel.load(mask_of(source, scan, (frames > 127).astype(np.uint8)))
    expected = nibabel.load(written(tmp_path / "again.nii", marked(), affine(axes, tilt=tilt)))
    assert expected.shape == mask.shape
    assert np.array_equal(expected.affine, mask.affine)
    assert [MARKER] == [tuple(voxel) for voxel in np.argwhere(np.asarray(mask.dataobj))]
    assert np.dtype(np.uint8) == mask.get_data_dtype()


@pytest.mark.parametrize(
    ("axes", "corner"),
    [
        ("RAS", "L A"), ("LPS", "L A"), ("RSA", "L S"), ("LIP", "L S"), ("ASR", "P S"), ("PIL", "P S"),
        ("ARS", "L A"), ("SRA", "L S"), ("SAR", "P S"),
    ],
)  # fmt: skip
def test_slices_are_shown_in_the_radiological_manner(axes, corner):
    """The upper right corner of every axial slice is left and front, of a coronal left and head, of a sagittal back
    and head: as DICOM viewers show them, whichever way the file is stored."""
    matrix = affine(axes)
    turn = turn_of(matrix)
    rows, columns = np.meshgrid(np.arange(7), np.arange(9), indexing="ij")
    places = np.stack([turn.shown(rows), turn.shown(columns)])
    voxel = [*places[:, 0, -1], 0, 1]
    opposite = [*places[:, -1, 0], 0, 1]
    towards = (matrix @ voxel - matrix @ opposite)[:3]
    letters = {0: "LR", 1: "PA", 2: "IS"}
    shown = {letters[axis][int(step > 0)] for axis, step in enumerate(towards) if abs(step) > 1e-6}
    assert set(corner.split()) == shown


def test_a_turn_has_an_exact_inverse():
    picture = np.arange(35).reshape(5, 7)
    for flags in itertools.product((False, True), repeat=3):
        turn = Turn(swap=flags[0], down=flags[1], across=flags[2])
        assert np.array_equal(picture, turn.stored(turn.shown(picture)))


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "no ending", "packed without an ending.gz"])
def test_a_volume_is_found_by_its_content(tmp_path, name):
    scan = decoded(written(tmp_path / name, marked()))
    assert ("NIFTI", 5, 9, 7, (0.8, 0.5)) == (scan.format, scan.frames, scan.height, scan.width, scan.spacing_mm)


def test_nifti_2_is_read_too(tmp_path):
    image = nibabel.Nifti2Image(marked(), affine("LAS"))
    image.to_filename(tmp_path / "scan.nii")
    scan = decoded(tmp_path / "scan.nii")
    frames = np.stack(list(FrameFile(scan.path)))
    mask = nibabel.load(mask_of(tmp_path / "scan.nii", scan, (frames > 127).astype(np.uint8)))
    assert isinstance(mask, nibabel.Nifti2Image)
    assert 1 == np.asarray(mask.dataobj)[MARKER]


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_every_type_of_number_is_read(tmp_path, kind):
    values = np.linspace(0, 200, 315).reshape(SHAPE).astype(kind)
    scan = decoded(written(tmp_path / "scan.nii", values))
    frames = np.stack(list(FrameFile(scan.path)))
    assert (0, True) == (int(frames.min()), int(frames.max()) >= 199)


def test_values_are_scaled_as_the_header_says(tmp_path):
    values = marked()
    values[:3] = 1000
    source = written(tmp_path / "scan.nii", values)
    content = bytearray(source.read_bytes())
    content[112:120] = np.array([2.0, -1000.0], "<f4").tobytes()
    source.write_bytes(content)
    scan = decoded(source)
    assert (-1000.0, 1000.0) == scan.window


def test_the_files_own_window_is_used(tmp_path):
    assert (100.0, 600.0) == decoded(written(tmp_path / "scan.nii", marked(), cal_min=100, cal_max=600)).window


def test_colours_are_kept(tmp_path):
    values = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    values["G"] = 200
    scan = decoded(written(tmp_path / "scan.nii", values))
    assert scan.colour
    assert [0, 200, 0] == FrameFile(scan.path)[0][0, 0].tolist()


def test_label_values_come_back_as_they_are(tmp_path):
    source = written(tmp_path / "scan.nii", marked())
    scan = decoded(source)
    labels = np.zeros((5, 9, 7), np.uint8)
    labels[2, 3, 4] = 3
    mask = nibabel.load(mask_of(source, scan, labels, classes=3))
    assert {0, 3} == set(np.unique(np.asarray(mask.dataobj)))


def test_a_mask_is_the_same_bytes_each_time_and_holds_no_text_of_the_source(tmp_path):
    source = written(tmp_path / "scan.nii", marked(), descrip=NAME, aux_file=NAME, db_name=NAME[:16])
    scan = decoded(source)
    labels = np.zeros((5, 9, 7), np.uint8)
    first = mask_of(source, scan, labels).read_bytes()
    assert first == mask_of(source, scan, labels).read_bytes()
    assert b"MUSTERMANN" not in gzip.decompress(first)


# ---------------------------------------------------------------------------------------------------- what is refused


def refused(path: Path, limits: DecodeLimits | None = None) -> InputError:
    with pytest.raises(InputError) as caught:
        decoded(path, limits)
    assert caught.value.hint
    return caught.value


def test_a_fourth_dimension_of_one_is_a_volume(tmp_path):
    source = written(tmp_path / "scan.nii", marked()[..., np.newaxis])
    scan = decoded(source)
    mask = nibabel.load(mask_of(source, scan, np.ones((5, 9, 7), np.uint8)))
    assert (5, (*SHAPE, 1)) == (scan.frames, mask.shape)


def test_several_volumes_are_refused(tmp_path):
    error = refused(written(tmp_path / "scan.nii", np.zeros((*SHAPE, 4), np.int16)))
    assert "7 x 9 x 5 x 4" in error.message
    assert "one file for each volume" in error.hint


@pytest.mark.parametrize("shape", [(7, 9, 1, 5), (7, 9, 1, 1, 5)])
def test_one_slice_at_several_times_is_a_run(tmp_path, shape):
    source = written(
        tmp_path / "scan.nii.gz", marked().reshape(shape), pixdim=[1, 0.5, 0.8, 2.5, 0.04, 0, 0, 0], xyzt_units=10
    )
    scan = decoded(source)
    assert (5, (0.8, 0.5)) == (scan.frames, scan.spacing_mm)
    assert (40 if len(shape) == 4 else None) == scan.frame_ms
    labels = (np.load(scan.path) > 128).astype(np.uint8)
    mask = nibabel.load(mask_of(source, scan, labels))
    assert shape == mask.shape
    assert [[MARKER]] == [[tuple(int(place) for place in np.argwhere(np.asarray(mask.dataobj).reshape(SHAPE))[0])]]


def patched(source: Path, place: int, letters: str, *values: float) -> Path:
    """Write numbers into a header."""
    content = bytearray(source.read_bytes())
    struct.pack_into(f"<{letters}", content, place, *values)
    source.write_bytes(content)
    return source


@pytest.mark.parametrize("offset", [0, 100, 348])
def test_values_never_begin_inside_the_header(tmp_path, offset):
    plain, other = (written(tmp_path / name, marked()) for name in ("plain.nii", "other.nii"))
    expected = np.load(decoded(plain).path)
    assert np.array_equal(expected, np.load(decoded(patched(other, 108, "f", offset)).path))
    mask = nibabel.load(mask_of(other, decoded(other), np.ones((5, 9, 7), np.uint8)))
    assert (352, SHAPE) == (mask.header["vox_offset"], mask.shape) or mask.header["vox_offset"] == 0


def test_values_of_nifti_2_never_begin_inside_the_header(tmp_path):
    image = nibabel.Nifti2Image(marked(), affine("RAS"))
    for name in ("plain.nii", "other.nii"):
        image.to_filename(tmp_path / name)
    other = patched(tmp_path / "other.nii", 168, "q", 0)
    assert np.array_equal(np.load(decoded(tmp_path / "plain.nii").path), np.load(decoded(other).path))


@pytest.mark.parametrize("matrix", [np.zeros(12), np.full(12, np.nan), np.tile([1.0, 1, 1, 0], 3)])
def test_an_sform_that_is_none_gives_way_to_the_qform(tmp_path, matrix):
    image = nibabel.Nifti1Image(marked(), affine("LAS"))
    image.set_qform(affine("LAS"), code=1)
    image.to_filename(tmp_path / "plain.nii")
    image.to_filename(tmp_path / "other.nii")
    other = patched(patched(tmp_path / "other.nii", 280, "12f", *matrix), 254, "h", 1)
    plain = decoded(tmp_path / "plain.nii")
    assert np.array_equal(np.load(plain.path), np.load(decoded(other).path))
    assert (0.8, 0.5) == decoded(other).spacing_mm


def test_a_pixel_of_no_size_has_none_and_that_of_the_sform_counts(tmp_path):
    image = nibabel.Nifti1Image(marked(), affine("RAS"))
    for code, side, spacing in (
        (1, 0, (0.8, 0.5)),
        (0, 0, None),
        (1, 1, (0.8, 0.5)),
        (0, np.nan, None),
        (0, -3, (3, 3)),
    ):
        image.set_sform(affine("RAS"), code=code)
        image.set_qform(None, code=0)
        image.to_filename(tmp_path / "scan.nii")
        patched(tmp_path / "scan.nii", 80, "3f", side, side, side)
        assert spacing == decoded(patched(tmp_path / "scan.nii", 254, "h", code)).spacing_mm


@pytest.mark.parametrize("slope", [0, np.nan, np.inf])
def test_a_slope_that_is_none_leaves_the_values_as_they_are(tmp_path, slope):
    source = patched(written(tmp_path / "scan.nii", marked()), 112, "2f", slope, np.nan)
    assert (0, 1000) == decoded(source).window


@pytest.mark.parametrize("intercept", [np.nan, np.inf])
def test_an_intercept_that_is_no_number_is_said(tmp_path, intercept):
    source = patched(written(tmp_path / "scan.nii", marked()), 112, "2f", 2, intercept)
    assert "scl_slope is 2, and scl_inter is no number" in refused(source).message


def test_complex_numbers_are_refused(tmp_path):
    assert "complex" in refused(written(tmp_path / "scan.nii", np.zeros(SHAPE, np.complex64))).message


def test_a_volume_of_more_slices_than_allowed_is_refused_by_its_header(tmp_path):
    assert "too many frames" in refused(written(tmp_path / "scan.nii", marked()), DecodeLimits(max_frames=4)).message
    assert "too large" in refused(written(tmp_path / "scan.nii", marked()), DecodeLimits(max_pixels=62)).message


def claiming(source: Path, sides: tuple[int, int, int]) -> None:
    """Have the header promise more than there is, and pack what there is: zeros pack well."""
    content = bytearray(source.read_bytes())
    content[42:48] = np.array(sides, "<i2").tobytes()
    source.write_bytes(gzip.compress(bytes(content) + bytes(1 << 20)))


def test_a_packed_bomb_is_refused_by_its_header(tmp_path):
    source = written(tmp_path / "scan.nii", marked())
    claiming(source, (20_000, 20_000, 2000))
    assert "too large" in refused(source).message


def test_a_packed_volume_that_ends_early_is_truncated(tmp_path):
    source = written(tmp_path / "scan.nii", marked())
    claiming(source, (2000, 2000, 10))
    assert isinstance(refused(source), TruncatedError)


def test_a_header_without_end_is_refused(tmp_path):
    source = written(tmp_path / "scan.nii", marked())
    content = bytearray(source.read_bytes())
    content[108:112] = np.array([1e9], "<f4").tobytes()
    source.write_bytes(gzip.compress(bytes(content)))
    assert re.search("header is too long|truncated", refused(source).message)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.98])
def test_a_file_that_is_cut_off_is_waited_for(tmp_path, name, share):
    values = np.random.default_rng(0).integers(0, 1000, (40, 40, 9), np.int16)
    source = written(tmp_path / name, values)
    content = source.read_bytes()
    with source.open("rb") as file:
        assert ends_early(file) == ""
    source.write_bytes(content[: int(len(content) * share)])
    with source.open("rb") as file:
        assert "NIfTI" in ends_early(file)
    assert isinstance(refused(source), TruncatedError)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SAR", "ILA"])
@pytest.mark.parametrize("slope", [None, 0.5])
def test_the_numbers_of_a_volume_are_those_that_other_programs_read(
    tmp_path: Path, axes: str, slope: float | None
) -> None:
    """In their order and with their spacing, however the slices are turned for people: nibabel's and SimpleITK's."""
    import SimpleITK

    values = np.random.default_rng(3).integers(-500, 500, SHAPE).astype(np.int16)
    image = nibabel.Nifti1Image(values, affine(axes, tilt=0.2))
    image.set_qform(affine(axes, tilt=0.2), code=1)
    if slope is not None:
        image.header.set_slope_inter(slope, 3)
    nibabel.save(image, tmp_path / "a.nii.gz")
    decoded = decode(tmp_path / "a.nii.gz", tmp_path / "a.npy", DecodeLimits(), (), tmp_path / "a-volume.npy")
    volume = decoded.volume
    assert volume is not None
    assert volume.grid is not None
    read = SimpleITK.ReadImage(str(tmp_path / "a.nii.gz"))
    assert np.array_equal(SimpleITK.GetArrayFromImage(read).astype(np.float32), volume.stored().astype(np.float32))
    assert read.GetSpacing()[::-1] == pytest.approx(volume.grid.spacing_mm)
    loaded: Any = nibabel.load(tmp_path / "a.nii.gz")
    assert np.array_equal(loaded.get_fdata(dtype=np.float32).transpose(2, 1, 0), volume.stored().astype(np.float32))
    assert volume.grid.affine is not None
    assert np.allclose(loaded.affine[:3], volume.grid.affine, atol=1e-5)
    assert np.array_equal(volume.stored(), volume.stored())
    assert (decoded.frames, decoded.height, decoded.width) == volume.shown(volume.stored()).shape


def test_a_file_of_two_dimensions_has_no_slices_behind_one_another(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5), np.uint8), np.eye(4)), tmp_path / "a.nii")
    volume = decode(tmp_path / "a.nii", tmp_path / "a.npy", DecodeLimits(), (), tmp_path / "v.npy").volume
    assert volume is not None
    assert volume.grid is not None
    assert not volume.grid.is_volume
