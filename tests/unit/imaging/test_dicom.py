"""DICOM files become frames as their authors want them shown, and nothing that stands in them comes out otherwise."""

from __future__ import annotations

import io
import logging
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from tests.unit.imaging.dicoms import (
    NAME,
    PATIENT,
    cine,
    code,
    compressed,
    content,
    dataset,
    deflated,
    dicom,
    in_fragments,
    report,
    without_meta,
)
from watcherd.errors import InputError
from watcherd.formats.dicom import MOST_ELEMENTS, Outline, looks_like_dicom, outline, without_pictures
from watcherd.formats.npy_frames import FrameFile
from watcherd.formats.truncation import ends_early
from watcherd.imaging.decode import Decoded, DecodeLimits, TruncatedError, decode
from watcherd.imaging.readers.dicom_scan import DicomScan

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

RAMP = np.linspace(0, 4095, 48 * 40).astype(np.uint16).reshape(48, 40)
GREY = (RAMP >> 4).astype(np.uint8)
CT, ENHANCED_XA = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.12.1.1"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
COLOURS = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)


def decoded(folder: Path, data: bytes, limits: DecodeLimits | None = None, tags: tuple[str, ...] = ()) -> Decoded:
    (folder / "scan").write_bytes(data)
    return decode(folder / "scan", folder / "scan.npy", limits or DecodeLimits(), tags)


def written(folder: Path, data: bytes) -> Path:
    (folder / "scan").write_bytes(data)
    return folder / "scan"


def frames(folder: Path, data: bytes) -> NDArray[np.uint8]:
    return np.stack(list(FrameFile(decoded(folder, data).path)))


def refused(folder: Path, data: bytes, limits: DecodeLimits | None = None) -> InputError:
    with pytest.raises(InputError) as caught:
        decoded(folder, data, limits)
    assert caught.value.hint
    assert not (folder / "scan.npy").exists()
    return caught.value


# ------------------------------------------------------------------------------------------------- how it is shown


def test_a_file_is_found_by_its_content(tmp_path):
    scan = decoded(tmp_path, dicom(GREY))
    assert ("DICOM", 1, 48, 40, False, 8, None) == (
        scan.format, scan.frames, scan.height, scan.width, scan.colour, scan.bit_depth, scan.window,
    )  # fmt: skip
    assert np.array_equal(GREY, FrameFile(scan.path)[0])


def test_a_preamble_that_looks_like_a_tiff_does_not_mislead(tmp_path):
    data = dicom(GREY)
    assert np.array_equal(GREY, frames(tmp_path, b"II*\0\x10\0\0\0" + data[8:])[0])


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_file_without_preamble_and_meta_group_is_read(tmp_path, syntax):
    whole = dataset(RAMP, syntax=syntax) if syntax else dataset(RAMP)
    data = without_meta(content(whole))
    assert looks_like_dicom(data[:512])
    assert 255 == frames(tmp_path, data).max()


def test_monochrome1_is_inverted(tmp_path):
    assert np.array_equal(255 - GREY, frames(tmp_path, dicom(GREY, PhotometricInterpretation="MONOCHROME1"))[0])


def test_the_window_of_a_monochrome1_file_says_what_became_black_and_white(tmp_path):
    data = dicom(RAMP, PhotometricInterpretation="MONOCHROME1", WindowCenter=2048, WindowWidth=4096)
    assert (4095.0, 0.0) == decoded(tmp_path, data).window
    shown = FrameFile(tmp_path / "scan.npy")[0]
    assert (255, 0) == (shown[0, 0], shown[-1, -1])


def test_signed_values_keep_their_order(tmp_path):
    shown = frames(tmp_path, dicom(RAMP.astype(np.int16) - 2000))[0]
    assert (0, 255) == (shown[0, 0], shown[-1, -1])
    assert (np.diff(shown.ravel().astype(int)) >= 0).all()


