"""Reading what ``torch.save`` wrote, without trusting it: nothing that the file names is imported or called.

torch's own weights-only reader makes tensors and plain containers and refuses all else. Training checkpoints also hold
a log with objects of mmengine and numpy, which nobody needs here: each name of a short list becomes an empty class of
ours for the time of the reading. A file that names anything else is refused with those names.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import torch

from watcherd.errors import UnavailableError
from watcherd.inference import folders
from watcherd.inference.segmenters.sa2va.checkpoint import listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Set
    from pathlib import Path

HOLLOW = frozenset(
    {
        "mmengine.logging.history_buffer.HistoryBuffer",
        "builtins.getattr",
        "numpy.ndarray",
        "numpy.dtype",
        "numpy._core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
    }
)
"""Names in the logs of mmengine's checkpoints, which become empty classes."""

_TENSORS = frozenset(
    {
        "_codecs.encode",
        "collections.OrderedDict",
        "torch.Size",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor_v2",
        "torch.nn.parameter.Parameter",
        "torch.storage.UntypedStorage",
    }
)
"""Names of which torch's reader makes tensors, dictionaries and bytes. It would let through more, and what other
libraries have registered with it."""

_KINDS = re.compile(r"torch\.\w+Storage|numpy\.(bool_?|u?int\d+|float\d+)")
"""Names of torch's kinds of memory, and of numpy's scalars, which become empty classes."""


class _Hollow:
    """Stands for an object that the weights do not need: takes whatever state the file has for it, and keeps none."""

    def __init__(self, *_arguments: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


def read(path: Path, besides: Set[str] = frozenset()) -> Mapping[Any, Any]:
    """The dictionary in a file of ``torch.save``. Its tensors lie in the mapped file, of which nothing is read yet.
    ``besides``: names of torch's own that such files hold too, of which its reader makes plain values.

    Raises `UnavailableError` when the file is no such file, is damaged, holds no dictionary, or names classes or
    functions besides tensors, containers and `HOLLOW`.
    """
    folders.refuse_shards(path)
    folders.refuse_faulty([path])
    refused = _unknown_names(path, besides)
    if refused:
        raise UnavailableError(
            f"{path} names what weights do not need, and is not read: {listed(refused)}.",
            hint="Such a file can run programs when it is opened. If you trust who made it, open it where it was made "
            'and save {"state_dict": ..., "meta": ...} anew, with the tensors and the text of the configuration alone.',
        )
    hollow = [name for name in _names(path) - _TENSORS if not name.startswith("torch.")]
    stand_ins: list[Any] = [(type("Hollow", (_Hollow,), {}), name) for name in hollow]
    try:
        with torch.serialization.safe_globals(stand_ins):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, OSError, ValueError, EOFError, TypeError, KeyError) as error:
        raise _damaged(path, error) from error
    if not isinstance(content, dict):
        raise UnavailableError(
            f"{path} holds {type(content).__name__}, not a dictionary of weights.",
            hint="Save the model's state_dict, or take the checkpoint that the training run wrote.",
        )
    return content


def tensors(content: Mapping[Any, Any], path: Path) -> dict[str, torch.Tensor]:
    """``content`` as names and tensors. Raises `UnavailableError` for anything else in it."""
    wrong = sorted(str(name) for name, value in content.items() if not (isinstance(name, str) and _is_plain(value)))
    if wrong or not content:
        raise UnavailableError(
            f"{path} holds no weights." if not content else f"{path} holds what is no dense tensor: {listed(wrong)}.",
            hint="Give the checkpoint of a training run: iter_*.pth, or a file with the weights' names and tensors.",
        )
    return dict(content)


def _is_plain(value: object) -> bool:
    """Whether it is a dense tensor of fractions with memory of its own: no view that repeats a few numbers."""
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or not value.is_floating_point():
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _unknown_names(path: Path, besides: Set[str]) -> list[str]:
    """Every class and function that the file names, besides those that become tensors, containers or empty classes."""
    known = _TENSORS | HOLLOW | besides
    return sorted(name for name in _names(path) if name not in known and not _KINDS.fullmatch(name))


def _names(path: Path) -> set[str]:
    """What the file's pickle would import, told by its instructions alone."""
    try:
        with zipfile.ZipFile(path) as archive:
            (member,) = (name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1)
            return {
                _name(code.name, said) for code, said, _ in pickletools.genops(archive.read(member)) if _names_one(code)
            }
    except zipfile.BadZipFile as error:
        raise UnavailableError(
            f"{path} is no whole file of torch.save: it is no zip archive.",
            hint="A copy or a download that broke off looks like this, and so does a file of PyTorch before 1.6, which "
            "is not read: load it with weights_only=True and save it anew.",
        ) from error
    except (RuntimeError, ValueError, OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise _damaged(path, error) from error


def _names_one(code: pickletools.OpcodeInfo) -> bool:
    return code.name in {"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"}


def _name(code: str, said: object) -> str:
    """``module.name``; pickles of this kind say it in one instruction, and any other instruction for it is refused."""
    if code != "GLOBAL":
        return f"a name by the instruction {code}"
    module, _, name = str(said).partition(" ")
    return f"{'builtins' if module == '__builtin__' else module}.{name}"


def _damaged(path: Path, error: Exception) -> UnavailableError:
    return UnavailableError(
        f"{path} cannot be read as a file of torch.save: {str(error).splitlines()[0] if str(error) else error!r}.",
        hint="Copy it again from where it was trained; a copy that broke off looks like this.",
    )
