"""What an error inside a replica means: too little memory, a broken device, or one bad frame."""

from __future__ import annotations

import gc
import sys

from watcherd.errors import TransientError

_MEMORY_WORDS = (
    "out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "can't allocate memory",
    "not enough memory",
)
_STICKY_WORDS = (
    "CUDA error",
    "device-side assert",
    "illegal memory access",
    "misaligned address",
    "unspecified launch failure",
    "CUBLAS_STATUS_",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "CUDNN_STATUS_EXECUTION_FAILED",
)


def is_memory_error(error: BaseException) -> bool:
    """Whether the device or the host ran out of memory, after which the process can go on."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _MEMORY_WORDS)


def is_sticky(error: BaseException) -> bool:
    """Whether the error broke the process's device context: whatever it computes from now on is worthless."""
    if is_memory_error(error):
        return False
    torch = sys.modules.get("torch")
    accelerator_error = getattr(torch, "AcceleratorError", None)
    if accelerator_error is not None and isinstance(error, accelerator_error):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _STICKY_WORDS)


def not_numbers() -> TransientError:
    """What became of a frame whose answer holds values that are not numbers: they must not become a mask."""
    return TransientError("The model computed values that are not numbers.", hint='Try model.dtype = "float32".')


def give_back_memory() -> None:
    """Free what a failed batch held, also in the allocator's cache.

    To be called outside the ``except`` block: inside, the traceback still holds the batch's tensors.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
