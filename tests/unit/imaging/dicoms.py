"""DICOM files for tests, made with pydicom: small, whole, and with a patient whose name must not come out."""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME = "MUSTERMANN^ERIKA"
PATIENT = "PID-4711-SECRET"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
ANGIOGRAPHY = "1.2.840.10008.5.1.4.1.1.12.1"
DEFLATED = "1.2.840.10008.1.2.1.99"


def dataset(values: NDArray[Any], *, syntax: str = ExplicitVRLittleEndian, **attributes: Any) -> FileDataset:
    """An angiogram: (height, width) or (frames, height, width), with 3 behind for colours. Attributes by keyword."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = attributes.get("SOPClassUID", ANGIOGRAPHY)
    meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
    meta.TransferSyntaxUID = syntax
    whole = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    colour = values.shape[-1] == 3 and values.ndim > 2
    shape = values.shape[:-1] if colour else values.shape
    whole.SOPClassUID, whole.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    whole.StudyInstanceUID, whole.SeriesInstanceUID, whole.Modality = "1.2.3.4", "1.2.3.4.6", "XA"
    whole.PatientName, whole.PatientID, whole.StudyDate = NAME, PATIENT, "20260102"
    whole.Rows, whole.Columns = shape[-2:]
    if len(shape) == 3:
        whole.NumberOfFrames = shape[0]
    whole.SamplesPerPixel = 3 if colour else 1
    if colour:
        whole.PlanarConfiguration = 0
    whole.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    bits = values.dtype.itemsize * 8
    whole.BitsAllocated, whole.BitsStored, whole.HighBit = bits, bits, bits - 1
    whole.PixelRepresentation = int(values.dtype.kind == "i")
    if syntax == ExplicitVRBigEndian:
        whole.set_original_encoding(is_implicit_vr=False, is_little_endian=False)
    for name, value in attributes.items():
        setattr(whole, name, value)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    pixels = values.astype(values.dtype.newbyteorder(order)).tobytes()
    whole.PixelData = pixels + b"\0" * (len(pixels) % 2)
    whole["PixelData"].VR = "OW" if bits > 8 else "OB"
    return whole


def content(whole: FileDataset) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    whole.save_as(file, enforce_file_format=True)
    return file.getvalue()


def dicom(values: NDArray[Any], **attributes: Any) -> bytes:
    """The bytes of an angiogram."""
    return content(dataset(values, **attributes))


def code(frame: NDArray[Any], syntax: str) -> bytes:
    """A frame, (height, width) or with 3 behind, compressed for this transfer syntax; 12 bits for JPEG Extended."""
    if syntax in uid.JPEGLSTransferSyntaxes:
        return bytes(imagecodecs.jpegls_encode(frame, level=2 if syntax == uid.JPEGLSNearLossless else 0))
    if syntax in (uid.JPEG2000Lossless, uid.JPEG2000):
        reversible = syntax == uid.JPEG2000Lossless
        return bytes(imagecodecs.jpeg2k_encode(frame, reversible=reversible, codecformat="j2k"))
    if syntax in (uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K):
        return bytes(imagecodecs.htj2k_encode(frame))
    lossless = syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1)
    bits = 8 if frame.dtype == np.uint8 else 16 if lossless else 12
    colours = {"colorspace": "RGB", "outcolorspace": "RGB"} if lossless and frame.ndim == 3 else {}
    return bytes(
        imagecodecs.jpeg8_encode(frame, level=100, bitspersample=bits, lossless=lossless, predictor=1, **colours)
    )


def compressed(values: NDArray[Any], syntax: str, **attributes: Any) -> bytes:
    """The same, compressed; what belongs to the syntax is as its decoder wants it."""
    if syntax != uid.RLELossless:
        colour = values.shape[-1] == 3 and values.ndim > 2
        frames = values if values.ndim - colour == 3 else values[np.newaxis]
        return in_fragments([code(frame, syntax) for frame in frames], values, syntax, **attributes)
    whole = dataset(values, **attributes)
    whole.compress(syntax, generate_instance_uid=False)
    return content(whole)


def in_fragments(frames: list[bytes], values: NDArray[Any], syntax: str, **attributes: Any) -> bytes:
    """The same, with frames that somebody else has compressed."""
    whole = dataset(values, **attributes)
    whole.file_meta.TransferSyntaxUID = syntax
    whole.PixelData = encapsulate(frames)
    whole["PixelData"].VR = "OB"
    whole["PixelData"].is_undefined_length = True
    return content(whole)


def without_meta(data: bytes) -> bytes:
    """A file without its preamble and its meta group."""
    length = int.from_bytes(data[140:144], "little")
    return data[144 + length :]


def deflated(values: NDArray[Any], **attributes: Any) -> bytes:
    """A file whose data set is deflated: it packs as well as its pixels do."""
    data = dicom(values, **attributes)
    head = 144 + int.from_bytes(data[140:144], "little")
    plain = FileMetaDataset()
    plain.MediaStorageSOPClassUID, plain.MediaStorageSOPInstanceUID = ANGIOGRAPHY, "1.2.3.4.5"
    plain.TransferSyntaxUID = DEFLATED
    meta = io.BytesIO()
    from pydicom.filewriter import write_file_meta_info

    write_file_meta_info(meta, plain, enforce_standard=True)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return bytes(128) + b"DICM" + meta.getvalue() + packer.compress(data[head:]) + packer.flush()


def report() -> bytes:
    """An object without pictures: a structured report."""
    whole = dataset(np.zeros((2, 2), np.uint8), SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", Modality="SR")
    for name in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
                 "SamplesPerPixel", "PhotometricInterpretation"):  # fmt: skip
        delattr(whole, name)
    item = Dataset()
    item.TextValue = f"Report on {NAME}"
    whole.ContentSequence = [item]
    return content(whole)


def cine(frames: int = 6, side: int = 32) -> NDArray[np.uint16]:
    """A run of 12 bits: a bright bar that wanders from frame to frame."""
    values = np.random.default_rng(0).integers(100, 300, (frames, side, side), np.uint16)
    for index in range(frames):
        values[index, :, 4 + 2 * index : 7 + 2 * index] = 3000
    return values
