"""A training run's checkpoint on top of the model that it began with, as one set of tensors.

The checkpoint (``iter_*.pth``) holds what was trained: LoRA's two factors of each linear layer, and whole tensors that
replace the base's. All else comes from the base folder, and SAM2 from its own file where the base is no Sa2VA.
Names are brought to those of an exported folder; where nothing fits, the load is refused: left out, a trained tensor
would be lost in silence.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from watcherd.errors import ConfigError, UnavailableError
from watcherd.inference import folders
from watcherd.inference.segmenters.sa2va import config as configuration
from watcherd.inference.segmenters.sa2va import families, pickled, run_notes
from watcherd.inference.segmenters.sa2va.checkpoint import (
    Checkpoint,
    Spelling,
    fingerprint,
    listed,
    merge,
    plain_name,
)
from watcherd.inference.segmenters.sa2va.families import FAMILIES, INTERNVL
from watcherd.inference.segmenters.sa2va.prompt import Words, system_of, tokenizer_of
from watcherd.inference.segmenters.sa2va.renames import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch

    from watcherd.inference.segmenters.sa2va.config import Sa2vaConfig
    from watcherd.inference.segmenters.sa2va.families import Family
    from watcherd.inference.segmenters.sa2va.run_notes import Notes

SAM2 = "grounding_encoder.sam2_model."
PARTS = tuple({beginning: None for family in FAMILIES for beginning in (*family.own, SAM2)})
"""With what the names of an exported folder begin."""

_HASHED_AT_ONCE = 2**22
"""Bytes that are read at a time to hash a file."""


class Trained:
    """A checkpoint and its base: what is known of them without reading their weights.

    Raises `ConfigError` when one of the files is not there or the base is none, and `UnavailableError` when one cannot
    be read or is not what it should be.
    """

    def __init__(self, folder: Path | None, checkpoint: Path, sam2: Path | None = None) -> None:
        if folder is None:
            raise ConfigError(
                f"model.sa2va.checkpoint = {str(checkpoint)!r} needs the model that its training began with, and "
                "model.path is empty.",
                hint='Set path in [model] to that model\'s folder, for example path = "/models/InternVL3-8B".',
            )
        folders.refuse_missing_file(checkpoint, "model.sa2va.checkpoint")
        values = configuration.values_of(folder)
        self.folder, self.path, self.sam2 = folder, checkpoint, sam2
        self.base: Family | None = families.of_base(values.get("model_type"))
        self.family: Family = self.base or families.of_parts(values) or INTERNVL
        self._check_sam2(values)
        content = pickled.read(checkpoint)
        self.notes: Notes = run_notes.read(content.get("meta"))
        self.trained = {name: tuple(tensor.shape) for name, tensor in state_of(content, checkpoint).items()}
        self.base_ranks = configuration.lora_ranks(values)
        self.added = self._new_words()
        self._base_values = values
        self.values = self._as_exported(values)
        self.config: Sa2vaConfig = configuration.parse(self.values, folder)

    @property
    def name(self) -> str:
        """What the record calls the model: the base's name and the checkpoint's."""
        return f"{self.folder.name}+{self.path.name}"

    @property
    def warning(self) -> str:
        """What makes this base doubtful, in a sentence; empty when nothing does.

        LoRA on a wrong base of equal shapes loads without any error, and gives other masks.
        """
        bases = self.notes.bases
        if bases and not self.notes.names_base(self.folder):
            return (
                f"{self.path.name} was trained on {' and '.join(bases)}, and its base here is called "
                f"{self.folder.name}: on another model of equal shapes it loads, and gives wrong masks"
            )
        return ""

    def words(self) -> Words:
        """The base's tokenizer with the words that the training added."""
        # A training says nothing before its turns, whatever its base's chat template does.
        system = "" if self.base else system_of(self.folder, self.config)
        return Words(self.folder, self.added, self.config.template, system)

    def spelling(self) -> Spelling:
        """How the names of the base's tensors are read."""
        tied = configuration.is_tied(self._base_values, self.family)
        return Spelling(family=self.family, of_base=self.base is not None, tied=tied)

    def revision(self) -> str:
        """What changes whenever masks may: a hash of the base and SAM2, the iteration, the checkpoint's own hash."""
        rest = fingerprint(self.folder, self.family.files)
        if self.sam2:
            rest = hashlib.sha256(f"{rest}{sha256(self.sam2)}".encode()).hexdigest()[:16]
        iteration = "unknown" if self.notes.iteration is None else str(self.notes.iteration)
        return f"{rest}-iter{iteration}-{sha256(self.path)[:16]}"

    def open(self, needed: Mapping[str, tuple[int, ...]]) -> TrainedTensors:
        """The tensors, of which the network needs those called ``needed``.

        Raises `UnavailableError` with names and figures when they do not fit together.
        """
        return TrainedTensors(self, needed)

    def _check_sam2(self, values: Mapping[str, Any]) -> None:
        if self.sam2:
            folders.refuse_missing_file(self.sam2, "model.sa2va.sam2")
        if self.base and not self.sam2:
            raise ConfigError(
                f"{self.folder} is {self.base.article}, which holds no SAM2, and model.sa2va.sam2 is empty.",
                hint="Set sam2 in [model.sa2va] to sam2_hiera_large.pt (of SAM2, not 2.1), or take a published Sa2VA's "
                "folder of the same size as the base if the training began with that one.",
            )
        if self.sam2 and values.get("model_type") == "sa2va_chat":
            raise ConfigError(
                f"{self.folder} is a Sa2VA, which holds SAM2, and model.sa2va.sam2 = {str(self.sam2)!r} is another.",
                hint="Take sam2 out of [model.sa2va]; it is for a base that is no Sa2VA.",
            )

    def _new_words(self) -> tuple[str, ...]:
        tokenizer = tokenizer_of(self.folder)
        return tuple(word for word in self.notes.special_tokens if tokenizer.token_to_id(word) is None)

    def _as_exported(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The ``config.json`` that an exported folder has."""
        if not self.base and values.get("model_type") != "sa2va_chat":
            raise ConfigError(
                f"{self.folder} holds a model of type {values.get('model_type')!r}, which is no base of a Sa2VA.",
                hint="The base is an InternVL2.5, an InternVL3, a Qwen2.5-VL or a Qwen3-VL, or a Sa2VA. "
                f"{configuration.SUPPORTED}",
            )
        language = configuration.described(values, self.family)
        if "vocab_size" not in language:
            return dict(values)  # whoever parses it says what is missing
        rows = language["vocab_size"]
        if self.base or self.added:
            rows = tokenizer_of(self.folder, self.added).get_vocab_size(with_added_tokens=True)
        kept = {key: value for key, value in values.items() if key not in {"_name_or_path", "_commit_hash"}}
        return kept | {
            "model_type": "sa2va_chat",
            "architectures": [self.family.architecture],
            "auto_map": dict(self.family.auto_map),
            "tie_word_embeddings": False,
            **(self._as_tiled(values, language, rows) if self.family.sees == "tiles" else self._untied(language, rows)),
        }

    def _as_tiled(self, values: Mapping[str, Any], language: Mapping[str, Any], rows: int) -> dict[str, Any]:
        template = self.notes.template or ("qwen_chat" if self.base else values.get("template"))
        configuration.template_of({"template": template}, self.path if self.notes.template else self.folder)
        return {
            "template": template,
            "use_backbone_lora": 0,
            "use_llm_lora": 0,
            "hidden_size": language.get("hidden_size"),
            self.family.described: {**language, "vocab_size": rows},
        }

    def _untied(self, language: Mapping[str, Any], rows: int) -> dict[str, Any]:
        own = {"model_type": f"{self.family.base}_text", "vocab_size": rows, "tie_word_embeddings": False}
        return {self.family.described: {**language, **own}}


@dataclass(kw_only=True, slots=True)
class _Piece:
    """What one trained tensor of an exported folder is made of: raw names in the checkpoint."""

    whole: str | None = None
    down: str | None = None
    up: str | None = None
    scale: float = 1.0


class TrainedTensors:
    """`Tensors` of a checkpoint on its base: what `weights.load` and an export read one at a time."""

    def __init__(self, origin: Trained, needed: Mapping[str, tuple[int, ...]]) -> None:
        self.folder, self._path = origin.folder, origin.path
        self._sam2_path = origin.sam2
        self._needed = needed
        self._pieces = _pieces(origin.trained, origin.notes, origin.path, origin.family)
        self.vision, self._tables = origin.family.vision, origin.family.tables
        self._refuse_homeless()
        self._base = Checkpoint(origin.folder, origin.base_ranks, origin.spelling())
        self._trained = state_of(pickled.read(origin.path), origin.path)
        self._sam2 = _sam2_tensors(origin.sam2, needed) if origin.sam2 else {}
        self._shapes = self._base.shapes() | {name: tuple(each.shape) for name, each in self._sam2.items()}
        self._refuse_misfits(origin)
        self._refuse_holes(origin)
        # Padding of the base's, which the training cut off.
        untrained = [table for table in self._tables if not self._pieces.get(table, _Piece()).whole]
        self._cut = {table: needed[table] for table in untrained if self._shapes[table] != needed[table]}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name to shape of every tensor that an exported folder has, and of what the base has besides."""
        return self._shapes | {name: self._needed[name] for name in (*self._pieces, *self._cut)}

    def position(self, name: str) -> tuple[str, str]:
        """A sort key that keeps reading of many tensors within one file after the other."""
        whole = self._pieces[name].whole if name in self._pieces else None
        if whole:
            return str(self._path), f"{self._trained[whole].data_ptr():020}"
        if name in self._sam2:
            return str(self._sam2_path), f"{self._sam2[name].data_ptr():020}"
        return self._base.position(name)

    def read(self, name: str) -> torch.Tensor:
        """The tensor, on the CPU, at its file's dtype, or float32 when LoRA was merged into it."""
        piece = self._pieces.get(name, _Piece())
        if piece.whole:
            tensor = self._trained[piece.whole]
        else:
            tensor = self._sam2[name] if name in self._sam2 else self._base.read(name)
        if name in self._cut:
            tensor = tensor[: self._cut[name][0]]
        if piece.down and piece.up:
            return merge(tensor, self._trained[piece.down], self._trained[piece.up], piece.scale)
        return tensor

    def is_trained(self, name: str) -> bool:
        """Whether the checkpoint has a part in the tensor."""
        return name in self._pieces

    def _refuse_homeless(self) -> None:
        homeless = {name: piece for name, piece in self._pieces.items() if name not in self._needed}
        if homeless:
            raws = [str(piece.whole or piece.down) for piece in homeless.values()]
            raise UnavailableError(
                f"{self._path} holds trained tensors that fit nothing in the model ({len(raws)}): {listed(raws)}.",
                hint="Left out, they would change masks in silence. Its base is another model, of another size or "
                "kind; watcherd inspect-model says which one its training names.",
            )

    def _refuse_misfits(self, origin: Trained) -> None:
        wrong: list[str] = []
        for name, piece in self._pieces.items():
            need = self._needed[name]
            found = tuple(self._trained[piece.whole].shape) if piece.whole else self._shapes.get(name)
            if piece.whole and found != need:
                if name in self._tables and found is not None and found[1:] == need[1:]:
                    raise _rows(f"{piece.whole} in {self._path}", found[0], need[0], origin)
                wrong.append(f"{piece.whole} is {found}, expected {need}")
            if piece.down and piece.up:
                update = (self._trained[piece.up].shape[0], *self._trained[piece.down].shape[1:])
                wrong += [f"{piece.down} and its other half make {update}, expected {need}"] if update != need else []
        if wrong:
            raise UnavailableError(
                "\n".join([f"Tensors in {self._path} are not of the base's shapes ({len(wrong)}):", *_some(wrong)]),
                hint=f"It was trained on another model than {self.folder}; watcherd inspect-model says which one.",
            )

    def _refuse_holes(self, origin: Trained) -> None:
        whole = {name for name, piece in self._pieces.items() if piece.whole}
        missing = sorted(self._needed.keys() - self._shapes.keys() - whole)
        if missing:
            raise UnavailableError(
                f"{self._path} and its base {self.folder} together lack {len(missing)} tensors: {listed(missing)}.",
                hint="The base must hold all that was not trained: an InternVL with SAM2's file beside it, or a Sa2VA.",
            )
        for name in self._tables:
            if name not in whole and self._shapes[name][0] < self._needed[name][0]:
                raise _rows(f"{name} in {self.folder}", self._shapes[name][0], self._needed[name][0], origin)


def sha256(path: Path) -> str:
    """The file's SHA-256, 64 hex digits. Raises `UnavailableError` when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while part := file.read(_HASHED_AT_ONCE):
                digest.update(part)
    except OSError as error:
        raise UnavailableError(
            f"{path} cannot be read: {error.strerror}.", hint="Check the file and its disk."
        ) from error
    return digest.hexdigest()


def exported_name(raw: str, family: Family = INTERNVL) -> str:
    """A training's name as an exported folder has it."""
    return canonical(_layer_scale(plain_name(raw.removeprefix(family.wrapped))), family)


def sam2_name(raw: str) -> str:
    """A name in SAM2's own file as an exported folder has it."""
    return SAM2 + _layer_scale(raw)


def _layer_scale(name: str) -> str:
    return re.sub(r"\.gamma$", ".g_weight", name)


def state_of(content: Mapping[Any, Any], path: Path) -> dict[str, torch.Tensor]:
    """The weights among what a training wrote, or the file's own dictionary where it is nothing but weights."""
    state = content.get("state_dict", content)
    if not isinstance(state, dict):
        raise UnavailableError(
            f"{path} has a state_dict that is {type(state).__name__}, not weights.",
            hint="Give the checkpoint that the training run wrote: iter_*.pth.",
        )
    return pickled.tensors(state, path)


def _pieces(raws: Mapping[str, tuple[int, ...]], notes: Notes, path: Path, family: Family) -> dict[str, _Piece]:
    """Of which raw tensors each trained one is made, under the exported folder's names.

    Raises `UnavailableError` for parts of adapters that are no plain LoRA, for half a pair, and for two raw names that
    mean one tensor.
    """
    pieces: dict[str, _Piece] = {}
    pairs: set[str] = set()
    for raw, shape in raws.items():
        if ".original_module." in raw or ".lora_" in raw:
            up = raw.replace(".lora_A.default.weight", ".lora_B.default.weight")
            if up != raw and up in raws:
                pairs |= {raw, up}
                name = exported_name(raw.partition(".lora_A.")[0], family) + ".weight"
                piece = pieces.setdefault(name, _Piece())
                if shape[:1] != raws[up][1:]:
                    raise UnavailableError(f"The halves of LoRA in {path} do not fit: {raw} {shape}, {up} {raws[up]}.")
                piece.down, piece.up = raw, up
                part = "vision_model" if name.startswith(family.vision) else "language_model"
                piece.scale = notes.scale(part, shape[0], path)
            continue
        piece = pieces.setdefault(exported_name(raw, family), _Piece())
        if piece.whole is not None:
            raise UnavailableError(f"{path} holds one tensor under two names: {piece.whole} and {raw}.")
        piece.whole = raw
    _refuse_other_adapters({raw for raw in raws if ".lora_" in raw} ^ pairs, path)
    return pieces


def _refuse_other_adapters(raws: set[str], path: Path) -> None:
    if raws:
        kind = "DoRA's magnitudes" if any("magnitude" in raw for raw in raws) else "parts of adapters"
        raise UnavailableError(
            f"{path} holds {kind} that are not merged here: {listed(sorted(raws))}.",
            hint="Only both factors of one plain LoRA are (no DoRA, no embeddings); merge it where it was trained "
            "(peft: merge_and_unload).",
        )


def _sam2_tensors(path: Path, needed: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    content = pickled.read(path)
    inner = content.get("model", content)
    if not isinstance(inner, dict):
        raise UnavailableError(f"{path} is no file of SAM2's weights.", hint="Download sam2_hiera_large.pt again.")
    found = {sam2_name(raw): tensor for raw, tensor in pickled.tensors(inner, path).items()}
    wanted = {name: shape for name, shape in needed.items() if name.startswith(SAM2)}
    wrong = [f"not there: {name.removeprefix(SAM2)}" for name in sorted(wanted.keys() - found.keys())]
    wrong += [f"not of this model: {name.removeprefix(SAM2)}" for name in sorted(found.keys() - wanted.keys())]
    wrong += [
        f"{name.removeprefix(SAM2)} is {tuple(found[name].shape)}, expected {wanted[name]}"
        for name in sorted(wanted.keys() & found.keys())
        if tuple(found[name].shape) != wanted[name]
    ]
    if wrong:
        raise UnavailableError(
            "\n".join([f"{path} is not the SAM2 that Sa2VA is made of ({len(wrong)} differences):", *_some(wrong)]),
            hint="Only SAM2 (not 2.1) with the large Hiera trunk is: sam2_hiera_large.pt.",
        )
    return found


def _rows(which: str, found: int, words: int, origin: Trained) -> UnavailableError:
    return UnavailableError(
        f"{which} has {found} rows, but there are {words} words: the tokenizer in {origin.folder} with "
        f"{len(origin.added)} added ({', '.join(origin.added) or 'none'}).",
        hint="The base is another model, or its tokenizer was changed. Rows of words that were added and not trained "
        "cannot be had again: such a run keeps them with modules_to_save = ['embed_tokens', 'lm_head'].",
    )


def _some(lines: Sequence[str], limit: int = 12) -> list[str]:
    more = [f"  and {len(lines) - limit} more"] if len(lines) > limit else []
    return [*(f"  {line}" for line in lines[:limit]), *more]
