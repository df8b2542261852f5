"""The tensors of a model folder: what they are called, what shape they have, and reading them one at a time.

Names and shapes come from the headers of the safetensors files, so a folder is checked whole before any weight is
read. Parts that were exported with their LoRA wrappers are merged as they are read.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from watcherd.errors import UnavailableError
from watcherd.inference import folders
from watcherd.inference.loading import tensor_samples
from watcherd.inference.segmenters.sa2va.families import INTERNVL
from watcherd.inference.segmenters.sa2va.renames import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch

    from watcherd.inference.segmenters.sa2va.config import Sa2vaConfig
    from watcherd.inference.segmenters.sa2va.families import Family

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

NOT_MERGED = ("use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "lora_bias", "layer_replication")
"""Keys of an adapter_config.json by which an update is more than one product with one scale."""

_MERGE_SCALE = 2.0
"""InternVL's wrapping sets lora_alpha to twice the rank, for the vision tower and for the language model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """One tensor of the model: where its parts are. ``down`` and ``up`` are LoRA's A and B, if it was wrapped."""

    base: str
    down: str | None = None
    up: str | None = None
    scale: float = 1.0


class Tensors(Protocol):
    """What a network is filled from; `Checkpoint` is one."""

    folder: Path

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Name to shape of every tensor, under the names of an exported folder."""

    def position(self, name: str) -> tuple[str, str]:
        """A sort key that keeps reading of many tensors within one file after the other."""

    def read(self, name: str) -> torch.Tensor:
        """The tensor, on the CPU; it may be a window onto its file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spelling:
    """How a folder's names are read: those of ``family``, in a folder that a training begins with if ``of_base``.

    ``tied``: the language head is the embedding's table, whatever else the folder holds.
    """

    family: Family = INTERNVL
    of_base: bool = False
    tied: bool = False

    def read(self, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
        """``tensors`` by the names of an exported folder."""
        found = {canonical(name, self.family, of_base=self.of_base): each for name, each in tensors.items()}
        if self.tied and self.family.embedding in found:
            found[self.family.head] = found[self.family.embedding]
        return found


def spelling_of(config: Sa2vaConfig) -> Spelling:
    """That of a Sa2VA's folder."""
    return Spelling(family=config.built_on, tied=config.tied)