def test_values_are_rescaled(tmp_path):
    """In the units of the file, as a CT's window is."""
    data = dicom(RAMP, SOPClassUID=CT, RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=1000, WindowWidth=2001)
    assert (-0.5, 1999.5) == decoded(tmp_path, data).window
    assert 255 == FrameFile(tmp_path / "scan.npy")[0].ravel()[1512 * 1920 // 4096]  # 2 * 1512 - 1024 = 2000


X_RAYS = [f"1.2.840.10008.5.1.4.1.1.12.{kind}" for kind in (1, 2, 3)]


@pytest.mark.parametrize("sop_class", X_RAYS)
@pytest.mark.parametrize("relationship", ["LOG", "LIN", "DISP"])
@pytest.mark.parametrize("kind", ["table", "slope"])
def test_the_modality_lut_of_an_angiogram_is_not_for_display(tmp_path, sop_class, relationship, kind):
    """PS3.3 A.14.3, A.16.3: it leads back to the X-rays' intensity, and the window is in stored values."""
    exponential = [round(65535 * np.expm1(value / 819) / np.expm1(5)) for value in range(4096)]
    scaled = {
        "table": table(exponential, 0, 16, "ModalityLUTSequence"),
        "slope": {"RescaleSlope": 10, "RescaleIntercept": -100, "RescaleType": "US"},
    }[kind]
    values = RAMP // 2 + 1000
    given = {"SOPClassUID": sop_class, "PixelIntensityRelationship": relationship} | scaled
    plain = frames(tmp_path, dicom(values))
    assert np.array_equal(plain, frames(tmp_path, dicom(values, **given)))
    low, high = decoded(tmp_path, dicom(values, **given)).window
    assert (1000, 3047) == pytest.approx((low, high), abs=6)
    assert (0.0, 4095.0) == decoded(tmp_path, dicom(values, WindowCenter=2048, WindowWidth=4096, **given)).window
    assert np.array_equal(np.rint(values / 4095 * 255), FrameFile(tmp_path / "scan.npy")[0])


def test_an_angiogram_is_told_by_its_modality_where_its_class_is_not_said(tmp_path):
    whole = dataset(RAMP, RescaleSlope=10, RescaleIntercept=-100)
    del whole.SOPClassUID
    found = decoded(tmp_path, without_meta(content(whole))).window
    assert (4, 4091) == pytest.approx(found, abs=6)


@pytest.mark.parametrize(
    ("function", "expected"), [(None, (799.0, 1198.0)), ("LINEAR", (799.0, 1198.0)), ("LINEAR_EXACT", (799.0, 1199.0))]
)
def test_the_files_own_window_is_used(tmp_path, function, expected):
    """PS3.3 C.11.2.1.2: LINEAR, which is what nothing means, is half a value narrower at each end."""
    given = {"VOILUTFunction": function} if function else {}
    scan = decoded(tmp_path, dicom(RAMP, WindowCenter=[999, 5], WindowWidth=[400, 6], **given))
    assert expected == scan.window


def test_a_sigmoid_is_used(tmp_path):
    shown = frames(tmp_path, dicom(RAMP, WindowCenter=2048, WindowWidth=1000, VOILUTFunction="SIGMOID"))[0]
    expected = 255 / (1 + np.exp(-4 * (RAMP.astype(float) - 2048) / 1000))
    assert np.abs(expected - shown).max() <= 0.51


def table(values: list[int], first: int, bits: int, keyword: str) -> dict[str, Any]:
    item = Dataset()
    item.LUTDescriptor = [len(values), first, bits]
    item.LUTData = values
    item["LUTData"].VR = "US"
    if keyword == "ModalityLUTSequence":
        item.ModalityLUTType = "US"
    return {keyword: [item]}


def test_a_voi_table_is_used(tmp_path):
    falling = table([4095 - value for value in range(4096)], 0, 12, "VOILUTSequence")
    shown = frames(tmp_path, dicom(RAMP, **falling))[0]
    assert (255, 0) == (shown[0, 0], shown[-1, -1])


def test_a_modality_table_is_used(tmp_path):
    doubled = table([2 * value for value in range(4096)], 0, 16, "ModalityLUTSequence")
    assert decoded(tmp_path, dicom(RAMP, SOPClassUID=CT, **doubled)).window == pytest.approx((8, 8182), abs=10)


def test_without_a_window_percentiles_are_used(tmp_path):
    values = RAMP.copy()
    values[0, 0] = 60_000  # a hot pixel
    low, high = decoded(tmp_path, dicom(values)).window
    assert (low, high) == pytest.approx((4, 4091), abs=6)


def test_a_window_through_which_nothing_shows_is_not_used(tmp_path):
    low, high = decoded(tmp_path, dicom(RAMP, WindowCenter=-5000, WindowWidth=100)).window
    assert high > 4000 > 100 > low


@pytest.mark.parametrize("width", [65536, 40000, 10_000_000])
def test_a_window_through_which_hardly_anything_shows_is_not_used(tmp_path, width):
    values = 41 + RAMP // 5
    low, high = decoded(tmp_path, dicom(values, WindowCenter=width // 2, WindowWidth=width)).window
    assert (41, 860) == pytest.approx((low, high), abs=3)


def test_a_window_that_shows_enough_is_used_as_it_is(tmp_path):
    """Darker than it could be, as its author wants it."""
    values = 41 + RAMP // 5
    assert (0.0, 4095.0) == decoded(tmp_path, dicom(values, WindowCenter=2048, WindowWidth=4096)).window


def test_the_files_other_windows_are_tried_first(tmp_path):
    given = {"WindowCenter": [-9000, 32768, 2000], "WindowWidth": [100, 65536, 1001]}
    assert (1499.5, 2499.5) == decoded(tmp_path, dicom(RAMP // 2 + 1000, **given)).window


def test_a_table_is_tried_after_windows_that_show_nothing(tmp_path):
    falling = table([4095 - value for value in range(4096)], 0, 12, "VOILUTSequence")
    scan = decoded(tmp_path, dicom(RAMP, WindowCenter=-9000, WindowWidth=100, **falling))
    shown = FrameFile(scan.path)[0]
    assert (None, 255, 0) == (scan.window, shown[0, 0], shown[-1, -1])


@pytest.mark.parametrize(
    "curve",
    [
        {"WindowCenter": 60_000, "WindowWidth": 100, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 2000, "WindowWidth": 900_000, "VOILUTFunction": "SIGMOID"},
        {"VOILUTSequence": None},
    ],
)
def test_a_curve_through_which_hardly_anything_shows_is_not_used(tmp_path, curve):
    if "VOILUTSequence" in curve:
        curve = table([7] * 4096, 0, 16, "VOILUTSequence")
    assert (4, 4091) == pytest.approx(decoded(tmp_path, dicom(RAMP, **curve)).window, abs=6)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT"])
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_a_window_of_width_1_is_a_threshold(tmp_path, function, photometric):
    """PS3.3 C.11.2.1.2.1: what is above the centre less one half is white."""
    given = {"WindowCenter": 2000, "WindowWidth": 1, "VOILUTFunction": function}
    shown = frames(tmp_path, dicom(RAMP, PhotometricInterpretation=photometric, **given))[0]
    white = RAMP >= 2000 if function == "LINEAR" else RAMP > 2000
    exact = RAMP != 2000
    expected = white if photometric == "MONOCHROME2" else ~white
    assert np.array_equal(expected[exact] * 255, shown[exact])


@pytest.mark.parametrize("given", [(32768, 65536), (-500, 100)])
def test_8_bits_are_taken_as_they_are_where_the_window_shows_hardly_anything(tmp_path, given):
    scan = decoded(tmp_path, dicom(GREY, WindowCenter=given[0], WindowWidth=given[1]))
    assert scan.window is None
    assert np.array_equal(GREY, FrameFile(scan.path)[0])


def test_8_bits_keep_a_window_that_shows_more_than_they_do(tmp_path):
    values = 100 + GREY // 13
    assert (78.5, 177.5) == decoded(tmp_path, dicom(values, WindowCenter=128.5, WindowWidth=100)).window


def test_a_scan_of_one_value_keeps_its_window(tmp_path):
    assert (0.0, 4095.0) == decoded(tmp_path, dicom(RAMP * 0, WindowCenter=2048, WindowWidth=4096)).window


def test_a_dark_mask_keeps_the_window_of_its_bits(tmp_path):
    """Hardly any pixel is marked, and what is marked is white."""
    marks = np.zeros((60, 60), np.uint8)
    marks[3, 3] = 1
    shown = frames(tmp_path, dicom(marks, BitsStored=1, HighBit=0))
    assert np.array_equal(marks * 255, shown[0])


def item_of(**values: Any) -> Dataset:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def in_groups(values: NDArray[Any], shared: dict[str, Any], *frames_: dict[str, Any], **attributes: Any) -> bytes:
    """An enhanced file with these functional groups."""
    given = {
        "SharedFunctionalGroupsSequence": [item_of(**{name: [item_of(**item)] for name, item in shared.items()})],
        "PerFrameFunctionalGroupsSequence": [
            item_of(**{name: [item_of(**item)] for name, item in each.items()}) for each in frames_
        ],
    }
    return dicom(values, **(given | {"SOPClassUID": ENHANCED_XA} | attributes))


@pytest.mark.parametrize("slopes", [(1, 1, 2), (2, 1, 1), (1, 0.5, 1), (3, 3, 3)])
def test_frames_of_several_slopes_have_one_type(tmp_path, slopes):
    each = [{"PixelValueTransformationSequence": {"RescaleSlope": one, "RescaleIntercept": 0}} for one in slopes]
    data = in_groups(np.stack([RAMP] * 3), {}, *each, SOPClassUID=ENHANCED_MR, WindowCenter=4096, WindowWidth=8192)
    scan = DicomScan(written(tmp_path, data), DecodeLimits())
    found = [scan.read(index) for index in range(3)]
    scan.close()
    assert {np.dtype(np.float32)} == {frame.dtype for frame in found}
    assert all(np.array_equal(RAMP * slope, frame) for slope, frame in zip(slopes, found, strict=True))


def test_zipped_slices_of_several_slopes_belong_together(tmp_path):
    """As PET has them, one of which may be exactly 1."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, slope in enumerate((1, 2, 1.5)):
            archive.writestr(f"{number}.dcm", dicom(RAMP, SOPClassUID=CT, RescaleSlope=slope, RescaleIntercept=0))
    scan = decoded(tmp_path, file.getvalue())
    shown = [frame.astype(float) for frame in FrameFile(scan.path)]
    low, high = scan.window
    for slope, frame in zip((1, 2, 1.5), shown, strict=True):
        assert np.abs(np.clip((RAMP * slope - low) / (high - low), 0, 1) * 255 - frame).max() <= 0.51


def test_zipped_slices_with_curves_of_their_own_are_shown_by_these(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, centre in enumerate((2048, 1000)):
            archive.writestr(f"{number}.dcm", dicom(RAMP, **(SIGMOID | {"WindowCenter": centre})))
    shown = frames(tmp_path, file.getvalue())
    values = RAMP.astype(float)
    expected = [255 / (1 + np.exp(-4 * (values - centre) / 1000)) for centre in (2048, 1000)]
    assert np.abs(np.stack(expected) - shown).max() <= 0.51


SIGMOID = {"WindowCenter": 2048, "WindowWidth": 1000, "VOILUTFunction": "SIGMOID"}


@pytest.mark.parametrize("place", ["shared", "each"])
def test_a_sigmoid_in_functional_groups_is_used(tmp_path, place):
    groups = {"FrameVOILUTSequence": SIGMOID}
    values = np.stack([RAMP] * 2)
    data = in_groups(values, groups) if place == "shared" else in_groups(values, {}, groups, groups)
    scan = decoded(tmp_path, data)
    shown = np.stack(list(FrameFile(scan.path)))
    assert scan.window is None
    assert np.abs(255 / (1 + np.exp(-4 * (values.astype(float) - 2048) / 1000)) - shown).max() <= 0.51


def test_a_voi_table_in_functional_groups_is_used(tmp_path):
    falling = table([4095 - value for value in range(4096)], 0, 12, "VOILUTSequence")
    shown = frames(tmp_path, in_groups(np.stack([RAMP] * 2), {"FrameVOILUTSequence": falling}))
    assert np.abs(255 - RAMP / 4095 * 255 - shown).max() <= 0.51


def test_frames_with_curves_of_their_own_are_shown_by_these(tmp_path):
    linear = {"WindowCenter": 2048, "WindowWidth": 4096}
    each = [{"FrameVOILUTSequence": one} for one in (SIGMOID, SIGMOID | {"WindowCenter": 1000}, linear)]
    scan = decoded(tmp_path, in_groups(np.stack([RAMP] * 3), {}, *each, PhotometricInterpretation="MONOCHROME1"))
    shown = np.stack(list(FrameFile(scan.path)))
    values = RAMP.astype(float)
    expected = [255 / (1 + np.exp(-4 * (values - centre) / 1000)) for centre in (2048, 1000)] + [values / 4095 * 255]
    assert scan.window is None
    assert np.abs(255 - np.stack(expected) - shown).max() <= 1


def test_a_table_of_a_monochrome1_file_is_inverted(tmp_path):
    rising = table(list(range(4096)), 0, 12, "VOILUTSequence")
    scan = decoded(tmp_path, dicom(RAMP, PhotometricInterpretation="MONOCHROME1", **rising))
    assert scan.window is None
    assert np.abs(255 - RAMP / 4095 * 255 - FrameFile(scan.path)[0]).max() <= 0.51


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, None, ExplicitVRBigEndian])
@pytest.mark.parametrize("vr", ["US", "SS"])
def test_a_table_may_begin_below_zero(tmp_path, syntax, vr):
    """Whatever type its writer gave it, or none at all: the values' own sign tells."""
    rising = table(list(range(4096)), 0, 12, "VOILUTSequence")
    descriptor = [4096, 63488, 12] if vr == "US" else [4096, -2048, 12]
    rising["VOILUTSequence"][0].add_new(0x00283002, vr, descriptor)
    rising["VOILUTSequence"][0]["LUTData"].VR = "OW"
    order = ">u2" if syntax == ExplicitVRBigEndian else "<u2"
    rising["VOILUTSequence"][0].LUTData = np.arange(4096).astype(order).tobytes()
    given = {"syntax": syntax} if syntax else {}
    shown = frames(tmp_path, dicom(RAMP.astype(np.int16) - 2048, **given, **rising))[0]
    assert np.abs(RAMP / 4095 * 255 - shown).max() <= 0.51


def test_a_table_for_values_without_a_sign_may_begin_above_half(tmp_path):
    rising = table(list(range(4096)), 0, 12, "VOILUTSequence")
    rising["VOILUTSequence"][0].add_new(0x00283002, "SS", [4096, 50_000 - 65_536, 12])
    shown = frames(tmp_path, dicom(RAMP + 50_000, **rising))[0]
    assert np.abs(RAMP / 4095 * 255 - shown).max() <= 0.51


@pytest.mark.parametrize("count", [256, 255])
@pytest.mark.parametrize("packed", [True, False])
def test_entries_of_8_bits_are_read_packed_or_not(tmp_path, count, packed):
    """CP-522: two entries in a word, the first in its lower half; others write a word for each."""
    entries = np.arange(count)[::-1].astype(np.uint8 if packed else np.uint16)
    falling = table([0, 0], 0, 8, "VOILUTSequence")
    falling["VOILUTSequence"][0].LUTDescriptor = [count, 0, 8]
    falling["VOILUTSequence"][0]["LUTData"].VR = "OW"
    falling["VOILUTSequence"][0].LUTData = entries.tobytes() + b"\0" * (entries.nbytes % 2)
    shown = frames(tmp_path, dicom(GREY.astype(np.uint16), **falling))[0]
    assert np.array_equal(np.maximum(0, count - 1 - GREY.astype(int)), shown)


@pytest.mark.parametrize(("bits", "claimed"), [(12, 16), (8, 16), (10, 12), (16, 12), (14, 0)])
def test_a_table_is_read_by_its_own_largest_entry(tmp_path, bits, claimed):
    full = (1 << bits) - 1
    rising = table([value * full // 4095 for value in range(4096)], 0, claimed, "VOILUTSequence")
    shown = frames(tmp_path, dicom(RAMP, **rising))[0]
    assert np.abs(RAMP / 4095 * 255 - shown).max() <= 1


def test_a_table_with_fewer_entries_than_it_says_is_read_as_it_is(tmp_path):
    rising = table(list(range(4096)), 0, 12, "VOILUTSequence")
    rising["VOILUTSequence"][0].LUTDescriptor = [0, 0, 12]
    assert np.abs(RAMP / 4095 * 255 - frames(tmp_path, dicom(RAMP, **rising))[0]).max() <= 0.51


def test_a_modality_table_may_begin_below_zero_too(tmp_path):
    doubled = table([2 * value for value in range(4096)], 0, 16, "ModalityLUTSequence")
    doubled["ModalityLUTSequence"][0].add_new(0x00283002, "US", [4096, 63488, 16])
    data = dicom(RAMP.astype(np.int16) - 2048, SOPClassUID=CT, **doubled)
    assert (8, 8182) == pytest.approx(decoded(tmp_path, data).window, abs=10)


def test_a_modality_table_that_cannot_be_read_is_refused(tmp_path):
    broken = table([1, 2], 0, 16, "ModalityLUTSequence")
    del broken["ModalityLUTSequence"][0].LUTData
    assert "modality LUT" in refused(tmp_path, dicom(RAMP, SOPClassUID=CT, **broken)).message


@pytest.mark.parametrize(
    ("vr", "value", "bits"),
    [("US", 63536, 16), ("SS", -2000, 16), ("UN", (63536).to_bytes(2, "little"), 16), ("US", 2096, 12)],
)
@pytest.mark.parametrize("limit", [False, True])
def test_padding_is_read_by_the_pixels_own_sign(tmp_path, vr, value, bits, limit):
    values = RAMP.astype(np.int16) // 3 - 600
    values[:, :12] = -2000
    whole = dataset(values, SOPClassUID=CT, BitsStored=bits, HighBit=bits - 1)
    whole.add_new(0x00280120, vr, value)
    if limit:
        whole.add_new(0x00280121, "US", 63540)
    low, high = decoded(tmp_path, content(whole)).window
    assert (-592, 764) == pytest.approx((low, high), abs=4)


def test_padding_of_pixels_without_a_sign_may_be_written_with_one(tmp_path):
    values = RAMP + 1000
    values[:, :12] = 63536
    whole = dataset(values)
    whole.add_new(0x00280120, "SS", -2000)
    assert (1025, 5092) == pytest.approx(decoded(tmp_path, content(whole)).window, abs=4)


def test_padding_does_not_spoil_the_window(tmp_path):
    values = RAMP.astype(np.int16) + 1
    values[:20] = -2000
    low, _ = decoded(tmp_path, dicom(values, PixelPaddingValue=-2000)).window
    assert low > 0
    assert 0 == FrameFile(tmp_path / "scan.npy")[0][0, 0]


def test_a_mask_of_one_bit_is_black_and_white(tmp_path):
    data = dicom((GREY > 128).astype(np.uint8), BitsStored=1, HighBit=0)
    assert {0, 255} == set(np.unique(frames(tmp_path, data)))


WORDS = {"BitsStored": 12, "WindowCenter": 2048, "WindowWidth": 4096}


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEGLosslessSV1, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("high_bit", [11, 12, 13, 15])
def test_values_are_taken_from_the_place_in_their_words_that_the_header_says(tmp_path, syntax, signed, high_bit):
    """PS3.5 8.1.1: below and above may stand anything; here all of these bits are set in the upper half."""
    values = RAMP.astype(np.int32) - (2048 if signed else 0)
    words = (values << (high_bit - 11)) & ((1 << (high_bit + 1)) - 1)
    words[:20] |= 0xFFFF & ~(0xFFF << (high_bit - 11))
    words = words.astype(np.uint16).view(np.int16 if signed else np.uint16)
    attributes = WORDS | {"HighBit": high_bit, "WindowCenter": 0 if signed else 2048}
    if syntax in (None, RLELossless):
        data = compressed(words, syntax, **attributes) if syntax else dicom(words, **attributes)
    else:  # codes of 16 bits without a sign
        data = compressed(words.view(np.uint16), syntax, PixelRepresentation=int(signed), **attributes)
    scan = DicomScan(written(tmp_path, data), DecodeLimits())
    assert np.array_equal(values, scan.read(0))
    scan.close()


@pytest.mark.parametrize("syntax", [JPEGLSNearLossless, JPEG2000, HTJ2K])
def test_a_lossy_value_that_came_out_a_little_too_high_is_the_highest(tmp_path, syntax):
    """Writers that say 16 bits in the code for values of 12: masked, white would become black."""
    values = RAMP.copy()
    values[0] = 4100
    values[1] |= 0x8000
    scan = DicomScan(written(tmp_path, compressed(values, syntax, HighBit=11, **WORDS)), DecodeLimits())
    shown = scan.read(0).astype(int)
    assert (4095, 4095) == (shown[0].min(), shown.max())
    assert 3 >= np.abs(shown[1:].mean() - RAMP[1:].mean())
    scan.close()


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEG2000Lossless, JPEGLSLossless])
def test_a_high_bit_that_the_code_does_not_have_is_not_followed(tmp_path, syntax):
    """The header was written for other words than the picture's code holds: that has just the bits of a value."""
    data = compressed(GREY, syntax, HighBit=11, BitsAllocated=16, BitsStored=8)
    assert np.array_equal(GREY, frames(tmp_path, data)[0])


@pytest.mark.parametrize("high_bit", [16, 31])
def test_a_high_bit_outside_of_its_word_is_refused(tmp_path, high_bit):
    assert f"HighBit {high_bit} lies outside" in refused(tmp_path, dicom(RAMP, HighBit=high_bit, **WORDS)).message


@pytest.mark.parametrize("high_bit", [0, 7, 10])
def test_a_high_bit_below_the_bits_of_a_value_can_only_mean_the_lowest(tmp_path, high_bit):
    data = dicom(RAMP, HighBit=high_bit, **WORDS)
    assert np.array_equal(frames(tmp_path, dicom(RAMP, HighBit=11, **WORDS)), frames(tmp_path, data))


def test_floats_have_no_high_bit(tmp_path):
    values = RAMP.astype(np.float32) / 4095
    whole = dataset(values, HighBit=99)
    del whole.PixelData, whole.BitsStored, whole.PixelRepresentation
    whole.FloatPixelData = values.tobytes()
    assert np.abs(values * 255 - frames(tmp_path, content(whole))[0]).max() < 1


@pytest.mark.parametrize(("count", "height", "width"), [(3, 5, 7), (9, 3, 5), (2, 8, 8), (17, 1, 1), (4, 11, 5)])
def test_frames_of_one_bit_need_not_end_at_a_byte(tmp_path, count, height, width):
    marks = np.random.default_rng(0).random((count, height, width)) > 0.5
    whole = dataset(marks.astype(np.uint8), BitsAllocated=1, BitsStored=1, HighBit=0)
    packed = np.packbits(marks.ravel(), bitorder="little").tobytes()
    whole.PixelData = packed + b"\0" * (len(packed) % 2)
    assert np.array_equal(marks * np.uint8(255), frames(tmp_path, content(whole)))


@pytest.mark.parametrize("planar", [0, 1])
def test_rgb_is_kept(tmp_path, planar):
    values = np.moveaxis(COLOURS, -1, 0).copy() if planar else COLOURS
    whole = dataset(COLOURS, PlanarConfiguration=planar)
    whole.PixelData = values.tobytes()
    assert np.array_equal(COLOURS, frames(tmp_path, content(whole))[0])


def test_ybr_becomes_rgb(tmp_path):
    ybr = np.asarray(Image.fromarray(COLOURS).convert("YCbCr"))
    shown = frames(tmp_path, dicom(ybr, PhotometricInterpretation="YBR_FULL"))[0]
    assert np.abs(shown.astype(int) - COLOURS).max() <= 3


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_becomes_colours(tmp_path, bits):
    scale = 257 if bits == 16 else 1
    tables: dict[str, Any] = {}
    for name, values in (("Red", range(256)), ("Green", [0] * 256), ("Blue", [255] * 256)):
        tables[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        data = np.array([value * scale for value in values], np.uint16 if bits == 16 else np.uint8).tobytes()
        tables[f"{name}PaletteColorLookupTableData"] = data
    shown = frames(tmp_path, dicom(GREY, PhotometricInterpretation="PALETTE COLOR", **tables))[0]
    assert np.array_equal(np.stack([GREY, np.zeros_like(GREY), np.full_like(GREY, 255)], axis=-1), shown)


def palette(entries: NDArray[np.uint16], count: int = 256) -> dict[str, Any]:
    given: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        given[f"{colour}PaletteColorLookupTableDescriptor"] = [count, 0, 16]
        given[f"{colour}PaletteColorLookupTableData"] = entries.tobytes()
    return given


@pytest.mark.parametrize("scale", [257, 256, 1])
def test_a_palette_may_fill_only_the_lower_half_of_its_entries(tmp_path, scale):
    assert np.array_equal(GREY, frames(tmp_path, dicom(GREY, **palette((np.arange(256) * scale).astype(np.uint16))))[0])


def test_a_dark_frame_is_as_dark_as_its_palette_says(tmp_path):
    """Whether entries use their upper 8 bits is the table's matter, and not that of the colours that a frame has."""
    values = np.stack([GREY, GREY // 17])
    squares = (np.arange(256) ** 2).astype(np.uint16)
    assert np.array_equal(squares[values] >> 8, frames(tmp_path, dicom(values, **palette(squares))))


def test_a_palette_of_more_than_256_colours(tmp_path):
    values = RAMP[:, ::2]
    shown = frames(tmp_path, dicom(values, **palette((np.arange(4096) << 4).astype(np.uint16), 4096)))
    assert np.array_equal((values >> 4).astype(np.uint8), shown[0])


# -------------------------------------------------------------------------------------------------- how it is packed


LOSSLESS = (
    RLELossless, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, HTJ2KLosslessRPCL,
)  # fmt: skip


@pytest.mark.parametrize("syntax", LOSSLESS)
@pytest.mark.parametrize("values", [RAMP, GREY, COLOURS, cine()], ids=["16 bit", "8 bit", "colours", "run"])
def test_what_is_compressed_without_loss_is_as_what_is_not(tmp_path, syntax, values):
    plain = frames(tmp_path, dicom(values))
    assert np.array_equal(plain, frames(tmp_path, compressed(values, syntax)))


@pytest.mark.parametrize("syntax", [JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K])
@pytest.mark.parametrize("values", [RAMP, cine()], ids=["picture", "run"])
def test_12_bits_that_are_compressed_with_loss_are_nearly_the_same(tmp_path, syntax, values):
    attributes = {"BitsStored": 12, "HighBit": 11, "WindowCenter": 2048, "WindowWidth": 4096}
    plain = frames(tmp_path, dicom(values, **attributes))
    shown = frames(tmp_path, compressed(values, syntax, **attributes))
    assert 3 >= np.abs(plain.astype(int) - shown).max()


def test_what_decodes_a_picture_does_not_depend_on_what_else_is_installed(tmp_path):
    """pydicom takes whichever of its plug-ins it finds, and each has its own faults."""
    scan = DicomScan(written(tmp_path, compressed(RAMP, JPEG2000Lossless)), DecodeLimits())
    assert "imagecodecs" == scan._options["decoding_plugin"]
    scan.close()


@pytest.mark.parametrize(
    "syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, JPEGExtended12Bit]
)
def test_a_picture_of_another_size_than_the_header_says_is_refused(tmp_path, syntax):
    """Before it is decoded: (48, 40) for (40, 48) would be a picture of slanted lines."""
    whole = {"Rows": 40, "Columns": 48, "BitsStored": 12, "HighBit": 11}
    message = refused(tmp_path, compressed(RAMP, syntax, **whole)).message
    assert "it is 40 x 48 with 1 values a pixel, and the header says 48 x 40 with 1." in message


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9, 0.98])
@pytest.mark.parametrize(
    "syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, JPEGExtended12Bit]
)
def test_a_picture_that_ends_early_is_refused(tmp_path, syntax, share):
    """Whatever the decoder makes of it: libjpeg-turbo and OpenJPH fill what is missing, and say nothing."""
    packed = code(RAMP, syntax)
    whole = in_fragments([packed[: int(len(packed) * share)]], RAMP, syntax, BitsStored=12, HighBit=11)
    assert "cannot be decoded" in refused(tmp_path, whole).message


def test_a_jpeg_run_is_read(tmp_path):
    values = np.stack([np.roll(GREY, step, axis=1) for step in range(3)])
    packed = [io.BytesIO() for _ in values]
    for file, frame in zip(packed, values, strict=True):
        Image.fromarray(frame).save(file, "JPEG", quality=95)
    shown = frames(tmp_path, in_fragments([file.getvalue() for file in packed], values, JPEGBaseline8Bit))
    assert np.abs(shown.astype(int) - values).mean() < 3


def test_a_deflated_file_is_read(tmp_path):
    assert np.array_equal(GREY, frames(tmp_path, deflated(GREY))[0])


@pytest.mark.parametrize("bits", [9, 10, 11, 12, 13, 14, 15, 16])
def test_a_table_is_white_at_the_largest_number_of_its_bits(tmp_path, bits):
    entries = [value >> 4 << bits - 8 for value in range(4096)]
    shown = frames(tmp_path, dicom(RAMP, BitsStored=12, HighBit=11, **table(entries, 0, bits, "VOILUTSequence")))[0]
    white = (1 << bits) - 1
    assert np.array_equal(np.floor(np.array(entries)[RAMP] * (255 / white) + 0.5), shown)


def test_the_name_of_a_function_may_be_written_small(tmp_path):
    given = {"WindowCenter": 2048, "WindowWidth": 1000}
    files = [dicom(RAMP, VOILUTFunction=name, **given) for name in ("SIGMOID", " sigmoid")]
    assert np.array_equal(*(frames(tmp_path, data) for data in files))


@pytest.mark.parametrize(("kind", "bits"), [(np.uint16, 8), (np.uint16, 12), (np.uint16, 16)])
def test_colours_of_more_bits_are_shown_as_they_are(tmp_path, kind, bits):
    """No window is made of their values: a dark picture stays as dark as viewers show it."""
    values = COLOURS.astype(kind) << bits - 8 >> 1
    done = decoded(tmp_path, dicom(values, BitsStored=bits, HighBit=bits - 1))
    assert (0, (1 << bits) - 1) == done.window
    assert np.abs(FrameFile(done.path)[0].astype(int) - (COLOURS >> 1)).max() <= 1


@pytest.mark.parametrize("wrong", [lambda place: place + 1, lambda place: 0, lambda place: place - 4])
def test_a_table_of_offsets_that_is_wrong_does_not_matter(tmp_path, wrong):
    """Where there is a fragment for each frame; writers forget that these have an even length."""
    values = cine(3)
    whole = dataset(values)
    codes = encapsulate([code(frame, JPEGLSLossless) for frame in values])
    count = int.from_bytes(codes[4:8], "little")
    offsets = np.frombuffer(codes[8 : 8 + count], "<u4")
    assert 3 == offsets.size
    changed = np.array([wrong(int(place)) if place else 0 for place in offsets], "<u4").tobytes()
    whole.file_meta.TransferSyntaxUID = JPEGLSLossless
    whole.PixelData = codes[:8] + changed + codes[8 + count :]
    whole["PixelData"].VR = "OB"
    whole["PixelData"].is_undefined_length = True
    (tmp_path / "scan").write_bytes(content(whole))
    with closing(DicomScan(tmp_path / "scan", DecodeLimits())) as scan:
        assert all(np.array_equal(values[index], scan.read(index)) for index in (0, 1, 2, 1))


# ---------------------------------------------------------------------------------------------- what it says besides


def test_a_run_has_its_frames_its_time_and_its_spacing(tmp_path):
    scan = decoded(tmp_path, dicom(cine(), FrameTime="66.7", PixelSpacing=[0.3, 0.2]))
    assert (6, 66.7, (0.3, 0.2)) == (scan.frames, scan.frame_ms, scan.spacing_mm)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"FrameTimeVector": [0, 40, 60]}, 50.0),
        ({"CineRate": "25"}, 40.0),
        ({"RecommendedDisplayFrameRate": "10"}, 100.0),
        ({"FrameTime": "0"}, None),
        ({}, None),
    ],
)
def test_the_time_of_a_frame_is_found_wherever_it_stands(tmp_path, given, expected):
    assert expected == decoded(tmp_path, dicom(cine(3), **given)).frame_ms


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"ImagerPixelSpacing": [0.4, 0.4]}, (0.4, 0.4)),
        ({"ImagerPixelSpacing": [0.4, 0.4], "EstimatedRadiographicMagnificationFactor": "1.6"}, (0.25, 0.25)),
        ({"ImagerPixelSpacing": [0.4, 0.4], "PixelSpacing": [0.3, 0.3]}, (0.3, 0.3)),
        ({"PixelSpacing": [0, 0.3]}, None),
        ({}, None),
    ],
)
def test_the_spacing_is_that_at_the_patient_where_the_file_can_tell(tmp_path, given, expected):
    assert decoded(tmp_path, dicom(GREY, **given)).spacing_mm == (pytest.approx(expected) if expected else None)


