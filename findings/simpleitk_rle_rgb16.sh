#!/bin/sh
# SimpleITK 2.5.7 (with its own GDCM): RLE Lossless of 16-bit RGB, written by pydicom 3.0.2 as PS3.5 Annex G says (a
# segment for each byte, the most significant first), comes out with mixed bytes. Of 8 bits it is right. Exits with 0
# while it is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check simpleitk==2.5.7 pydicom==3.0.2 "numpy<3"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import numpy as np
import pydicom
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

def dropped(bits):
    dtype = {8: np.uint8, 16: np.uint16}[bits]
    top = (1 << bits) - 1
    rows, columns, samples = np.indices((16, 24, 3))
    pixels = ((rows * 977 + columns * 331 + samples * 7919) % (top + 1)).astype(dtype)
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    file.StudyInstanceUID, file.SeriesInstanceUID, file.Modality = generate_uid(), generate_uid(), "OT"
    file.Rows, file.Columns, file.SamplesPerPixel = 16, 24, 3
    file.PhotometricInterpretation, file.PlanarConfiguration = "RGB", 0
    file.BitsAllocated = file.BitsStored = bits
    file.HighBit, file.PixelRepresentation = bits - 1, 0
    file.PixelData = pixels.tobytes()
    file["PixelData"].VR = "OW" if bits == 16 else "OB"
    file.compress(RLELossless)
    file.save_as(f"{bits}.dcm", enforce_file_format=True)
    assert np.array_equal(pydicom.dcmread(f"{bits}.dcm").pixel_array, pixels), "pydicom itself"
    return pixels

print("SimpleITK", SimpleITK.Version_VersionString(), "pydicom", pydicom.__version__)
print("expected: the pixels that were written, of 8 and of 16 bits")
equal = {}
for bits in (8, 16):
    written = dropped(bits)
    read = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(f"{bits}.dcm")).reshape(-1, 24, 3)[:16]
    equal[bits] = np.array_equal(read, written)
    print(f"seen:     {bits} bits: {'equal' if equal[bits] else 'not equal'}; first pixel written {written[1, 1].tolist()}, read {read[1, 1].tolist()}")
sys.exit(0 if equal == {8: True, 16: False} else 1)
PYTHON
