#!/bin/sh
# nnunetv2: one voxel that is NaN in a scan whose channel is z-scored empties the whole mask, without an error or a warning of
# nnunetv2's own: mean and deviation become NaN, so does every voxel, and of logits that are all NaN argmax takes the first, the background.
# Expected: an error, or a mask that lacks the one voxel's surroundings.
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
import warnings
from importlib.metadata import version

import numpy as np
import torch
from nnunetv2.preprocessing.normalization.default_normalization_schemes import ZScoreNormalization
from nnunetv2.utilities.label_handling.label_handling import LabelManager

warnings.simplefilter("error")
print("Python", sys.version.split()[0], "nnunetv2", version("nnunetv2"), "torch", torch.__version__, "numpy", np.__version__)
labels = LabelManager({"background": 0, "bright": 1}, None)


def mask(scan):
    prepared = ZScoreNormalization(use_mask_for_norm=False, intensityproperties={}).run(scan.copy(), None)
    seen = torch.from_numpy(prepared)[None]
    logits = torch.cat([-seen, seen])  # a network that calls bright whatever is above the mean
    return np.asarray(labels.convert_logits_to_segmentation(logits))


scan = np.zeros((8, 16, 16), np.float32)
scan[:, 4:12, 4:12] = 100
whole = int(mask(scan).sum())
scan[0, 0, 0] = np.nan
left = int(mask(scan).sum())
print("voxels of the mask:", whole, "and with one NaN in a corner of the scan:", left)
sys.exit(0 if whole == 512 and left == 0 else 1)
PY
nnUNet_n_proc_DA=1 nnUNet_def_n_proc=1 nnUNet_raw=/dev/null nnUNet_preprocessed=/dev/null nnUNet_results=/dev/null "$folder/venv/bin/python" "$folder/script.py"
