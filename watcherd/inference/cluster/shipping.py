"""Model folders on the nodes: copied once to each, piece by piece, and checked by their hashes.

A folder's copy lies under the hash of what is in it, so a changed folder is another copy, and a copy that broke off
goes on where it stopped. What is copied is a model's own: ``model.path`` and, for Sa2VA, ``checkpoint`` and ``sam2``.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from watcherd.inference.pool.carrier import NoRoomError
from watcherd.linux.threads import NamedThread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from watcherd.config import Model
    from watcherd.inference.cluster.host import Content
    from watcherd.inference.messages import ReplicaSpec

_Key: TypeAlias = "tuple[str, Path, str]"
"""A node's birth, a model's path here, and what it looked like."""

PIECE = 16 * 2**20
"""Bytes that are sent at once."""
ANSWER_SECONDS = 120.0
"""Seconds for a node to write a piece, or to check a file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """A file of a model: where it lies below its copy, and what is in it."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """What is in a folder. Equal contents have equal ``digest``."""

    files: tuple[File, ...]

    @property
    def digest(self) -> str:
        """32 hex digits."""
        told = "\n".join(f"{file.sha256} {file.size} {file.name}" for file in self.files)
        return hashlib.sha256(told.encode()).hexdigest()[:32]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def listing(path: Path) -> Listing:
    """What is in a folder, or the file itself. Reads all of it. Names begin with that of the folder, for it is what
    the model is called in the history."""
    found = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    base = path.parent
    return Listing(
        files=tuple(
            File(name=str(each.relative_to(base)), size=each.stat().st_size, sha256=sha256(each)) for each in found
        )
    )


def sha256(path: Path) -> str:
    """The hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Copies:
    """The copies on this machine, for the node's side. ``folder``: where they lie."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def place(self, digest: str) -> Path:
        """Where the copy of this digest lies, or is to lie."""
        return self._folder / digest

    def missing(self, digest: str, files: Sequence[File]) -> dict[str, int]:
        """How much is there of each file that is not complete. Names that would lie elsewhere are refused."""
        found = {}
        for file in files:
            path = self._path(digest, file.name)
            if not path.is_file() or path.stat().st_size != file.size:
                part = _part(path)
                found[file.name] = part.stat().st_size if part.is_file() else 0
        return found

    def write(self, digest: str, name: str, offset: int, content: Content) -> None:
        """Write a piece of a file that is not complete yet."""
        part = _part(self._path(digest, name))
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("r+b" if part.exists() else "wb") as file:
            file.seek(offset)
            file.write(content.tobytes())
            file.truncate()

    def complete(self, digest: str, file: File) -> bool:
        """Whether the file is what it should be; then it has its name, and else it is gone."""
        path = self._path(digest, file.name)
        part = _part(path)
        if file.size == 0:
            part.parent.mkdir(parents=True, exist_ok=True)
            part.touch()
        if part.stat().st_size != file.size or sha256(part) != file.sha256:
            part.unlink()
            return False
        part.rename(path)
        return True

    def _path(self, digest: str, name: str) -> Path:
        path = (self.place(digest) / name).resolve()
        if not path.is_relative_to(self.place(digest).resolve()):
            raise ValueError(f"{name!r} would lie outside of its folder")
        return path


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


class Shipper:
    """Copies models to nodes, for the bridge's side: each to each node once, in a thread of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[_Key, str] = {}
        self._done: dict[_Key, str] = {}

    def there(self, spec: ReplicaSpec, agent: Any, born: str) -> ReplicaSpec:
        """The replica with the model's paths on the node. Raises `NoRoomError` while they are being copied: with how
        far that is, or with why it failed; then it is tried again with the next call."""
        try:
            keys = {key: (born, path, _stamp(path)) for key, path in _paths_of(spec.model).items()}
        except OSError as error:
            raise NoRoomError(f"the model cannot be read: {error}") from None
        for key in keys.values():
            self._bring(key, agent, spec.node)
        with self._lock:
            there = {name: self._done[key] for name, key in keys.items()}
        return replace(spec, model=_with_paths(spec.model, there))

    def _bring(self, key: _Key, agent: Any, node: str) -> None:
        with self._lock:
            if key in self._done:
                return
            said = self._under_way.get(key)
            if said is None:
                self._under_way[key] = said = f"the model is being copied to {node}"
                NamedThread(target=self._copy, args=(key, agent, node), name="shipping", daemon=True).start()
            elif said.startswith("!"):
                del self._under_way[key]
        raise NoRoomError(said.removeprefix("!"))

    def _copy(self, key: _Key, agent: Any, node: str) -> None:
        def progress(part: float) -> None:
            self._say(key, f"the model is being copied to {node}: {part:.0%}")

        try:
            there = self._copied(key[1], agent, progress)
        except Exception as error:  # of Ray, or of a disk on either side
            self._say(key, f"!the model cannot be copied to {node}: {type(error).__name__}: {error}")
            return
        with self._lock:
            self._done[key] = there
            del self._under_way[key]

    def _say(self, key: _Key, words: str) -> None:
        with self._lock:
            self._under_way[key] = words

    def _copied(self, path: Path, agent: Any, progress: Callable[[float], None]) -> str:
        """Copy what is missing; returns the path there. Raises what went wrong."""
        import ray

        found = listing(path)
        digest, base = found.digest, path.parent
        missing: Mapping[str, int] = ray.get(agent.missing.remote(digest, found.files), timeout=ANSWER_SECONDS)
        done = found.size - sum(file.size - missing[file.name] for file in found.files if file.name in missing)
        for file in found.files:
            if file.name not in missing:
                continue
            offset = missing[file.name]
            while offset < file.size:
                content = np.fromfile(base / file.name, np.uint8, PIECE, offset=offset)
                if not len(content):
                    raise OSError(f"{file.name} has become shorter")
                ray.get(agent.write.remote(digest, file.name, offset, content), timeout=ANSWER_SECONDS)
                offset += len(content)
                done += len(content)
                progress(done / max(1, found.size))
            if not ray.get(agent.complete.remote(digest, file), timeout=ANSWER_SECONDS):
                raise OSError(f"{file.name} arrived damaged, or changed while it was copied")
        where: str = ray.get(agent.place.remote(digest, path.name), timeout=ANSWER_SECONDS)
        return where


def _stamp(path: Path) -> str:
    """Another one as soon as a file of the model is another: by names, sizes and times. Raises `OSError`."""
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    told = [(str(each), each.stat().st_size, each.stat().st_mtime_ns) for each in found]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def _paths_of(model: Model) -> dict[str, Path]:
    named = {"path": model.path, "checkpoint": model.sa2va.checkpoint, "sam2": model.sa2va.sam2}
    return {key: path for key, path in named.items() if path is not None}


def _with_paths(model: Model, there: Mapping[str, str]) -> Model:
    found = {key: Path(path) for key, path in there.items()}
    sa2va = model.sa2va.model_copy(update={key: path for key, path in found.items() if key != "path"})
    return model.model_copy(update={"sa2va": sa2va} | ({"path": found["path"]} if "path" in found else {}))
