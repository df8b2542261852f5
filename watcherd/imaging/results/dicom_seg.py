"""A mask as a DICOM segmentation (SEG): one segment for each class, with references to the source's frames.

A SEG belongs to its patient and study: as the standard demands, those modules are copied from the source. It is the
only result with a patient's name in it. Sources: DICOM PS3.3 A.51 (SEG), PS3.16 CID 7150 and 7151 (codes),
PS3.5 B.2 (UIDs).
"""

from __future__ import annotations

import hashlib
import re
import uuid
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydicom import Dataset

from watcherd.errors import InputError
from watcherd.imaging.readers.dicom_file import hush, open_dicom
from watcherd.imaging.results.dicom_seg_frames import spread
from watcherd.outputs import SEG

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from watcherd.formats.npy_frames import FrameFile

__all__ = ["CannotSegmentError", "write_dicom_seg"]

REQUIRED: Final = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
"""Attributes without which nothing can refer to the source."""

MAY_BE_EMPTY: Final = {
    "PatientID": r".*",
    "PatientName": r".*",
    "PatientBirthDate": r"\d{8}",
    "PatientSex": r"[MFO]",
    "AccessionNumber": r".*",
    "StudyID": r".*",
    "StudyDate": r"\d{8}",
    "StudyTime": r"\d\d(\d\d(\d\d(\.\d{1,6})?)?)?",
}
"""A SEG has them, with the source's values where these are as the standard wants them, else empty."""

SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
"""SOP class of images that may do without coordinates."""

SERIES_NUMBER: Final = 9001
"""Number of our series, far above those of a study's own."""

PLACES: Final = (
    "SOPClassUID", "NumberOfFrames", "FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient",
    "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence", "PixelSpacing",
)  # fmt: skip
"""What makes highdicom look for a place in the patient, or describe one by halves: it and GDCM open no SEG that has a
size of pixels without a place for them."""

LONGEST_LABEL: Final = 64


class CannotSegmentError(Exception):
    """There can be no SEG for this source; the text says why, and quotes nothing of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Concept:
    """A finding as SNOMED CT codes it: value and meaning."""

    value: str
    meaning: str


STRUCTURE: Final = Concept(value="91723000", meaning="Anatomical structure")
VESSEL: Final = Concept(value="59820001", meaning="Blood vessel structure")

_CONCEPTS: Final = (
    (r"vessel|vascul|^$|^mask$|^foreground$", VESSEL),
    (r"coronary", Concept(value="41801008", meaning="Coronary artery structure")),
    (r"arter", Concept(value="51114001", meaning="Arterial structure")),
    (r"vein|veno", Concept(value="29092000", meaning="Venous structure")),
    (r"optic.?(disc|disk)", Concept(value="24010005", meaning="Optic disc structure")),
    (r"macula", Concept(value="82859000", meaning="Macula lutea structure")),
)
"""Words of a label to what it means; the first that fits counts. Others are a `STRUCTURE` with a name of its own."""


def concept_of(label: str) -> Concept:
    """The code for a class by its label; a mask without labels is of blood vessels, which is what watcherd is for."""
    return next((found for words, found in _CONCEPTS if re.search(words, label.lower())), STRUCTURE)


def write_dicom_seg(
    path: Path,
    source: Path,
    labels: FrameFile,
    *,
    classes: int,
    names: tuple[str, ...],
    revision: str = "",
    memory_mib: int = 2048,
) -> None:
    """Write ``labels`` (frames, height, width; label values 0 to ``classes``) as a SEG that refers to ``source``.

    ``names``: of the classes, where known. ``revision``: of the model that made the mask. The same mask of the same
    source by the same model gives the same bytes: its UIDs come from these, its times from when the source's copy was
    made.

    Raises `CannotSegmentError` with what stands in the way, and OSError.
    """
    if find_spec(SEG.module) is None:
        raise CannotSegmentError(f"{SEG.library} is not installed ({SEG.command})")
    hush()
    header = _header(source, memory_mib)
    _complete(header)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = datetime.fromtimestamp(source.stat().st_mtime, UTC)
            _written(path, header, labels, _Said(names=_named(classes, names), revision=revision, made=made))
    except MemoryError:
        raise CannotSegmentError(f"it needs more than {memory_mib} MiB (limits.worker_memory_mib)") from None
    except OSError:
        raise
    except Exception as error:
        raise CannotSegmentError(f"the source's header does not allow it ({type(error).__name__})") from None


def _header(source: Path, memory_mib: int) -> Dataset:
    try:
        opened = open_dicom(source, memory_mib=memory_mib)
    except InputError as error:
        raise CannotSegmentError(f"the source cannot be read again: {error.message}") from None
    opened.close()
    return opened.header


def _complete(header: Dataset) -> None:
    """Add what may be empty. Raises `CannotSegmentError` for a source that nothing can refer to."""
    if missing := [name for name in REQUIRED if not header.get(name)]:
        raise CannotSegmentError(f"the source lacks {', '.join(missing)}")
    for name, pattern in MAY_BE_EMPTY.items():
        if name not in header or not re.fullmatch(pattern, str(header[name].value).strip(), re.DOTALL):
            setattr(header, name, "")


def _named(classes: int, names: tuple[str, ...]) -> list[str]:
    """A label for each segment, of a length that DICOM allows."""
    own = [name[:LONGEST_LABEL] for name in names[:classes]]
    return own + [f"class {number}" if classes > 1 else "" for number in range(len(own) + 1, classes + 1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Said:
    """What a SEG says besides its pixels: labels of its segments, the model's revision, when the copy was made."""

    names: list[str]
    revision: str
    made: datetime