SOURCE = {"DistanceSourceToDetector": "1200", "DistanceSourceToPatient": "800"}


@pytest.mark.parametrize(
    ("given", "expected", "at_detector"),
    [
        ({"ImagerPixelSpacing": [0.3, 0.3]}, 0.3, True),
        ({"ImagerPixelSpacing": [0.3, 0.3]} | SOURCE, 0.2, False),
        ({"ImagerPixelSpacing": [0.3, 0.3], "EstimatedRadiographicMagnificationFactor": "1.2"} | SOURCE, 0.25, False),
        ({"ImagerPixelSpacing": [0.3, 0.3], "DistanceSourceToDetector": "1200"}, 0.3, True),
        ({"ImagerPixelSpacing": [0.3, 0.3], **SOURCE, "DistanceSourceToPatient": "1300"}, 0.3, True),
        ({"ImagerPixelSpacing": [0.3, 0.3], "PixelSpacing": [0.3, 0.3]}, 0.3, True),
        ({"ImagerPixelSpacing": [0.3, 0.3], "PixelSpacing": [0.3, 0.3]} | SOURCE, 0.2, False),
        (
            {"ImagerPixelSpacing": [0.3, 0.3], "PixelSpacing": [0.3, 0.3], "PixelSpacingCalibrationType": "GEOMETRY"},
            0.3,
            False,
        ),
        ({"PixelSpacing": [0.25, 0.25]} | SOURCE, 0.25, False),
    ],
)
def test_a_size_at_the_detector_is_brought_to_the_patient_or_called_so(tmp_path, given, expected, at_detector):
    scan = decoded(tmp_path, dicom(GREY, **given))
    assert (expected, expected) == pytest.approx(scan.spacing_mm)
    assert at_detector == ("at the detector" in scan.note)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({"ProjectionPixelCalibrationSequence": {"ObjectPixelSpacingInCenterOfBeam": [0.21, 0.22]}}, (0.21, 0.22)),
        ({"FramePixelDataPropertiesSequence": {"ImagerPixelSpacing": [0.3, 0.3]}}, (0.3, 0.3)),
        (
            {
                "FramePixelDataPropertiesSequence": {"ImagerPixelSpacing": [0.3, 0.3]},
                "XRayGeometrySequence": {"DistanceSourceToDetector": 1200, "DistanceSourceToIsocenter": 800},
            },
            (0.2, 0.2),
        ),
        (
            {
                "FramePixelDataPropertiesSequence": {"ImagerPixelSpacing": [0.3, 0.3]},
                "ProjectionPixelCalibrationSequence": {"ObjectPixelSpacingInCenterOfBeam": [0.2, 0.25]},
            },
            (0.2, 0.25),
        ),
    ],
)
@pytest.mark.parametrize("place", ["shared", "each"])
def test_the_spacing_of_an_enhanced_angiogram_is_found(tmp_path, groups, expected, place):
    values = np.stack([RAMP] * 2)
    data = in_groups(values, groups) if place == "shared" else in_groups(values, {}, groups, groups)
    assert expected == pytest.approx(decoded(tmp_path, data).spacing_mm)


