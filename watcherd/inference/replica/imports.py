"""The body of the process that keeps a model's imports ready: imported by it, once, before it is asked for anything.

To import torch and transformers takes several times as long as to load a small model, and each replica, each of its
restarts, and the plan before it would pay it again. They are forked from this process instead (see `pool.prepared`).
It must never touch a GPU: a fork of a process that has is of no use. So it ends when it finds that an import did, and
everything is started the slow way.
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Final

NAMES: Final = "WATCHERD_IMPORTS"
"""The environment variable with the modules' names, separated by commas."""
NO_GPU: Final = 71
"""The exit code of a forked process that cannot use its GPU (EX_OSERR of sysexits.h)."""
ENVIRONMENT: Final = {
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
"""What torch reads while it is imported. With the second one its question whether there is a GPU leaves CUDA alone."""


def ready() -> None:
    """Import what the environment names. What fails is left to the replica that needs it, which says what is wrong."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in filter(None, os.environ.get(NAMES, "").split(",")):
        with suppress(Exception):  # whatever somebody else's package raises
            import_module(name)
    if touches_gpu():
        sys.stderr.flush()
        os._exit(70)
    gc.collect()
    gc.freeze()  # so that a child's collections do not copy what it shares with us


def gpu_works() -> bool:
    """Whether this process can use GPUs at all; asked in one that was forked, before anything else is done there."""
    import torch

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError):  # torch's answers to a driver that refuses, and to none
        return False
    return True


def touches_gpu(descriptors: Path = Path("/proc/self/fd")) -> bool:
    """Whether this process has opened a GPU, as CUDA does when it is initialised."""
    for descriptor in descriptors.iterdir():
        with suppress(OSError):
            if str(descriptor.readlink()).startswith("/dev/nvidia"):
                return True
    return False
