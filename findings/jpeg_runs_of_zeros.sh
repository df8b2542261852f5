#!/bin/sh
# A whole JPEG can have hundreds of zero bytes in a row inside its compressed data: with Huffman codes made for the picture,
# "no difference" and "end of block" can both begin with zero bits, so that flat parts are nothing else. A run of zeros
# is no proof of a hole. With the standard's own codes there is none.
# Exit code 0: as described here; 1: the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6 pillow==13.0.0
cat > "$folder/script.py" <<'PY'
import io, re, sys

import numpy as np
import PIL
from PIL import Image

print("Python", sys.version.split()[0], "numpy", np.__version__, "Pillow", PIL.__version__)
picture = np.zeros((2000, 2000), np.uint8)
picture[900:1100, 900:1100] = np.random.default_rng(0).integers(0, 255, (200, 200))
longest = {}
for name, options in (("standard", {}), ("optimised", {"optimize": True}), ("progressive", {"progressive": True})):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", **options)
    code = file.getvalue()[file.getvalue().index(b"\xff\xda") :]
    longest[name] = max((len(run) for run in re.findall(rb"\0+", code)), default=0)
print("a black picture with noise in its middle; expected longest run of zero bytes in the code: below 64")
print("seen:", longest)
sys.exit(0 if longest["standard"] < 64 < min(longest["optimised"], longest["progressive"]) else 1)
PY
"$folder/venv/bin/python" "$folder/script.py"