def test_the_modality_is_told(tmp_path):
    assert ("OP", "") == (
        decoded(tmp_path, dicom(GREY, Modality="op ")).modality, decoded(tmp_path, dicom(GREY, Modality="")).modality,
    )  # fmt: skip


def test_an_enhanced_file_keeps_all_that_in_its_groups(tmp_path):
    measures, window, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [0.7, 0.7]
    window.WindowCenter, window.WindowWidth = 1000, 401
    shared.PixelMeasuresSequence, shared.FrameVOILUTSequence = [measures], [window]
    scan = decoded(tmp_path, dicom(cine(2), SharedFunctionalGroupsSequence=[shared]))
    assert ((0.7, 0.7), (799.5, 1199.5)) == (scan.spacing_mm, scan.window)


def test_attributes_that_are_asked_for_are_told_and_no_others(tmp_path):
    tags = ("PatientID", "ImageType", "Rows", "StationName")
    scan = decoded(tmp_path, dicom(GREY, ImageType=["ORIGINAL", "PRIMARY"]), tags=tags)
    assert {"PatientID": PATIENT, "ImageType": "ORIGINAL\\PRIMARY", "Rows": "48"} == scan.tags
    assert {} == decoded(tmp_path, dicom(GREY)).tags


# ------------------------------------------------------------------------------------------------- bounds and bad files


