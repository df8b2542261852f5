#!/bin/sh
# safetensors writes files of mode 0600 whatever the umask, and reports one that may not be read as missing.
# Exit code 0: both as described here; 1: the behaviour has changed. Needs root or another way to lose rights: as root it
# reads as the user 65534, else it takes its own rights away (mode 0000).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6 safetensors==0.8.0
cat > "$folder/script.py" <<'PY'
import importlib.metadata, os, pathlib, stat, sys

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

print("Python", sys.version.split()[0], "numpy", np.__version__, "safetensors", importlib.metadata.version("safetensors"))
folder = pathlib.Path(sys.argv[1])
os.umask(0o022)
(folder / "plain.txt").write_text("for comparison")
save_file({"weight": np.ones(3, np.float32)}, folder / "weights.safetensors")
modes = {name: stat.S_IMODE((folder / name).stat().st_mode) for name in ("plain.txt", "weights.safetensors")}
print("umask 0022; expected mode 0644 for both files")
print("seen:", {name: f"{mode:04o}" for name, mode in modes.items()})
if os.geteuid() == 0:
    os.seteuid(65534)
else:
    (folder / "weights.safetensors").chmod(0)
try:
    (folder / "weights.safetensors").open("rb")
except OSError as error:
    print("Python's open:", repr(error))
try:
    safe_open(folder / "weights.safetensors", framework="numpy")
except Exception as error:
    seen = error
print("expected of safe_open: PermissionError")
print("seen:", repr(seen))
os.seteuid(os.getuid())
same = modes["weights.safetensors"] == 0o600 and type(seen) is FileNotFoundError
sys.exit(0 if same else "The behaviour has changed.")
PY
mkdir "$folder/data"
chmod 755 "$folder/data"
"$folder/venv/bin/python" "$folder/script.py" "$folder/data"
