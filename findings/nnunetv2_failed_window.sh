#!/bin/sh
# nnunetv2: each prediction that fails in the network leaves a thread behind, which holds the prepared scan for ever: it waits to put
# the next tile into a queue that nobody reads any more. And torch is left with another number of threads.
# Expected: after the error all is as before.
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
import threading
from importlib.metadata import version
from types import SimpleNamespace

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

print("Python", sys.version.split()[0], "nnunetv2", version("nnunetv2"), "torch", torch.__version__)


class Fails(torch.nn.Module):
    def forward(self, tile):
        raise ValueError("the network failed")


predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
predictor.network = Fails()
predictor.list_of_parameters = [{}]
predictor.configuration_manager = SimpleNamespace(patch_size=[8, 16, 16])
predictor.label_manager = SimpleNamespace(num_segmentation_heads=2)
predictor.allowed_mirroring_axes = None
torch.set_num_threads(2)


def waiting():
    return sum("producer" in thread.name for thread in threading.enumerate())


before = waiting()
for _ in range(4):
    try:
        predictor.predict_logits_from_preprocessed_data(torch.zeros(1, 32, 64, 64))
    except ValueError:
        pass
after = waiting()
print("threads that prepare tiles before:", before, "and after 4 failures:", after, "- threads of torch before: 2, after:", torch.get_num_threads())
sys.exit(0 if (before, after) == (0, 4) and torch.get_num_threads() == 1 else 1)
PY
nnUNet_n_proc_DA=1 nnUNet_def_n_proc=1 nnUNet_raw=/dev/null nnUNet_preprocessed=/dev/null nnUNet_results=/dev/null "$folder/venv/bin/python" "$folder/script.py"
