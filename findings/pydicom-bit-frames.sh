#!/bin/sh
# pydicom 3.0.2: Decoder.iter_array with one index gives too few values for a frame of single bits that begins within a
# byte. `pixel_array` reads the same file. Exits with 0 while it is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pydicom==3.0.2 "numpy<3"
"$folder/venv/bin/python" - <<'PYTHON'
import io, sys
import numpy, pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import ExplicitVRLittleEndian

bits = numpy.random.default_rng(0).random((3, 5, 7)) > 0.5
made = Dataset()
made.file_meta = FileMetaDataset()
made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
made.SamplesPerPixel, made.PhotometricInterpretation, made.NumberOfFrames = 1, "MONOCHROME2", 3
made.Rows, made.Columns, made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 5, 7, 1, 1, 0, 0
made.PixelData = numpy.packbits(bits.ravel(), bitorder="little").tobytes()
print("pydicom", pydicom.__version__, "numpy", numpy.__version__)
print("whole file right:", numpy.array_equal(bits, made.pixel_array))
decoder = get_decoder(ExplicitVRLittleEndian)
seen = []
for index in range(3):
    try:
        values, _ = next(decoder.iter_array(made, indices=[index]))
        seen.append("right" if numpy.array_equal(bits[index], values) else "wrong")
    except ValueError as error:
        seen.append(f"ValueError: {error}")
print("expected:", ["right"] * 3)
print("seen:    ", seen)
sys.exit(0 if seen[2].startswith("ValueError") else 1)
PYTHON
