#!/bin/sh
# Pillow does not find the transparent value (tRNS) of a PNG with 16-bit colours: it keeps the upper 8 bits of the pixels
# and compares them with all 16 of the value. Of grey with alpha in 16 bits it keeps the upper 8 of both.
# Exit code 0: both as described here; 1: the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6 pillow==13.0.0
cat > "$folder/script.py" <<'PY'
import io, struct, sys, zlib

import numpy as np
import PIL
from PIL import Image

print("Python", sys.version.split()[0], "numpy", np.__version__, "Pillow", PIL.__version__)


def png(values, kind, transparent=()):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    seen = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + seen + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


grey = np.array([[1000, 2000], [3000, 40000]], np.uint16)
colours = np.repeat(grey[..., None], 3, axis=2)
alpha = np.asarray(Image.open(io.BytesIO(png(colours, 2, (2000,) * 3))).convert("RGBA"))[..., 3]
print("one pixel of 16-bit colours has the transparent value; expected alpha: [[255, 0], [255, 255]]")
print("seen:", alpha.tolist())
image = Image.open(io.BytesIO(png(np.stack([grey, np.full_like(grey, 65535)], -1), 4)))
values = np.asarray(image)[..., 0]
print("grey with alpha in 16 bits; expected values:", grey.tolist())
print("seen:", image.mode, values.tolist())
sys.exit(0 if alpha.min() == 255 and values.max() == 40000 >> 8 else 1)
PY
"$folder/venv/bin/python" "$folder/script.py"