def test_a_long_run_is_decoded_a_frame_at_a_time(tmp_path):
    """2,000 frames: neither plain nor packed are more than a few of them in memory."""
    values = np.zeros((2000, 64, 64), np.uint16)
    values[:, ::2] = 1000
    (tmp_path / "scan").write_bytes(dicom(values))
    decode(tmp_path / "scan", tmp_path / "warm.npy", DecodeLimits())
    tracemalloc.start()
    scan = decode(tmp_path / "scan", tmp_path / "scan.npy", DecodeLimits())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 2000 == scan.frames
    assert peak < values.nbytes / 4


def test_frames_of_a_packed_run_can_be_read_again(tmp_path):
    values = cine()
    (tmp_path / "scan").write_bytes(compressed(values, RLELossless))
    scan = DicomScan(tmp_path / "scan", DecodeLimits())
    for index in (0, 1, 5, 5, 2, 0):
        assert np.array_equal(values[index], scan.read(index))
    scan.close()


def test_a_run_of_too_many_frames_is_refused_by_its_header(tmp_path):
    data = dicom(np.zeros((2, 2), np.uint8), NumberOfFrames=2001)
    assert "too many frames" in refused(tmp_path, data).message


def test_a_picture_that_is_too_large_is_refused_by_its_header(tmp_path):
    whole = dataset(np.zeros((2, 2), np.uint8))
    whole.Rows = whole.Columns = 60_000
    assert "60000 x 60000" in refused(tmp_path, content(whole)).message


