#!/bin/sh
# tifffile writes three or four grey frames, (4, height, width), as the planes of one picture in colours, the fourth as its
# alpha, unless photometric is given; five frames are five pages. The warning says that this will change.
# Exit code 0: as described here; 1: the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6 tifffile==2026.3.3
cat > "$folder/script.py" <<'PY'
import io, sys, warnings

import numpy as np
import tifffile

print("Python", sys.version.split()[0], "numpy", np.__version__, "tifffile", tifffile.__version__)
warnings.simplefilter("ignore")
seen = {}
for frames in (2, 3, 4, 5):
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((frames, 40, 60), np.uint16))
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages[0]
        seen[frames] = (len(tiff.pages), page.photometric.name, [extra.name for extra in page.extrasamples])
print("expected for each number of frames: as many pages, MINISBLACK, no extra channel")
for frames, found in seen.items():
    print(frames, "seen:", *found)
right = {frames: (frames, "MINISBLACK", []) for frames in (2, 5)}
planes = {3: (1, "RGB", []), 4: (1, "RGB", ["UNASSALPHA"])}
sys.exit(0 if seen == right | planes else 1)
PY
"$folder/venv/bin/python" "$folder/script.py"
