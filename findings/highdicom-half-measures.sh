#!/bin/sh
# highdicom 0.28.2: of a source with PixelSpacing and no coordinates it writes a segmentation that it cannot open itself:
# PixelMeasuresSequence has no SliceThickness then. Exits with 0 while it is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check highdicom==0.28.2 pydicom==3.0.2 "numpy<3"
"$folder/venv/bin/python" - <<'PYTHON'
import io, sys, warnings
import highdicom, numpy, pydicom
from highdicom.seg import Segmentation, SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription, segread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

warnings.simplefilter("ignore")
source = Dataset()
source.file_meta = FileMetaDataset()
source.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
source.SOPClassUID, source.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", generate_uid()
source.StudyInstanceUID, source.SeriesInstanceUID, source.Modality = generate_uid(), generate_uid(), "OT"
for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime"):
    setattr(source, name, "")
source.Rows = source.Columns = 8
source.PixelSpacing = [0.3, 0.3]
source.SamplesPerPixel, source.PhotometricInterpretation = 1, "MONOCHROME2"
source.BitsAllocated = source.BitsStored = 8
source.HighBit, source.PixelRepresentation, source.PixelData = 7, 0, bytes(64)
segment = SegmentDescription(1, "vessel", codes.SCT.Tissue, codes.SCT.Tissue, SegmentAlgorithmTypeValues.MANUAL)
seg = Segmentation(
    [source], numpy.ones((1, 8, 8), numpy.uint8), SegmentationTypeValues.BINARY, [segment], generate_uid(), 1,
    generate_uid(), 1, "maker", "model", "1", "0",
)
file = io.BytesIO()
seg.save_as(file)
file.seek(0)
print("highdicom", highdicom.__version__, "pydicom", pydicom.__version__)
print("expected: it opens what it has written")
try:
    segread(file)
    seen = "it opens"
except AttributeError as error:
    seen = f"AttributeError: {error}"
print("seen:    ", seen)
sys.exit(0 if seen.startswith("AttributeError") else 1)
PYTHON