def _written(path: Path, header: Dataset, labels: FrameFile, said: _Said) -> None:
    values = np.empty(labels.shape, np.uint8)
    for index, frame in enumerate(labels):
        np.minimum(frame, len(said.names), out=values[index])
    identity = _identity(header, values, said)
    seg = _placed(header, values, said, identity)
    if seg is None:
        seg = _segmentation(_without_coordinates(header), np.zeros_like(values[:1]), said, identity)
        spread(seg, header, values)
        seg.PatientOrientation = (
            header.get("PatientOrientation") or ""
        )  # PS3.3 C.7.6.1.1.1: asked for without coordinates
    _settle(seg, identity, said.made)
    seg.save_as(path, enforce_file_format=True)


def _placed(header: Dataset, values: NDArray[np.uint8], said: _Said, identity: bytes) -> Dataset | None:
    """The segmentation with each frame's place in the patient; None where the source's own places do not suffice."""
    if not _has_coordinates(header, len(values)):
        return None
    try:
        return _segmentation(header, values, said, identity)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None


def _has_coordinates(header: Dataset, frames: int) -> bool:
    """Whether highdicom can place each frame in the patient: it takes no run without coordinates."""
    if not header.get("FrameOfReferenceUID"):
        return False
    return bool(header.get("PerFrameFunctionalGroupsSequence")) or (
        frames == 1 and bool(header.get("ImagePositionPatient")) and bool(header.get("ImageOrientationPatient"))
    )


def _without_coordinates(header: Dataset) -> Dataset:
    """The source as a single picture that says nothing of where it is."""
    plain = Dataset()
    plain.update(header)  # the elements are shared with it: remove them, never change one
    for name in PLACES:
        if name in plain:
            delattr(plain, name)
    plain.SOPClassUID = SECONDARY_CAPTURE
    return plain


def _segmentation(source: Dataset, values: NDArray[np.uint8], said: _Said, identity: bytes) -> Dataset:
    from highdicom.seg import Segmentation, SegmentationTypeValues

    return Segmentation(
        source_images=[source],
        pixel_array=values,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _segment(number, name, identity, said.revision) for number, name in enumerate(said.names, start=1)
        ],
        series_instance_uid=_uid(identity, "series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=_uid(identity, "instance"),
        instance_number=1,
        manufacturer="watcherd",
        manufacturer_model_name="watcherd",
        software_versions=version("watcherd"),
        device_serial_number="0",
        content_label="SEGMENTATION",
        series_description="Segmentation by watcherd",
        content_date=said.made.strftime("%Y%m%d"),
        content_time=said.made.strftime("%H%M%S"),
        omit_empty_frames=bool(values.any()),
    )


def _segment(number: int, name: str, identity: bytes, revision: str) -> Any:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    concept = concept_of(name)
    return SegmentDescription(
        segment_number=number,
        segment_label=name or concept.meaning,
        segmented_property_category=Code(STRUCTURE.value, "SCT", STRUCTURE.meaning),
        segmented_property_type=Code(concept.value, "SCT", concept.meaning),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name="watcherd",
            family=codes.DCM.ArtificialIntelligence,
            version=revision[:LONGEST_LABEL] or version("watcherd"),
        ),
        tracking_uid=_uid(identity, f"segment {number}"),
        tracking_id=f"watcherd segment {number}",
    )


def _identity(header: Dataset, values: NDArray[np.uint8], said: _Said) -> bytes:
    """What makes a SEG another one: its source, its pixels, its labels, its model."""
    about = f"watcherd {header.SOPInstanceUID} {said.names} {said.revision} {values.shape}"
    digest = hashlib.sha256(about.encode())
    for frame in values:
        digest.update(np.ascontiguousarray(frame).data)
    return digest.digest()


def _uid(identity: bytes, part: str) -> str:
    """A UID of the kind that is made from a UUID, which here is made from a hash."""
    digest = hashlib.sha256(identity + part.encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"


def _settle(seg: Dataset, identity: bytes, made: datetime) -> None:
    """Take chance and the clock out of what highdicom has added by itself."""
    organization = _uid(identity, "dimensions")
    for item in seg.get("DimensionOrganizationSequence") or ():
        item.DimensionOrganizationUID = organization
    for item in seg.get("DimensionIndexSequence") or ():
        item.DimensionOrganizationUID = organization
    for item in seg.get("ContributingEquipmentSequence") or ():
        item.ContributionDateTime = made.strftime("%Y%m%d%H%M%S")
    if "InstanceCreationDate" in seg:
        seg.InstanceCreationDate, seg.InstanceCreationTime = made.strftime("%Y%m%d"), made.strftime("%H%M%S")
