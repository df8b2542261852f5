#!/bin/sh
# transformers' post-processing of semantic masks forgets what its own processor did to the picture: the padding of EoMT's,
# the crop of MobileViT's. The mask comes out at the picture's size, stretched, with labels where the model saw none.
# (EoMT's other post-processing takes the padding off; only the semantic one does not.)
# Exit code 0: as described here; 1: the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
pip torch==2.13.0
pip numpy==2.4.6 pillow==13.0.0 transformers==5.23.0
cat > "$folder/script.py" <<'PY'
"""The model is left out: its answer is made up as an ideal model's, which marks just the pixels that are white."""
import sys
from types import SimpleNamespace

import numpy as np
import PIL
import torch
import transformers
from transformers import EomtImageProcessorPil, MobileViTImageProcessorPil

print("Python", sys.version.split()[0], "torch", torch.__version__, "transformers", transformers.__version__, "Pillow", PIL.__version__)


def bounds(mask):
    rows, columns = np.nonzero(np.asarray(mask))
    return tuple(map(int, (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1)))


# EoMT: a picture twice as wide as high; its lower half is white.
picture = np.zeros((64, 128, 3), np.uint8)
picture[32:] = 255
processor = EomtImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 64}, do_pad=True, do_normalize=False)
made = processor(picture, return_tensors="pt")
seen = made["pixel_values"][:, 0] > 0.5
masks = torch.where(seen[:, None], 10.0, -10.0)
answer = SimpleNamespace(
    masks_queries_logits=torch.cat([-masks, masks], dim=1),
    class_queries_logits=torch.tensor([[[10.0, 0.0, 0.0], [0.0, 10.0, 0.0]]]),
    patch_offsets=made["patch_offsets"],
)
(found,) = processor.post_process_semantic_segmentation(answer, target_sizes=[(64, 128)])
print("EoMT, padded: the model sees", tuple(made["pixel_values"].shape[-2:]), "of which the picture is the upper half")
print("expected: label 1 in rows 32 to 64; seen: rows %d to %d" % bounds(found)[:2])
eomt = bounds(found)[:2]

# MobileViT, as its default is: scaled, then the middle cut out. A white square in the corner of the crop.
picture = np.zeros((272, 272, 3), np.uint8)
picture[40:72, 40:72] = 255
processor = MobileViTImageProcessorPil(size={"shortest_edge": 272}, crop_size={"height": 256, "width": 256})
made = processor(picture, return_tensors="pt")
seen = made["pixel_values"][:, 0] > 0.5
answer = SimpleNamespace(logits=torch.stack([~seen, seen], dim=1).float())
(found,) = processor.post_process_semantic_segmentation(answer, target_sizes=[(272, 272)])
print("MobileViT, cropped to 256 x 256 of 272 x 272")
print("expected: label 1 in rows 40 to 72; seen: rows %d to %d" % bounds(found)[:2])
mobilevit = bounds(found)[:2]
sys.exit(0 if eomt == (16, 32) and mobilevit != (40, 72) else "The behaviour has changed.")
PY
"$folder/venv/bin/python" "$folder/script.py"
