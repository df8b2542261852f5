"""The frames of a DICOM segmentation whose source has no coordinates: a cine of angiography, a secondary capture.

highdicom places frames in the patient and takes no run that has no place there. So it makes the segmentation of a
single empty picture, and this module puts the run's frames into it, each with a reference to the frame that it came
from. Sources: DICOM PS3.3 C.8.20 (segmentation), C.7.6.16 (functional groups), C.7.6.17 (dimensions); PS3.5 8.1.1
(bits).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom import Dataset
from pydicom.uid import UID

if TYPE_CHECKING:
    from numpy.typing import NDArray

IN_STACK_POSITION = 0x0020_9057
FRAME_CONTENT = 0x0020_9111
OF_SINGLE_FRAMES = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{rest}"
    for rest in (
        "1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1", "2", "4", "6", "6.1", "7", "128",
        "77.1.1", "77.1.2", "77.1.3", "77.1.4", "77.1.7",
    )
)  # fmt: skip
"""SOP classes whose images have one frame (PS3.3 annex A): CR, DX, MG, IO, CT, MR, US, SC, PET, visible light. Some
devices write runs with them all the same; but nothing may refer to a frame of such a one by number (PS3.3 table 10-3),
so that the frame of a mask is told by its place in the stack alone."""


def spread(seg: Dataset, source: Dataset, values: NDArray[np.uint8]) -> None:
    """Replace the only picture of ``seg`` by those of ``values`` (frames, height, width; label values).

    Frames without any pixel of a segment are left out, as is usual; a mask that is empty everywhere keeps all.
    """
    segments = range(1, len(seg.SegmentSequence) + 1)
    places = [(segment, index) for segment in segments for index in range(len(values))]
    filled = [place for place in places if (values[place[1]] == place[0]).any()]
    chosen = filled or places
    template = seg.PerFrameFunctionalGroupsSequence[0]
    several = int(source.get("NumberOfFrames") or 1) > 1 and source.SOPClassUID not in OF_SINGLE_FRAMES
    seg.PerFrameFunctionalGroupsSequence = [_groups(template, *place, several=several) for place in chosen]
    seg.DimensionIndexSequence.append(_dimension(seg.DimensionIndexSequence[0]))
    seg.NumberOfFrames = len(chosen)
    seg.PixelData = _packed(values, chosen)
    for reference in _references(seg):
        reference.ReferencedSOPClassUID = UID(source.SOPClassUID)


def _groups(template: Dataset, segment: int, index: int, *, several: bool) -> Dataset:
    """What is said of one frame: its segment, its number, and which of the source's frames it belongs to."""
    groups = copy.deepcopy(template)
    content = groups.FrameContentSequence[0]
    content.StackID = "1"
    content.InStackPositionNumber = index + 1
    content.DimensionIndexValues = [segment, index + 1]
    if "SegmentIdentificationSequence" in groups:
        groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber = segment
    if several:
        groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber = index + 1
    return groups


def _dimension(first: Dataset) -> Dataset:
    """The second dimension: the place in the run."""
    dimension = Dataset()
    dimension.DimensionOrganizationUID = first.DimensionOrganizationUID
    dimension.DimensionIndexPointer = IN_STACK_POSITION
    dimension.FunctionalGroupPointer = FRAME_CONTENT
    dimension.DimensionDescriptionLabel = "In-Stack Position Number"
    return dimension


def _packed(values: NDArray[np.uint8], places: list[tuple[int, int]]) -> bytes:
    """Bits without a gap between frames, the first in the lowest place, an even number of bytes.

    One frame is unpacked at a time; bits that fill no byte wait for those of the next.
    """
    packed, left = bytearray(), np.empty(0, np.bool_)
    for segment, index in places:
        bits = np.concatenate([left, (values[index] == segment).ravel()])
        whole = bits.size - bits.size % 8
        packed += np.packbits(bits[:whole], bitorder="little").tobytes()
        left = bits[whole:]
    packed += np.packbits(left, bitorder="little").tobytes()
    return bytes(packed + b"\0" * (len(packed) % 2))


def _references(seg: Dataset) -> list[Any]:
    """Every place where the source is named."""
    found = list(seg.get("SourceImageSequence") or ())
    for series in seg.get("ReferencedSeriesSequence") or ():
        found += series.ReferencedInstanceSequence
    for groups in seg.PerFrameFunctionalGroupsSequence:
        found += groups.DerivationImageSequence[0].SourceImageSequence
    return found
