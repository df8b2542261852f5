"""Whether torchvision, where some other library has brought it along, fits the torch that is installed.

Nothing here needs it. But transformers imports it where it is there, and with one that was built for another torch
none of its picture models can be imported: nnunetv2 brings it by way of timm, and pip takes the build for GPUs.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from functools import cache

from watcherd.errors import UnavailableError

MEND = f"{sys.executable} -m pip uninstall --yes torchvision"
"""What puts it right: nnU-Net's own networks do without it too."""
SECONDS = 120.0
"""Seconds that the import of torch and torchvision may take."""


def is_there() -> bool:
    """Whether torchvision is installed."""
    return importlib.util.find_spec("torchvision") is not None


@cache
def misfit() -> str:
    """Why torchvision cannot be imported; empty where it can, or is not installed. Imports torch."""
    if not is_there():
        return ""
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # whatever a compiled part that does not fit may raise
        return _words(f"{type(error).__name__}: {error}")
    return ""


def misfit_apart() -> str:
    """The same in a process of its own, for a caller that must not import torch. Empty where that takes too long."""
    if not is_there():
        return ""
    try:
        tried = subprocess.run(
            [sys.executable, "-c", "import torchvision"], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return ""
    return _words(tried.stderr.strip().rpartition("\n")[2]) if tried.returncode else ""


def _words(error: str) -> str:
    return f"torchvision does not fit the torch that is installed ({error})"


def refuse_misfit() -> None:
    """Raise `UnavailableError` where transformers could import no picture model."""
    if found := misfit():
        raise UnavailableError(
            f"{found}: transformers imports no picture model with it.",
            hint=f"Take it away, for nothing needs it: {MEND}",
        )
