"""What a model folder or a file of weights is, for ``watcherd inspect-model``: looked at, and not loaded."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from watcherd.config import Model, Sa2va
from watcherd.errors import UsageError, WatcherdError
from watcherd.inference import folders, segmenters
from watcherd.inference.base import Placeable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from watcherd.inference.segmenters.sa2va.segmenter import Sa2vaSegmenter

BYTES = {"bfloat16": 2, "float32": 4}
"""Bytes of a value at the run dtypes at which models are loaded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What was found.

    ``holds``: facts by their names. ``missing``: what has to come from elsewhere. ``refused``: why watcherd would not
    load it. ``does``: what watcherd would do with it. ``parameters`` and ``revision``: of the model that it would load,
    0 and empty where there is none.
    """

    path: Path
    what: str
    holds: Mapping[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    does: str = ""
    parameters: int = 0
    revision: str = ""
    model: str = ""
    warning: str = ""
    refused: str = ""

    @property
    def loaded_bytes(self) -> dict[str, int]:
        """Bytes of the weights at each run dtype; empty where it is not known."""
        return {dtype: size * self.parameters for dtype, size in BYTES.items()} if self.parameters else {}

    def as_json(self) -> dict[str, Any]:
        """Everything, for ``--json``."""
        return {
            "path": str(self.path),
            "what": self.what,
            "holds": dict(self.holds),
            "missing": list(self.missing),
            "does": self.does,
            "parameters": self.parameters or None,
            "loaded_bytes": self.loaded_bytes or None,
            "model": self.model or None,
            "revision": self.revision or None,
            "warning": self.warning or None,
            "refused": self.refused or None,
        }


def inspect(path: Path, base: Path | None = None, sam2: Path | None = None, segmenter: str = "") -> Inspection:
    """What ``path`` is. ``base`` and ``sam2``: for a checkpoint; ``segmenter``: what would run a folder's model.

    Raises `UsageError` when there is nothing at ``path``, and `UnavailableError` when it may not be read.
    """
    if not path.exists():
        raise UsageError(f"{path} is not there.", hint="Give a model folder, or a file such as iter_12192.pth.")
    try:
        if path.is_file():
            return _file(path, base, sam2)
        if not (path / "config.json").is_file():
            folders.refuse_unreadable(path)
            return _without_config(path)
        return _folder(path, segmenter)
    except WatcherdError as error:
        refused = f"{error.message} {error.hint}".strip()
        what = "a file that is not read" if path.is_file() else "a folder that is not read"
        return Inspection(path=path, what=what, refused=refused, does="Refuse it.")


def model_type(folder: Path) -> str:
    """What the folder's ``config.json`` says that its model is; empty when it does not say."""
    try:
        said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(said.get("model_type") or "") if isinstance(said, dict) else ""


def _without_config(path: Path) -> Inspection:
    """A folder of shards, or none of ours."""
    try:
        folders.refuse_shards(path)
    except WatcherdError as error:
        is_shards = any(path.glob("*_states.pt"))
        what = "a folder of DeepSpeed's shards" if is_shards else "no model folder: it has no config.json"
        return Inspection(path=path, what=what, refused=f"{error.message} {error.hint}", does="Refuse it.")
    raise AssertionError(path)


def _folder(path: Path, segmenter: str) -> Inspection:
    from watcherd.inference.segmenters.sa2va import families

    kind = model_type(path)
    base = families.of_base(kind)
    if base:
        return _base(path, base.article)
    found = Inspection(path=path, what=f"a model folder of type {kind or 'unknown'}", holds=_weights(path))
    if not segmenter:
        return replace(found, does="Nothing: no segmenter here is known to run it.")
    if segmenter == "sa2va":
        found = replace(found, what="a Sa2VA model folder", holds={**found.holds, **_origin(path)})
    return _loadable(found, Model(segmenter=segmenter, path=path.absolute()))


def _base(path: Path, article: str) -> Inspection:
    return Inspection(
        path=path,
        what=f"{article} folder: the base of a Sa2VA training",
        holds=_weights(path),
        missing=("SAM2: sam2_hiera_large.pt", "what was trained: iter_*.pth"),
        does="Nothing by itself: it cannot segment. Set it as model.path, with model.sa2va.checkpoint and "
        "model.sa2va.sam2.",
    )