def test_pixels_of_the_wrong_length_are_truncated(tmp_path):
    whole = dataset(GREY)
    whole.PixelData = whole.PixelData[:-100]
    error = refused(tmp_path, content(whole))
    assert isinstance(error, TruncatedError)
    assert "1,920 bytes and it has 1,820" in error.message


@pytest.mark.parametrize("data", [dicom(RAMP), compressed(cine(), RLELossless), without_meta(dicom(RAMP))])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_a_file_that_is_cut_off_is_waited_for(tmp_path, data, share):
    assert ends_early(io.BytesIO(data)) == ""
    cut = data[: int(len(data) * share)]
    assert "DICOM" in ends_early(io.BytesIO(cut))
    assert isinstance(refused(tmp_path, cut), TruncatedError)


def test_a_run_with_fewer_pictures_than_it_says_is_refused(tmp_path):
    values = cine(2)
    whole = dataset(values)
    whole.compress(RLELossless, generate_instance_uid=False)
    whole.NumberOfFrames = 3
    assert isinstance(refused(tmp_path, content(whole)), InputError)


@pytest.mark.parametrize("syntax", ["1.2.3.4.99", "1.2.840.10008.1.2.4.102"])
def test_a_transfer_syntax_that_cannot_be_decoded_is_named(tmp_path, syntax):
    error = refused(tmp_path, in_fragments([b"\0" * 10], GREY, syntax))
    assert syntax in error.message or "MPEG-4" in error.message
    assert "transfer syntax" in error.hint


