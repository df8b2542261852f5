"""DICOM segmentations open in their usual readers and refer to the frames that they belong to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest

from tests.unit.imaging.dicoms import ANGIOGRAPHY, NAME, SECONDARY_CAPTURE, cine, compressed, content, dataset, dicom
from tests.unit.imaging.seg_readers import check_seg
from watcherd.formats.npy_frames import write_frames
from watcherd.imaging.decode import DecodeLimits, decode
from watcherd.imaging.encode import Rendered, RenderRequest, render

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SCAN = np.arange(32 * 24, dtype=np.uint16).reshape(32, 24)


def marked(frames: int, height: int, width: int, value: int = 1) -> NDArray[np.uint8]:
    """A mask with a mark of its own in every frame but the second."""
    labels = np.zeros((frames, height, width), np.uint8)
    for index in range(frames):
        labels[index, 1 + index % 5 : 4 + index % 5, 2 : 5 + index % 3] = value if index != 1 else 0
    return labels


def rendered(folder: Path, data: bytes, mask: NDArray[np.uint8], **options: Any) -> Rendered:
    """Through `render`, as the service does it, with a copy in the spool that was made at a known time."""
    source = folder / "0123456789abcdef"
    source.write_bytes(data)
    os.utime(source, (1_767_225_600, 1_767_225_600))
    scan = decode(source, folder / "scan.npy", DecodeLimits())
    write_frames(folder / "mask.npy", mask, mask.shape, np.uint8)
    out = folder / "out"
    out.mkdir(exist_ok=True)
    request = RenderRequest(
        pixels=scan.path, mask=folder / "mask.npy", folder=out, stem="all", kinds=("mask", "dicom-seg"),
        source=source, scan=scan, **options,
    )  # fmt: skip
    result = render(request)
    for file in result.files:
        if file.kind == "dicom-seg":
            check_seg(file.path)
    return result


def seg_of(folder: Path, data: bytes, mask: NDArray[np.uint8], **options: Any) -> pydicom.Dataset:
    result = rendered(folder, data, mask, **options)
    assert (["mask", "dicom-seg"], None) == ([file.kind for file in result.files], result.note)
    return pydicom.dcmread(result.files[1].path)


def placed(seg: pydicom.Dataset, frames: int) -> NDArray[np.uint8]:
    """The masks that a SEG holds, each at its place in the run, which is the frame that it refers to where it may."""
    shown = np.zeros((frames, seg.Rows, seg.Columns), np.uint8)
    shared = seg.SharedFunctionalGroupsSequence[0]
    for pixels, groups in zip(np.atleast_3d(seg.pixel_array.T).T, seg.PerFrameFunctionalGroupsSequence, strict=True):
        reference = groups.DerivationImageSequence[0].SourceImageSequence[0]
        segment = groups.get("SegmentIdentificationSequence") or shared.SegmentIdentificationSequence
        place = groups.FrameContentSequence[0].get("InStackPositionNumber") or reference.get("ReferencedFrameNumber", 1)
        assert place == reference.get("ReferencedFrameNumber", place)
        shown[place - 1][pixels > 0] = segment[0].ReferencedSegmentNumber
    return shown


def test_a_picture_has_its_mask(tmp_path):
    labels = marked(1, 32, 24)
    seg = seg_of(tmp_path, dicom(SCAN, SOPClassUID=SECONDARY_CAPTURE), labels)
    assert np.array_equal(labels, placed(seg, 1))
    assert ("SEG", "BINARY", "1.2.3.4") == (seg.Modality, seg.SegmentationType, seg.StudyInstanceUID)


@pytest.mark.parametrize("side", [32, 33])
@pytest.mark.parametrize("kind", [ANGIOGRAPHY, SECONDARY_CAPTURE])
def test_a_run_has_its_masks_at_its_frames(tmp_path, kind, side):
    """Also where a frame's bits fill no whole number of bytes. Of a class of single frames no frame has a number that
    anything may refer to."""
    labels = marked(6, side, side)
    seg = seg_of(tmp_path, dicom(cine(6, side), SOPClassUID=kind), labels)
    assert np.array_equal(labels, placed(seg, 6))
    assert 5 == seg.NumberOfFrames, "frames without anything are left out"
    assert ([1, 3, 4, 5, 6] if kind == ANGIOGRAPHY else [None] * 5) == [
        groups.DerivationImageSequence[0].SourceImageSequence[0].get("ReferencedFrameNumber")
        for groups in seg.PerFrameFunctionalGroupsSequence
    ]
    instance = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
    assert ("1.2.3.4.5", kind) == (instance.ReferencedSOPInstanceUID, instance.ReferencedSOPClassUID)
    assert "1.2.3.4.6" == seg.ReferencedSeriesSequence[0].SeriesInstanceUID


@pytest.mark.parametrize(
    "given",
    [
        {"PixelSpacing": [0.3, 0.2]},
        {"ImagerPixelSpacing": [0.3, 0.2]},
        {"PixelSpacing": [0.3, 0.2], "SpacingBetweenSlices": "2"},
        {"PixelSpacing": [0.3, 0.2], "SliceThickness": "2"},
        {"PixelSpacing": [0.3, 0.2], "FrameOfReferenceUID": "1.2.3.7"},
    ],
)
@pytest.mark.parametrize("kind", [ANGIOGRAPHY, SECONDARY_CAPTURE])
@pytest.mark.parametrize("frames", [1, 6])
def test_a_source_with_a_size_of_pixels_and_no_place_has_a_segmentation_that_opens(tmp_path, given, kind, frames):
    """In other readers too: `rendered` opens each. A size without a place is what neither of them takes."""
    labels = marked(frames, 32, 32)
    whole = cine(6)[0] if frames == 1 else cine(6)
    assert np.array_equal(labels, placed(seg_of(tmp_path, dicom(whole, SOPClassUID=kind, **given), labels), frames))


@pytest.mark.parametrize(("given", "expected"), [(["L", "F"], ["L", "F"]), (None, None)])
def test_the_patients_orientation_is_copied_or_empty(tmp_path, given, expected):
    """PS3.3 C.7.6.1: whoever has no coordinates says it, or that it is not known."""
    more = {"PatientOrientation": given} if given else {}
    seg = seg_of(tmp_path, dicom(cine(6), **more), marked(6, 32, 32))
    assert (True, expected) == ("PatientOrientation" in seg, seg.PatientOrientation or None)


def test_the_algorithms_version_is_the_models_revision(tmp_path):
    """And masks of two models are two instances, even if they are equal."""
    first = seg_of(tmp_path, dicom(cine(6)), marked(6, 32, 32), revision="0123456789ab")
    other = seg_of(tmp_path, dicom(cine(6)), marked(6, 32, 32), revision="another")
    algorithm = first.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert ("watcherd", "0123456789ab") == (algorithm.AlgorithmName, algorithm.AlgorithmVersion)
    assert first.SOPInstanceUID != other.SOPInstanceUID


def test_without_its_library_the_result_says_what_to_install(tmp_path, monkeypatch):
    """And has its mask: the header is not to blame."""
    monkeypatch.setattr("watcherd.imaging.results.dicom_seg.find_spec", lambda _: None)
    result = rendered(tmp_path, dicom(cine(6)), marked(6, 32, 32))
    assert ["mask"] == [file.kind for file in result.files]
    assert 'highdicom is not installed (pip install "watcherd[seg]")' in result.note


def test_highdicom_opens_it(tmp_path):
    import highdicom

    result = rendered(tmp_path, dicom(cine(6)), marked(6, 32, 32))
    seg = highdicom.seg.segread(result.files[1].path)
    assert (1, "Blood vessel structure") == (seg.number_of_segments, seg.get_segment_description(1).segment_label)
    code = seg.get_segment_description(1).segmented_property_type
    assert ("59820001", "SCT") == (code.value, code.scheme_designator)


def test_a_slice_with_coordinates_keeps_them(tmp_path):
    data = dicom(
        SCAN, SOPClassUID="1.2.840.10008.5.1.4.1.1.2", Modality="CT", FrameOfReferenceUID="1.2.3.7", SliceThickness="2",
        ImagePositionPatient=[1, 2, 3], ImageOrientationPatient=[1, 0, 0, 0, 1, 0], PixelSpacing=[0.5, 0.5],
    )  # fmt: skip
    labels = marked(1, 32, 24)
    seg = seg_of(tmp_path, data, labels)
    assert np.array_equal(labels, placed(seg, 1))
    place = seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient
    assert ([1.0, 2.0, 3.0], "1.2.3.7") == (list(place), seg.FrameOfReferenceUID)


def test_classes_are_segments_with_their_names(tmp_path):
    labels = marked(6, 32, 32)
    labels[3, 20:24, 20:24] = 2
    seg = seg_of(tmp_path, dicom(cine(6)), labels, classes=2, labels=("artery", "something of our own"))
    assert np.array_equal(labels, placed(seg, 6))
    assert ["artery", "something of our own"] == [item.SegmentLabel for item in seg.SegmentSequence]
    assert ["51114001", "91723000"] == [
        item.SegmentedPropertyTypeCodeSequence[0].CodeValue for item in seg.SegmentSequence
    ]


def test_an_empty_mask_is_a_segmentation_of_all_frames(tmp_path):
    seg = seg_of(tmp_path, dicom(cine(6)), np.zeros((6, 32, 32), np.uint8))
    assert (6, 0) == (seg.NumberOfFrames, seg.pixel_array.max())


@pytest.mark.parametrize("data", [dicom(cine(6)), compressed(cine(6), "1.2.840.10008.1.2.5")])
def test_the_same_mask_gives_the_same_bytes(tmp_path, data):
    """Also the same UIDs; another mask gives others."""
    first, again = (rendered(tmp_path, data, marked(6, 32, 32)).files[1].sha256 for _ in range(2))
    assert first == again
    one = seg_of(tmp_path, data, marked(6, 32, 32))
    other = seg_of(tmp_path, data, marked(6, 32, 32)[:, ::-1])
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.SOPInstanceUID.startswith("2.25.")


def test_only_the_patient_and_the_study_are_copied(tmp_path):
    """As the standard asks for; other text of the source is not."""
    data = dicom(SCAN, ImageComments="PLANTED", StationName="PLANTED", InstitutionName="PLANTED")
    written = rendered(tmp_path, data, marked(1, 32, 24)).files[1].path.read_bytes()
    assert (True, False) == (NAME.encode() in written, b"PLANTED" in written)


def test_a_source_that_nothing_can_refer_to_keeps_its_mask(tmp_path):
    """A missing extra does not cost the mask, and the note says what is missing."""
    whole = dataset(SCAN)
    del whole.StudyInstanceUID
    result = rendered(tmp_path, content(whole), marked(1, 32, 24))
    assert ["mask"] == [file.kind for file in result.files]
    assert "There is no DICOM segmentation: the source lacks StudyInstanceUID" == result.note
    assert ["all.mask.png"] == [path.name for path in (tmp_path / "out").iterdir()]


def test_a_source_with_odd_dates_has_its_segmentation(tmp_path):
    whole = dataset(SCAN)
    whole.StudyTime, whole.PatientSex = "14:04:38", "male"
    seg = seg_of(tmp_path, content(whole), marked(1, 32, 24))
    assert ("", "") == (seg.StudyTime, seg.PatientSex)


def test_lack_of_memory_costs_the_segmentation_only(tmp_path, monkeypatch):
    def no_memory(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("watcherd.imaging.results.dicom_seg._identity", no_memory)
    result = rendered(tmp_path, dicom(SCAN), marked(1, 32, 24))
    assert ["mask"] == [file.kind for file in result.files]
    assert "limits.worker_memory_mib" in str(result.note)
