#!/bin/sh
# pydicom 3.0.2: Dataset.compress(RLELossless) of words of 16 bits that hold values of 8 bits or fewer (BitsAllocated 16,
# BitsStored 8, which the standard allows) gives frames of half the length, which pydicom does not decode: the segment of
# the high bytes is left out. With BitsStored 9 and more the picture comes back.
# Exit code 0: as described here; 1: the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    numpy==2.4.6 pydicom==3.0.2
cat > "$folder/script.py" <<'PY'
import logging, sys, warnings

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

logging.disable()
warnings.simplefilter("ignore")
print("Python", sys.version.split()[0], "numpy", np.__version__, "pydicom", pydicom.__version__)
print("expected for each number of bits: the picture that was put in")
seen = {}
for bits in (7, 8, 9, 12, 16):
    values = (np.arange(64 * 48) % (1 << bits)).astype(np.uint16).reshape(48, 64)
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    made.Rows, made.Columns, made.BitsAllocated, made.BitsStored, made.HighBit = 48, 64, 16, bits, bits - 1
    made.PixelRepresentation, made.SamplesPerPixel, made.PhotometricInterpretation = 0, 1, "MONOCHROME2"
    made.PixelData = values.tobytes()
    made["PixelData"].VR = "OW"
    made.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    try:
        seen[bits] = "the picture" if np.array_equal(values, made.pixel_array) else "another picture"
    except RuntimeError as error:
        seen[bits] = "RuntimeError: " + str(error).splitlines()[-1].strip()
    print(bits, "bits, seen:", seen[bits])
right = {key: value == "the picture" for key, value in seen.items()}
sys.exit(0 if right == {bits: bits > 8 for bits in seen} else 1)
PY
"$folder/venv/bin/python" "$folder/script.py"