def test_a_decoder_that_is_not_installed_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", False)
    error = refused(tmp_path, compressed(GREY, RLELossless))
    assert "RLE Lossless" in error.message
    assert "docs/formats.md" in error.hint


def test_a_deflated_bomb_is_refused(tmp_path):
    data = deflated(np.zeros((3, 3000, 3000), np.uint8))
    assert len(data) < 100_000
    assert "inflates to more than 8 MiB" in refused(tmp_path, data, DecodeLimits(memory_mib=32)).message


def test_missing_attributes_are_named(tmp_path):
    whole = dataset(GREY)
    del whole.Rows, whole.BitsStored
    assert "lacks Rows, BitsStored" in refused(tmp_path, content(whole)).message


def test_unknown_colours_are_refused(tmp_path):
    assert "colours" in refused(tmp_path, dicom(COLOURS, PhotometricInterpretation="HSV")).message


def nested(depth: int) -> bytes:
    """Sequences within sequences, of undefined length."""
    opened = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    return dicom(GREY)[:144] + b"" + opened * depth


def test_sequences_without_end_cost_little(tmp_path):
    data = nested(200_000)
    assert outline(io.BytesIO(data), len(data)).pixels is None
    assert isinstance(refused(tmp_path, data), InputError)


def test_elements_without_end_cost_little():
    """Following them ends after so many: nobody has to wait for a file that only looks like DICOM."""
    data = dicom(GREY)
    head = 144 + int.from_bytes(data[140:144], "little")
    many = data[:head] + struct.pack("<HH2sH", 0x0009, 0x0010, b"LO", 0) * (MOST_ELEMENTS + 1) + data[head:]
    assert outline(io.BytesIO(many), len(many)).pixels is None


