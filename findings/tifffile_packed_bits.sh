#!/bin/sh
# tifffile 2026.3.3 writes values of 9 to 15 bits (bitspersample=10 and so on) wrongly into a TIFF with byteorder=">":
# its own imread does not give them back. With byteorder="<" it does. What it writes differs from the bits one behind the
# other, the highest first, that TIFF 6.0 asks for in either byte order; a file with these is read right.
# Exit code 0: as described here; 1: the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    numpy==2.4.6 tifffile==2026.3.3 imagecodecs==2026.3.6
cat > "$folder/script.py" <<'PY'
import io, sys

import imagecodecs
import numpy as np
import tifffile

print("Python", sys.version.split()[0], "numpy", np.__version__, "tifffile", tifffile.__version__,
      "imagecodecs", imagecodecs.__version__)
values = (np.arange(40) * 25).astype(np.uint16).reshape(4, 10)
seen = {}
for bits in (10, 12, 14):
    apart = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(4, 20), axis=1).reshape(4, 10, 16)
    asked = np.packbits(apart[..., 16 - bits:].reshape(4, -1), axis=1).tobytes()
    for order in "<>":
        file = io.BytesIO()
        tifffile.imwrite(file, values, bitspersample=bits, byteorder=order, photometric="minisblack", metadata=None)
        file.seek(0)
        with tifffile.TiffFile(file) as opened:
            page = opened.pages[0]
            start, count = page.dataoffsets[0], page.databytecounts[0]
            back = np.array_equal(values, page.asarray())
        data = bytearray(file.getvalue())
        as_asked = bytes(data[start:start + count]) == asked
        data[start:start + count] = asked
        seen[bits, order] = (as_asked, back, np.array_equal(values, tifffile.imread(io.BytesIO(bytes(data)))))
        print(bits, order, "bytes as TIFF asks, own values back, right bytes read right:", *seen[bits, order])
expected = {key: (key[1] == "<", key[1] == "<", True) for key in seen}
sys.exit(0 if seen == expected else 1)
PY
"$folder/venv/bin/python" "$folder/script.py"
