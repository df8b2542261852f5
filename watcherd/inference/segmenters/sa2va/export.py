"""Writing the Hugging Face folder that a checkpoint and its base make together.

Tensors are written one at a time, so that memory holds the largest of them and no shard. The folder appears under its
name when it is whole: until then it has another name, with ``.part`` at its end.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from math import prod
from typing import TYPE_CHECKING, Any

import torch

from watcherd import files
from watcherd.errors import ConfigError, UnavailableError
from watcherd.inference.segmenters.sa2va.checkpoint import INDEX, SINGLE
from watcherd.inference.segmenters.sa2va.network import skeleton
from watcherd.inference.segmenters.sa2va.prompt import SYSTEM, tokenizer_of
from watcherd.inference.segmenters.sa2va.renames import needed
from watcherd.inference.segmenters.sa2va.trained import sha256

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from watcherd.inference.base import Mark
    from watcherd.inference.segmenters.sa2va.trained import Trained, TrainedTensors

SHARD_BYTES = 5 * 10**9
"""Bytes of tensors in one file at most, as Hugging Face's own; a single larger tensor has a file of its own."""

ORIGIN = "watcherd-export.json"
"""A file of the folder that says what it was made of."""

_COPIED = ("vocab.json", "merges.txt", "special_tokens_map.json", "generation_config.json", "chat_template.jinja")
_SPARE_BYTES = 64 * 2**20
"""Bytes of room that are asked for besides those of the tensors."""

