#!/bin/sh
# imagecodecs 2026.3.6: jpeg8_decode fills a picture whose JPEG ends early and raises nothing; the same bytes are an error
# for Pillow. Lossless and 12-bit JPEG too. Exits with 0 while it is so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check imagecodecs==2026.3.6 pillow==13.0.0 "numpy<3"
"$folder/venv/bin/python" - <<'PYTHON'
import io, sys
import imagecodecs, numpy, PIL
from PIL import Image

values = numpy.random.default_rng(0).integers(0, 255, (64, 64), numpy.uint8)
print("imagecodecs", imagecodecs.__version__, "Pillow", PIL.__version__)
print("expected: an error for a JPEG without its second half")
seen = {}
codes = {
    "8 bits": imagecodecs.jpeg8_encode(values, level=90),
    "12 bits": imagecodecs.jpeg8_encode(values.astype(numpy.uint16) << 4, level=90, bitspersample=12),
    "lossless": imagecodecs.jpeg8_encode(values, lossless=True, predictor=1),
}
for name, code in codes.items():
    try:
        seen[name] = f"a picture of {imagecodecs.jpeg8_decode(code[: len(code) // 2]).shape}"
    except Exception as error:
        seen[name] = f"{type(error).__name__}"
try:
    Image.open(io.BytesIO(codes["8 bits"][: len(codes["8 bits"]) // 2])).load()
    seen["8 bits in Pillow"] = "a picture"
except OSError as error:
    seen["8 bits in Pillow"] = f"OSError: {error}"
for name, what in seen.items():
    print(f"seen: {name}: {what}")
silent = all(seen[name].startswith("a picture") for name in codes)
sys.exit(0 if silent and seen["8 bits in Pillow"].startswith("OSError") else 1)
PYTHON