def _loadable(found: Inspection, model: Model) -> Inspection:
    """``found`` with what the segmenter says of it; the names and shapes of all tensors are compared for a Sa2VA."""
    try:
        made = segmenters.create(model)
        info = made.info()
        parameters = info.parameters
        if isinstance(made, Placeable):
            parameters = sum(parameter.numel() for parameter in made.skeleton().parameters())
        found = replace(
            found,
            parameters=parameters,
            revision=info.revision,
            model=info.model,
            warning=info.warning or found.warning,
        )
        if model.segmenter == "sa2va":
            cast("Sa2vaSegmenter", made).check()
        else:
            folders.refuse_faulty(folders.weights(model.path or found.path))
    except WatcherdError as error:
        return replace(found, refused=f"{error.message} {error.hint}".strip(), does="Refuse it.")
    return replace(found, does=f"Load it with model.segmenter = {model.segmenter!r}.")


def _weights(path: Path) -> dict[str, Any]:
    files = [file for file in folders.weights(path) if file.is_file()]
    return {"files": len(files), "bytes": sum(file.stat().st_size for file in files)}


def _origin(path: Path) -> dict[str, Any]:
    """What an export of ours says that the folder was made of."""
    from watcherd.inference.segmenters.sa2va.export import ORIGIN

    try:
        said = json.loads((path / ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {"exported_from": said} if isinstance(said, dict) else {}


def _file(path: Path, base: Path | None, sam2: Path | None) -> Inspection:
    from watcherd.inference.segmenters.sa2va import pickled

    if path.suffix == ".safetensors":
        folders.refuse_faulty([path])
        return Inspection(path=path, what="a safetensors file", does="Nothing by itself: give its folder.")
    content = pickled.read(path)
    if isinstance(content.get("model"), dict):
        weights = pickled.tensors(content["model"], path)
        return Inspection(
            path=path,
            what="a file of weights as SAM2's own",
            holds={"bytes": path.stat().st_size, **_facts(weights)},
            does="Nothing by itself. It is model.sa2va.sam2 beside a checkpoint whose base is no Sa2VA.",
        )
    return _checkpoint(path, content, base, sam2)


def _checkpoint(path: Path, content: Mapping[Any, Any], base: Path | None, sam2: Path | None) -> Inspection:
    from watcherd.inference.segmenters.sa2va import run_notes
    from watcherd.inference.segmenters.sa2va.families import FAMILIES
    from watcherd.inference.segmenters.sa2va.trained import PARTS, exported_name, sha256, state_of

    weights = state_of(content, path)
    notes = run_notes.read(content.get("meta"))
    halves = {name: tensor.shape[0] for name, tensor in weights.items() if ".lora_A." in name}
    holds = {
        "iteration": notes.iteration,
        "sha256": sha256(path),
        "bytes": path.stat().st_size,
        **_facts(weights),
        "lora_layers": len(halves),
        "lora_ranks": sorted(set(halves.values())),
        "replaced_tensors": sum(".lora_" not in name for name in weights),
        "trained_on": list(notes.bases),
        "template": notes.template,
        "special_tokens": list(notes.special_tokens) if notes.said else [],
    }
    found = Inspection(path=path, what="a training checkpoint of Sa2VA", holds=holds)
    if not any(exported_name(name, family).startswith(PARTS) for name in weights for family in FAMILIES):
        return replace(found, what="a file of weights, none of which is a Sa2VA's", does="Nothing.")
    if notes.fault:
        found = replace(found, warning=f"{path.name}: {notes.fault}")
    if base is None:
        named = f": {' and '.join(notes.bases)}" if notes.bases else ""
        return replace(
            found,
            missing=(
                f"the model that its training began with{named}",
                "SAM2: sam2_hiera_large.pt, if that is no Sa2VA",
            ),
            does="Load it on top of its base: set model.path to that, and model.sa2va.checkpoint to this file. With "
            "--base (and --sam2) it is compared with them.",
        )
    chosen = Sa2va(checkpoint=path.absolute(), sam2=sam2.absolute() if sam2 else None)
    return _loadable(found, Model(segmenter="sa2va", path=base.absolute(), sa2va=chosen))


def _facts(weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in weights.values())
    return {"tensors": len(weights), "dtypes": dict(dtypes)}
