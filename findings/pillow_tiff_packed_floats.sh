#!/bin/sh
# Pillow 13.0.0 opens a TIFF of 32-bit floats whose high byte comes first and that is compressed (LZW, deflate) as noise:
# their bytes are swapped once more than libtiff has done already. The same file without compression, and with the low
# byte first, is right; tifffile reads all of them. No warning is given.
# Exit code 0: as described here; 1: the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    numpy==2.4.6 pillow==13.0.0 tifffile==2026.3.3 imagecodecs==2026.3.6
cat > "$folder/script.py" <<'PY'
import io, sys

import numpy as np
import tifffile
from PIL import Image, __version__

print("Python", sys.version.split()[0], "numpy", np.__version__, "Pillow", __version__, "tifffile", tifffile.__version__)
values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
seen = {}
for order in "<>":
    for compression in (None, "lzw", "deflate"):
        file = io.BytesIO()
        tifffile.imwrite(file, values, byteorder=order, compression=compression, photometric="minisblack", metadata=None)
        file.seek(0)
        assert np.array_equal(values, tifffile.imread(file))
        file.seek(0)
        read = np.asarray(Image.open(file))
        seen[order, compression] = np.array_equal(values, read)
        print(order, compression, "expected:", values[0, 1], "seen:", read[0, 1])
wrong = {(">", "lzw"), (">", "deflate")}
sys.exit(0 if wrong == {key for key, right in seen.items() if not right} else 1)
PY
"$folder/venv/bin/python" "$folder/script.py"