def message_of(folder: Path, data: bytes) -> str:
    """What the error says, if there is one; another one than ours is a failed test."""
    try:
        decoded(folder, data)
    except InputError as error:
        return f"{error}{error.__cause__ or ''}"
    return ""


def test_random_damage_ends_in_errors_of_ours(tmp_path):
    rng = np.random.default_rng(1)
    whole = bytearray(compressed(cine(3), JPEGLSLossless))
    messages = set()
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(132, len(whole), 6):
            damaged[place] = rng.integers(256)
        messages.add(message_of(tmp_path, bytes(damaged)))
    assert len(messages) > 3
    assert not any("MUSTERMANN" in message for message in messages)


# --------------------------------------------------------------------------------------------------- without pictures


def test_an_object_without_pictures_is_told_by_its_structure():
    data = report()
    expected = Outline(pixels=False, sop_class="1.2.840.10008.5.1.4.1.1.88.11", modality="SR")
    assert expected == outline(io.BytesIO(data), len(data))
    assert "is DICOM without a picture: a report" == without_pictures(io.BytesIO(data))


@pytest.mark.parametrize(
    ("sop_class", "modality", "what"),
    [
        ("66.4", "SEG", "a segmentation"),
        ("66.7", "SEG", "a segmentation"),
        ("481.2", "RTDOSE", "a distribution of dose (RT)"),
        ("11.1", "PR", "a presentation state"),
        ("11.4", "PR", "a presentation state"),
        ("30", "MR", "a parametric map"),
        ("7", "SEG", "a segmentation"),
        ("999.1", "RTDOSE ", "a distribution of dose (RT)"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_pixels_that_are_no_picture_of_a_patient_are_no_scan(sop_class, modality, what, packed):
    given = {"SOPClassUID": f"1.2.840.10008.5.1.4.1.1.{sop_class}", "Modality": modality}
    data = deflated(GREY, **given) if packed else dicom(GREY, **given)
    assert f"is DICOM that is no scan: {what}" == without_pictures(io.BytesIO(data))


@pytest.mark.parametrize(
    ("sop_class", "modality"), [("481.1", "RTIMAGE"), ("3.1", "US"), ("77.1.5.1", "OP"), ("7", "OT")]
)
def test_other_pictures_are_scans(sop_class, modality):
    data = dicom(GREY, SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{sop_class}", Modality=modality)
    assert "" == without_pictures(io.BytesIO(data))


def test_an_index_of_files_is_told_from_a_picture():
    data = content(dataset(GREY, SOPClassUID="1.2.840.10008.1.3.10"))
    plain = data.replace(struct.pack("<HH", 0x7FE0, 0x0010), struct.pack("<HH", 0x7FE1, 0x0010))
    assert "DICOMDIR" in without_pictures(io.BytesIO(plain))


def test_pictures_are_scans():
    for data in (
        dicom(GREY),
        compressed(cine(), RLELossless),
        deflated(GREY),
        without_meta(dicom(GREY)),
        b"",
        b"II*\0",
    ):
        assert "" == without_pictures(io.BytesIO(data))


def test_a_deflated_report_is_without_pictures():
    data = report()
    head = 144 + int.from_bytes(data[140:144], "little")
    packed = deflated(GREY)
    packed_head = 144 + int.from_bytes(packed[140:144], "little")
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    whole = packed[:packed_head] + packer.compress(data[head:]) + packer.flush()
    assert "a report" in without_pictures(io.BytesIO(whole))
    assert ("", "DICOM" in ends_early(io.BytesIO(whole[:-9]))) == (without_pictures(io.BytesIO(whole[:-9])), True)


# ------------------------------------------------------------------------------------------------------------ privacy


PLACES = ("PhotometricInterpretation", "RescaleSlope", "WindowCenter", "NumberOfFrames", "PixelSpacing", "FrameTime")


@pytest.mark.parametrize("keyword", [*PLACES, "TransferSyntaxUID"])
def test_no_error_and_no_log_quotes_what_stands_in_the_file(tmp_path, caplog, capfd, keyword):
    """The patient's name where numbers and words of the standard belong: the library's own errors quote it."""
    caplog.set_level(logging.DEBUG)
    whole = dataset(RAMP)
    if keyword == "TransferSyntaxUID":
        data = content(whole).replace(b"1.2.840.10008.1.2.1\0", NAME.ljust(20).encode())
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole.add_new(tag_for_keyword(keyword), "LO", NAME)
        data = content(whole)
    message = message_of(tmp_path, data)
    shown = capfd.readouterr()
    assert "MUSTERMANN" not in message + caplog.text + shown.out + shown.err
    assert keyword not in ("PhotometricInterpretation", "NumberOfFrames", "TransferSyntaxUID") or message