class Checkpoint:
    """A folder's safetensors files, under the names that the model has without LoRA wrappers.

    Raises `UnavailableError` when a file is missing or unreadable, and `ConfigError` when there is more than one model.
    """

    def __init__(self, folder: Path, lora_ranks: Mapping[str, int], spelling: Spelling | None = None) -> None:
        self.folder = folder
        self._handles: dict[str, Any] = {}
        folders.refuse_ambiguous(folder, wrapped=True)
        folders.refuse_faulty(folders.weights(folder))
        self._file_of = _files(folder)
        self._raw_shapes = self._read_headers()
        unwrapped = unwrap(self._raw_shapes, lora_scale(folder, self._raw_shapes, lora_ranks))
        self.tensors = (spelling or Spelling()).read(unwrapped)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name to shape of every tensor, LoRA's own left out."""
        return {name: self._raw_shapes[stored.base] for name, stored in self.tensors.items()}

    def position(self, name: str) -> tuple[str, str]:
        """A sort key that keeps reading of many tensors within one file after the other."""
        base = self.tensors[name].base
        return self._file_of[base], base

    def read(self, name: str) -> torch.Tensor:
        """The tensor, on the CPU; at the file's dtype, or float32 when LoRA was merged into it."""
        stored = self.tensors[name]
        base = self._get(stored.base)
        if stored.down is None or stored.up is None:
            return base
        return merge(base, self._get(stored.down), self._get(stored.up), stored.scale)

    def _get(self, raw: str) -> torch.Tensor:
        tensor: torch.Tensor = self._open(self._file_of[raw]).get_tensor(raw)
        return tensor

    def _open(self, file: str) -> Any:
        from safetensors import SafetensorError, safe_open

        if file not in self._handles:
            path = self.folder / file
            try:
                self._handles[file] = safe_open(path, framework="pt", device="cpu")
            except FileNotFoundError as error:
                raise UnavailableError(
                    f"The model folder {self.folder} has lost a shard: {file} is named in {INDEX} and is not there.",
                    hint="Download the folder again; an interrupted download leaves such holes.",
                ) from error
            except (OSError, SafetensorError) as error:
                raise UnavailableError(
                    f"{path} cannot be read as safetensors: {error}.",
                    hint="Download the file again; a truncated one looks like this.",
                ) from error
        return self._handles[file]

    def _read_headers(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for file in sorted(set(self._file_of.values())):
            handle = self._open(file)
            shapes |= {name: tuple(handle.get_slice(name).get_shape()) for name in handle.keys()}  # noqa: SIM118 - no mapping
        if self._file_of.keys() != shapes.keys():
            absent = sorted(self._file_of.keys() - shapes.keys())
            if absent:
                raise UnavailableError(f"{INDEX} names tensors that no shard of {self.folder} holds: {listed(absent)}.")
            # A shard may hold more than the index says; those tensors count as present.
            self._file_of |= self._files_of_all()
        return shapes

    def _files_of_all(self) -> dict[str, str]:
        return {name: file for file, handle in self._handles.items() for name in handle.keys()}  # noqa: SIM118


def _files(folder: Path) -> dict[str, str]:
    """Tensor name to file name, from the index or from the one file."""
    index = folder / INDEX
    if index.is_file():
        try:
            found: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        except (OSError, ValueError, KeyError) as error:
            raise UnavailableError(f"{index} cannot be read: {error!r}.", hint="Download it again.") from error
        return found
    if (folder / SINGLE).is_file():
        return _names_in(folder / SINGLE)
    raise UnavailableError(
        f"The model folder {folder} holds no weights: neither {INDEX} nor {SINGLE} is there.",
        hint="Weights in *.bin files are not read; save the model with safe_serialization=True.",
    )


def _names_in(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as handle:
            return dict.fromkeys(handle.keys(), path.name)
    except (OSError, SafetensorError) as error:
        raise UnavailableError(f"{path} cannot be read as safetensors: {error}.", hint="Download it again.") from error


def unwrap(shapes: Mapping[str, tuple[int, ...]], scale: float) -> dict[str, Stored]:
    """The model's own names, of those that peft's wrappers made: ``base_layer``, ``lora_A``, ``modules_to_save``.

    Raises `UnavailableError` for wrappers that hold more than the default adapter's two factors, as DoRA's do.
    """
    tensors: dict[str, Stored] = {}
    merged: set[str] = set()
    for raw in shapes:
        if ".lora_" in raw or ".original_module." in raw:
            continue
        name = plain_name(raw)
        down = re.sub(r"\.base_layer\.weight$", ".lora_A.default.weight", raw)
        wrapped = down != raw and down in shapes
        if wrapped:
            up = down.replace(".lora_A.", ".lora_B.")
            merged |= {down, up}
            tensors[name] = Stored(base=raw, down=down, up=up, scale=scale)
        else:
            tensors[name] = Stored(base=raw)
    others = sorted({raw for raw in shapes if ".lora_" in raw} ^ merged)
    if others:
        raise UnavailableError(
            f"The weights hold parts of adapters that are not merged here: {listed(others)}.",
            hint="Only LoRA's own two factors of one adapter are (no DoRA, no embeddings); export the model merged.",
        )
    return tensors


def merge(base: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scale: float) -> torch.Tensor:
    """``base`` (out, in) plus ``scale`` times ``up`` (out, r) by ``down`` (r, in), in float32, as peft merges it."""
    # In place: a second and a third copy of the largest layer would be memory for nothing.
    return (up.float() @ down.float()).mul_(scale).add_(base)


def plain_name(raw: str) -> str:
    """A name that peft's wrappers made as the model has it without them."""
    name = raw.replace(".base_model.model.", ".", 1).replace(".base_layer.", ".")
    return re.sub(r"\.modules_to_save\.\w+\.", ".", name)


def lora_scale(folder: Path, shapes: Mapping[str, tuple[int, ...]], ranks: Mapping[str, int]) -> float:
    """By what LoRA's updates are multiplied: lora_alpha over the rank. 1 where there are none.

    It is no part of the weights: an ``adapter_config.json`` says it; else a ``use_llm_lora`` or ``use_backbone_lora``
    that equals the rank means InternVL's own wrapping. Raises `UnavailableError` otherwise, and for an adapter that is
    no plain LoRA or not that of these weights.
    """
    found = {shape[0] for name, shape in shapes.items() if ".lora_A." in name}
    adapter = folder / "adapter_config.json"
    if not found:
        folders.refuse_ambiguous(folder)
        return 1.0
    if adapter.is_file():
        values = json.loads(adapter.read_text(encoding="utf-8"))
        _check_adapter(values, found, adapter)
        root = 0.5 if values.get("use_rslora") else 1.0
        return float(float(values["lora_alpha"]) / float(values["r"]) ** root)
    if found <= {rank for rank in ranks.values() if rank}:
        return _MERGE_SCALE
    raise UnavailableError(
        f"{folder} holds LoRA weights of rank {sorted(found)}, and nothing says by what they are to be scaled.",
        hint="Put the adapter's adapter_config.json into the folder, or export the model with LoRA merged.",
    )


def _check_adapter(values: Mapping[str, Any], ranks: set[int], adapter: Path) -> None:
    """Raise `UnavailableError` unless the adapter is a plain LoRA of the rank that the weights have."""
    said = [f"{key} = {values[key]!r}" for key in NOT_MERGED if values.get(key)]
    said += [f"peft_type = {values['peft_type']!r}"] if values.get("peft_type", "LORA") != "LORA" else []
    said += [f"r = {values.get('r')!r}, but the weights have {sorted(ranks)}"] if ranks != {values.get("r")} else []
    if said:
        raise UnavailableError(
            f"{adapter} describes an adapter that cannot be merged here: {'; '.join(said)}.",
            hint="Export the model with the adapter merged (peft: merge_and_unload).",
        )


def listed(names: list[str], limit: int = 12) -> str:
    """Names for an error message: the first ones, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def fingerprint(folder: Path, files: Sequence[str] = ()) -> str:
    """A short hash that changes when the model does: 16 hex digits. ``files``: others beside the weights that count.

    Reads the small files whole, and of each tensor a kilobyte in its middle, because reading 16 GB at every start would
    take longer than loading them.
    """
    digest = hashlib.sha256()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "adapter_config.json", *files):
        path = folder / name
        digest.update(path.read_bytes() if path.is_file() else b"-")
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.name.encode())
        for part in tensor_samples(path):
            digest.update(part)
    return digest.hexdigest()[:16]
