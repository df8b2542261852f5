"""What lies in a model folder, looked at before a library does: its errors name neither the file's fault nor a remedy.

Needs no model library, so that ``watcherd doctor`` can look too.
"""

from __future__ import annotations

import json
import os
import pwd
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from watcherd.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLED_INDEX = "pytorch_model.bin.index.json"
PICKLED = "pytorch_model.bin"
HEADER_LIMIT = 100_000_000
"""Bytes of the longest header that safetensors takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """What is wrong with a file of the folder, and what to do about it."""

    path: Path
    what: str
    todo: str

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


def refuse_missing(folder: Path, *, file_allowed: bool = False) -> None:
    """Raise `ConfigError` when there is no such folder, and `UnavailableError` when this user cannot look there.

    ``file_allowed``: a file will do, too.
    """
    hint = "Correct it, or put the model there. A relative path begins where the configuration lies."
    try:
        mode = folder.stat().st_mode
    except PermissionError as error:
        raise _error(_forbidden(folder, None)) from error
    except OSError as error:
        raise ConfigError(f"model.path = {str(folder)!r} is not there.", hint=hint) from error
    if not (file_allowed or stat.S_ISDIR(mode)):
        raise ConfigError(f"model.path = {str(folder)!r} is no folder.", hint=hint)


def refuse_missing_file(path: Path, key: str) -> None:
    """Raise `ConfigError` when there is no file at ``path``, which the configuration's ``key`` names, and
    `UnavailableError` when this user cannot look there or it is a folder of shards."""
    refuse_shards(path)
    try:
        found = path.is_file()
    except PermissionError as error:
        raise _error(_forbidden(path, None)) from error
    if not found:
        what = "is no file" if path.exists() else "is not there"
        raise ConfigError(
            f"{key} = {str(path)!r} {what}.",
            hint="Correct it, or put the file there. A relative path begins where the configuration lies.",
        )


def refuse_shards(path: Path) -> None:
    """Raise `UnavailableError` for a folder, which is how DeepSpeed leaves a checkpoint that was not gathered."""
    if not path.is_dir():
        return
    shards = sorted(each.name for each in path.iterdir() if each.name.endswith("_states.pt"))
    if not shards:
        raise UnavailableError(
            f"{path} is a folder, not the one file of a training checkpoint.",
            hint="Give the file iter_*.pth, or for an exported model its folder as model.path.",
        )
    raise UnavailableError(
        f"{path} is a folder of DeepSpeed's shards ({len(shards)} files, {shards[0]} and so on), not one file.",
        hint=f"DeepSpeed's zero_to_fp32.py makes one file of it: python zero_to_fp32.py {path.parent} OUT "
        f"--tag {path.name}. The next training leaves one file at once, with save_optimizer=False in its checkpoint "
        "hook and stage3_gather_16bit_weights_on_model_save in DeepSpeed's configuration.",
    )


def refuse_ambiguous(folder: Path, *, wrapped: bool = False) -> None:
    """Raise `ConfigError` when the folder holds more than one model: which one is meant would be a guess.

    ``wrapped``: adapter_config.json may lie there alone, to say how weights that the base's own files hold are scaled.
    """
    adapters = sorted(path.name for path in folder.glob("adapter_model*"))
    if adapters or (not wrapped and (folder / "adapter_config.json").is_file()):
        names = ", ".join(adapters or ["adapter_config.json"])
        raise ConfigError(
            f"{folder} holds a base model and an adapter beside it ({names}{_kind_of_adapter(folder)}), which is not "
            "applied here: masks would be those of the base.",
            hint="Merge it first (peft: model.merge_and_unload(), then save_pretrained to a new folder), or take the "
            "adapter's files out if the base is meant.",
        )
    if (folder / SINGLE).is_file() and (folder / INDEX).is_file() and set(_parts(folder / INDEX)) != {SINGLE}:
        raise ConfigError(
            f"{folder} holds weights twice: {SINGLE} and those that {INDEX} names. Which of them are meant?",
            hint=f"Take away the older ones: {SINGLE}, or {INDEX} with its parts.",
        )


def refuse_unreadable(folder: Path) -> None:
    """Raise `UnavailableError` when the user of this process may not read the folder or what a model needs of it."""
    for fault in unreadable(folder):
        raise _error(fault)


def refuse_faulty(files: Iterable[Path]) -> None:
    """Raise `UnavailableError` for the first of the weights files that is there and cannot be what it should be."""
    for path in files:
        if path.exists() and (fault := fault_of(path)):
            raise _error(fault)


def unreadable(folder: Path, uid: int | None = None) -> Iterator[Fault]:
    """What the user ``uid`` may not read, of the folder and of what a model needs of it; None: this process's user."""
    if not _may_read(folder, uid):
        yield _forbidden(folder, uid)
        return
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.suffix in {".json", ".txt", ".model", ".safetensors", ".bin"} and not path.is_dir():
            if path.is_symlink() and not path.exists():
                continue  # whoever needs it will miss it
            if not _may_read(path, uid):
                yield _forbidden(path, uid)


