#!/bin/sh
# transformers' DPT processor has keep_aspect_ratio, and the pictures that it then makes are refused by transformers' own
# DPTForSemanticSegmentation unless they are square: its neck takes every picture for a square.
# (DPTForDepthEstimation may hand over height and width; the segmentation model has no such lines.)
# Exit code 0: as described here; 1: the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
pip torch==2.13.0
pip numpy==2.4.6 pillow==13.0.0 transformers==5.23.0
cat > "$folder/script.py" <<'PY'
import sys

import numpy as np
import PIL
import torch
import transformers
from transformers import DPTConfig, DPTForSemanticSegmentation, DPTImageProcessorPil

print("Python", sys.version.split()[0], "torch", torch.__version__, "transformers", transformers.__version__, "Pillow", PIL.__version__)
torch.manual_seed(0)
config = DPTConfig(
    image_size=64, patch_size=8, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16,
    backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=16, use_auxiliary_head=False,
)
model = DPTForSemanticSegmentation(config).eval()
processor = DPTImageProcessorPil(size={"height": 64, "width": 64}, keep_aspect_ratio=True, ensure_multiple_of=8)
outcomes = {}
for height, width in ((64, 64), (64, 96)):
    made = processor(np.zeros((height, width, 3), np.uint8), return_tensors="pt")
    with torch.inference_mode():
        try:
            outcomes[height, width] = f"logits {tuple(model(**made).logits.shape)}"
        except RuntimeError as error:
            outcomes[height, width] = f"RuntimeError: {error}"
    print("picture", (height, width), "processed to", tuple(made["pixel_values"].shape))
    print("  expected: logits; seen:", outcomes[height, width])
same = "logits" in outcomes[64, 64] and "RuntimeError" in outcomes[64, 96]
sys.exit(0 if same else "The behaviour has changed.")
PY
"$folder/venv/bin/python" "$folder/script.py"