_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
"""What safetensors calls them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """The folder that was written, how many tensors it holds, and their bytes."""

    folder: Path
    tensors: int
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """One tensor to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def export(trained: Trained, out: Path, mark: Mark, *, shard_bytes: int = SHARD_BYTES) -> Exported:
    """Write the folder ``out``: every tensor in float32 as the official export has them, but for an untouched vision
    tower, which keeps the base's dtype.

    Raises `ConfigError` when ``out`` is there already, and `UnavailableError` when the parts do not fit together or
    there is no room. What was written by then is taken away.
    """
    _refuse_taken(out)
    mark("reading the checkpoint", None)
    shapes = needed(skeleton(trained.config).state_dict(), trained.family)
    tensors = trained.open(shapes)
    trained.words()  # the tokens that masks hang on are there
    entries = _entries(tensors, shapes)
    total = sum(entry.bytes for entry in entries)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _refuse_full(out.parent, total)
        part.mkdir()
        _write_side_files(trained, part)
        _write_shards(part, entries, tensors, mark, shard_bytes)
        files.sync_folder(part)
        files.rename_new(part, out)
        files.sync_folder(out.parent)
    except FileExistsError as error:
        raise _taken(out) from error
    except OSError as error:
        raise UnavailableError(
            f"{out} cannot be written: {error.strerror or error}.", hint="Make room, or give another folder with --out."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Exported(folder=out, tensors=len(entries), bytes=total)


def _entries(tensors: TrainedTensors, shapes: dict[str, tuple[int, ...]]) -> list[_Entry]:
    dtypes = {name: tensors.read(name).dtype for name in shapes if _keeps_dtype(name, tensors)}
    odd = sorted({str(dtype) for dtype in dtypes.values()} - {str(dtype) for dtype in _NAMES})
    if odd:
        raise UnavailableError(f"The base's vision tower is in {', '.join(odd)}, which is not written.")
    return [_Entry(name=name, shape=shape, dtype=dtypes.get(name, torch.float32)) for name, shape in shapes.items()]


def _keeps_dtype(name: str, tensors: TrainedTensors) -> bool:
    return name.startswith(tensors.vision) and not tensors.is_trained(name)


def _refuse_taken(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise _taken(out)


def _taken(out: Path) -> ConfigError:
    return ConfigError(f"{out} is there already.", hint="Give a folder that is not there with --out, or move it away.")


def _refuse_full(folder: Path, total: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < total + _SPARE_BYTES:
        raise UnavailableError(
            f"The model needs {total / 1e9:.1f} GB, and {folder} has room for {free / 1e9:.1f} GB.",
            hint="Make room, or give a folder on another disk with --out.",
        )


def _write_shards(part: Path, entries: Sequence[_Entry], tensors: TrainedTensors, mark: Mark, shard_bytes: int) -> None:
    shards = list(_shards(entries, shard_bytes))
    places: dict[str, str] = {}
    written, total = 0, sum(entry.bytes for entry in entries)
    for number, shard in enumerate(shards, start=1):
        name = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        with (part / name).open("wb") as file:
            file.write(_header(shard))
            for entry in shard:
                mark("writing weights", written / total)
                file.write(_bytes_of(tensors.read(entry.name), entry))
                written += entry.bytes
            file.flush()
            os.fsync(file.fileno())
        places |= {entry.name: name for entry in shard}
    if len(shards) > 1:
        _write_json(part / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
    mark("writing weights", 1.0)


def _shards(entries: Sequence[_Entry], limit: int) -> Iterator[list[_Entry]]:
    shard: list[_Entry] = []
    for entry in entries:
        if shard and sum(each.bytes for each in shard) + entry.bytes > limit:
            yield shard
            shard = []
        shard.append(entry)
    yield shard


def _header(shard: Sequence[_Entry]) -> bytes:
    """A safetensors file's beginning: eight bytes of the header's length, then where each tensor lies, as JSON that
    ends at a multiple of eight."""
    described: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for entry in shard:
        end = begin + entry.bytes
        described[entry.name] = {"dtype": _NAMES[entry.dtype], "shape": entry.shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes_of(tensor: torch.Tensor, entry: _Entry) -> memoryview:
    if tuple(tensor.shape) != entry.shape:
        raise UnavailableError(f"{entry.name} is {tuple(tensor.shape)}, expected {entry.shape}.")
    flat = tensor.to(entry.dtype).contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _write_side_files(trained: Trained, part: Path) -> None:
    _write_family_files(trained, part)
    for name in _COPIED:
        if name in trained.family.files:
            continue
        if (trained.folder / name).is_file():
            shutil.copyfile(trained.folder / name, part / name)
    _write_json(part / "config.json", trained.values)
    tokenizer = tokenizer_of(trained.folder, trained.added)
    _write(part / "tokenizer.json", tokenizer.to_str(pretty=True))
    ids = {word: tokenizer.token_to_id(word) for word in trained.added}
    added = _read_json(trained.folder / "added_tokens.json")
    if added is not None:
        _write_json(part / "added_tokens.json", added | ids)
    settings = _read_json(trained.folder / "tokenizer_config.json") or {}
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    known = settings.get("added_tokens_decoder") or {}
    grown = {str(number): {"content": word, **plain} for word, number in ids.items()}
    _write_json(part / "tokenizer_config.json", settings | {"added_tokens_decoder": known | grown})
    _write_json(part / ORIGIN, origin(trained))


def _write_family_files(trained: Trained, part: Path) -> None:
    """Those that say how the model is asked and looks; what a base's chat template says before every turn is left out,
    as the training did not say it."""
    for name in trained.family.files:
        source = trained.folder / name
        if source.is_file():
            text = source.read_text(encoding="utf-8", errors="surrogateescape")
            if trained.base:
                text = SYSTEM.sub("", text)
            (part / name).write_text(text, encoding="utf-8", errors="surrogateescape")


def origin(trained: Trained) -> dict[str, Any]:
    """What an exported folder was made of."""
    return {
        "watcherd_version": version("watcherd"),
        "checkpoint": trained.path.name,
        "checkpoint_sha256": sha256(trained.path),
        "iteration": trained.notes.iteration,
        "base": trained.folder.name,
        "trained_on": list(trained.notes.bases),
        "sam2_sha256": sha256(trained.sam2) if trained.sam2 else None,
    }


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnavailableError(f"{path} cannot be read: {error}.", hint="Download it again.") from error
    return found if isinstance(found, dict) else {}


def _write_json(path: Path, value: object) -> None:
    _write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
