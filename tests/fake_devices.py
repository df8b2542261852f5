"""Pretended devices on which a tensor of another device is an error, as on real GPUs, and nothing is computed.

Uses a private call of torch (`_setup_privateuseone_for_python_backend`); when it changes, this file is all that does.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "pretend"


@cache
def _register() -> None:
    _setup_privateuseone_for_python_backend(NAME)


@contextmanager
def fake_devices() -> Iterator[None]:
    """Inside, tensors have shapes and devices (``"pretend:0"``, ``"pretend:1"``, ...), but no values."""
    _register()
    with FakeTensorMode(allow_non_fake_inputs=True), patch.object(torch, "tensor", _tensor), _no_constants():
        yield


@contextmanager
def real_values() -> Iterator[None]:
    """Inside `fake_devices`: what is made here is on the CPU and has values."""
    with unset_fake_temporarily(), patch.object(torch, "tensor", _real_tensor):
        yield


def _no_constants() -> Any:
    """Otherwise torch keeps the values of tensors of one element or none, and moves these in earnest."""
    return patch("torch._subclasses.fake_tensor.CONSTANT_NUMEL_LIMIT", -1)


_real_tensor = torch.tensor


def _tensor(data: Any, *, dtype: torch.dtype | None = None, device: Any = None) -> torch.Tensor:
    """torch.tensor, which would ask the pretended device for real memory."""
    made = _real_tensor(data, dtype=dtype)
    return made if device is None else torch.empty(made.shape, dtype=made.dtype, device=device)
