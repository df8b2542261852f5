#!/bin/sh
# nnunetv2: labels that dataset.json calls 7 and 9 are written as 1 and 2, their places among the sorted ones, and a region
# whose value in regions_class_order is 300 is written as 44, its last 8 bits. Neither is refused, nor warned of.
# Expected: the values that dataset.json names, or a refusal.
# Exit code 0: as described here; 1: the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
pip torch==2.13.0
pip nnunetv2==2.8.1 torch==2.13.0 numpy==2.4.6
cat > "$folder/script.py" <<'PY'
import sys
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape as convert
from nnunetv2.utilities.label_handling.label_handling import LabelManager

print("Python", sys.version.split()[0], "nnunetv2", version("nnunetv2"), "torch", torch.__version__)
plans = SimpleNamespace(transpose_forward=[0, 1, 2], transpose_backward=[0, 1, 2])
chosen = SimpleNamespace(spacing=[1, 1, 1], resampling_fn_probabilities=lambda logits, *_: logits)


def written(logits, labels):
    shape = list(logits.shape[1:])
    facts = {
        "spacing": [1, 1, 1],
        "shape_before_cropping": shape,
        "shape_after_cropping_and_before_resampling": shape,
        "bbox_used_for_cropping": [[0, side] for side in shape],
    }
    return convert(logits, plans, chosen, labels, facts)


plain = LabelManager({"background": 0, "left": 7, "right": 9}, None)
logits = torch.eye(3)[:, None, None, :] * 10  # each label is the likeliest at one voxel
one = np.unique(written(logits, plain)).tolist()
print("labels 0, 7, 9 are written as", one)

regions = LabelManager({"background": 0, "whole": [1, 2]}, [300])
other = np.unique(written(torch.full((1, 1, 1, 2), 10.0), regions)).tolist()
print("a region of the value 300 is written as", other)
sys.exit(0 if (one, other) == ([0, 1, 2], [44]) else 1)
PY
nnUNet_n_proc_DA=1 nnUNet_def_n_proc=1 nnUNet_raw=/dev/null nnUNet_preprocessed=/dev/null nnUNet_results=/dev/null "$folder/venv/bin/python" "$folder/script.py"