def weights(folder: Path) -> list[Path]:
    """The files that hold the model's weights, as transformers chooses them; those that an index names may be missing.

    Empty when there are none.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    for index, single in ((INDEX, SINGLE), (PICKLED_INDEX, PICKLED)):
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            return [folder / name for name in _parts(folder / index)]
    return []


def fault_of(path: Path) -> Fault | None:
    """What is wrong with a weights file, as far as its size, its first bytes and its header tell."""
    again = "Download it again; a download that broke off leaves such a file."
    if not path.is_file():
        return Fault(path=path, what="is not there.", todo="Download the folder again; it is not whole.")
    if not _may_read(path, None):
        return _forbidden(path, None)
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512)
    if not size:
        return Fault(path=path, what="is empty.", todo=again)
    if head.startswith(b"version https://git-lfs"):
        return Fault(
            path=path,
            what=f"is a Git LFS pointer of {size} bytes, not the weights that it stands for.",
            todo="Run git lfs pull in the folder, or download the file itself.",
        )
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return Fault(
            path=path,
            what="is an HTML page, not weights.",
            todo="A page that asks for a login or reports an error was saved in its place; download the file again.",
        )
    if path.suffix != ".safetensors":
        return None
    expected = _expected_size(path)
    if expected is None:
        return Fault(path=path, what="is not a safetensors file.", todo="Download it again, or save the model anew.")
    if size < expected:
        return Fault(path=path, what=f"is cut short: {size} of {expected} bytes are there.", todo=again)
    if size > expected:
        what = f"is longer than its header says: {size} bytes instead of {expected}."
        return Fault(path=path, what=what, todo="Download it again, or save the model anew.")
    return None


def _expected_size(path: Path) -> int | None:
    """Bytes that a safetensors file must have by its header: eight of its length, the header, the data.

    Where the header itself is cut off, at least what it needs. None for another format.
    """
    with path.open("rb") as file:
        begin = file.read(8)
        length = int.from_bytes(begin, "little")
        if len(begin) < 8 or length > HEADER_LIMIT:
            return None
        text = file.read(length)
    if len(text) < length:
        return 8 + length if text[:1] == b"{" else None
    try:
        tensors = json.loads(text)
        ends = [entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"]
    except (ValueError, AttributeError, KeyError, TypeError, IndexError):
        return None
    return 8 + length + max(ends, default=0)


def _parts(index: Path) -> list[str]:
    """The files that an index names. Empty for one that cannot be read: whoever needs it says so."""
    try:
        said: Any = json.loads(index.read_text(encoding="utf-8"))
        return sorted({str(name) for name in said["weight_map"].values()})
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return []


def _kind_of_adapter(folder: Path) -> str:
    """For the message: what adapter_config.json says about the adapter."""
    try:
        said: Any = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        kind = "DoRA" if said.get("use_dora") else str(said.get("peft_type") or "")
    except (OSError, ValueError, AttributeError):
        return ""
    return f", {kind}" if kind else ""


def _error(fault: Fault) -> UnavailableError:
    return UnavailableError(str(fault), hint=fault.todo)


def _may_read(path: Path, uid: int | None) -> bool:
    """Whether the user may read the file, or list and pass the folder; by trying it, or by the mode for another user.

    True for what is not there: that is another fault.
    """
    try:
        if uid is not None:
            return _mode_lets(path, uid)
        with os.scandir(path) if path.is_dir() else path.open("rb"):
            return os.access(path, os.X_OK, effective_ids=True) if path.is_dir() else True
    except PermissionError:
        return False
    except OSError:
        return True


def _mode_lets(path: Path, uid: int) -> bool:
    """Whether modes and owners let ``uid`` read the path, and pass the folders above it."""
    person = pwd.getpwuid(uid)
    groups = set(os.getgrouplist(person.pw_name, person.pw_gid))

    def lets(place: Path, wanted: int) -> bool:
        facts = place.stat()
        shift = 6 if facts.st_uid == uid else 3 if facts.st_gid in groups else 0
        return (facts.st_mode >> shift) & wanted == wanted

    real = path.resolve()
    own = stat.S_IROTH | stat.S_IXOTH if real.is_dir() else stat.S_IROTH
    return lets(real, own) and all(lets(folder, stat.S_IXOTH) for folder in real.parents)


def _forbidden(path: Path, uid: int | None) -> Fault:
    facts = None
    try:
        facts = path.stat()
    except OSError:
        about = "a folder above it is closed"
    else:
        about = f"it belongs to {user(facts.st_uid)} and has mode {stat.S_IMODE(facts.st_mode):04o}"
    folder = path if facts is not None and stat.S_ISDIR(facts.st_mode) else path.parent
    return Fault(
        path=path,
        what=f"may not be read by the user {user(os.geteuid() if uid is None else uid)}: {about}.",
        todo=f"Let everybody read the folder: chmod -R a+rX {folder} (and chmod a+x the folders above it). safetensors "
        "writes files that only their owner may read.",
    )


def user(uid: int) -> str:
    """A user's name, or number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
