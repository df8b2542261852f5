"""What a training run wrote beside its weights: the iteration, and its configuration as Python text.

The text is parsed and never run. Only plain values are taken: constants, lists, dictionaries and ``dict(...)``.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from watcherd.errors import UnavailableError
from watcherd.inference.segmenters.sa2va.checkpoint import NOT_MERGED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

LONGEST = 4_000_000
"""Characters of the longest configuration that is parsed; real ones have some ten thousand."""

SPECIAL_TOKENS = ("[SEG]", "<p>", "</p>", "<vp>", "</vp>")
"""Words that a Sa2VA run adds behind the base's, where its configuration does not list them."""

BASE_KEYS = ("path", "model_path", "pretrained_model_name_or_path", "pretrained_pth")
"""Keys of the configuration that name what the training began with."""

REFUSED = ("use_dora", "use_rslora", *(key for key in NOT_MERGED if key != "use_dora"))
"""Settings of an adapter by which an update is more than one product times lora_alpha over the rank."""


class _Unknown:
    """A value that is more than plain text, numbers and containers."""


UNKNOWN = _Unknown()


@dataclass(frozen=True, kw_only=True, slots=True)
class Notes:
    """``said``: the values of the configuration by their names; ``fault``: why it could not be read, if so."""

    iteration: int | None = None
    said: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""

    @property
    def template(self) -> str | None:
        """The prompt template that the model was trained with."""
        return next((value for value in _found(self.said, "template") if isinstance(value, str)), None)

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Words that were added to the vocabulary, in this order."""
        for value in _found(self.said, "special_tokens"):
            if isinstance(value, list) and value and all(isinstance(word, str) for word in value):
                return tuple(value)
        return SPECIAL_TOKENS

    @property
    def bases(self) -> tuple[str, ...]:
        """Where the training's beginnings lay, as the configuration names them."""
        names = [value for key in BASE_KEYS for value in _found(self.said, key) if isinstance(value, str) and value]
        return tuple(dict.fromkeys(names))

    def names_base(self, folder: Path) -> bool:
        """Whether ``folder`` is called like a beginning of the training; in a download's cache its repository is."""
        called = {folder.name.lower()}
        if folder.parent.name == "snapshots":
            called.add(folder.parent.parent.name.rpartition("--")[2].lower())
        return any(name in called for base in self.bases for name in _last_parts(base))

    def scale(self, part: str, rank: int, path: Path) -> float:
        """By what updates of ``rank`` are multiplied in ``part``, ``vision_model`` or another: lora_alpha over rank.

        Raises `UnavailableError` when the configuration does not say it, or describes more than a plain LoRA.
        """
        wanted = "visual_encoder_lora" if part == "vision_model" else "llm_lora"
        adapters = [value for value in _found(self.said, wanted) if isinstance(value, dict)]
        adapters = adapters or list(_with_key(self.said, "lora_alpha"))
        for adapter in adapters:
            _refuse_more_than_lora(adapter, rank, path)
        alphas = {_number(adapter.get("lora_alpha")) for adapter in adapters}
        alpha = alphas.pop() if len(alphas) == 1 else None
        if alpha is None:
            why = self.fault or "its configuration (meta.cfg) does not say lora_alpha once and as a number"
            raise UnavailableError(
                f"{path} holds LoRA of rank {rank}, and nothing says by what it is to be scaled: {why}.",
                hint="lora_alpha is in no tensor. Put the text of the run's configuration into the file, as "
                '["meta"]["cfg"]; docs/sa2va.md shows how.',
            )
        return alpha / rank


def read(meta: object) -> Notes:
    """The notes in a checkpoint's ``meta``; empty ones with the reason where there are none."""
    if not isinstance(meta, dict):
        return Notes(fault="it holds no notes of its training (meta)")
    iteration = meta.get("iter")
    number = iteration if isinstance(iteration, int) and not isinstance(iteration, bool) and iteration >= 0 else None
    text = meta.get("cfg")
    if not isinstance(text, str) or not text.strip():
        return Notes(iteration=number, fault="it holds no configuration of its training (meta.cfg)")
    if len(text) > LONGEST:
        return Notes(iteration=number, fault=f"its configuration (meta.cfg) has {len(text)} characters")
    try:
        return Notes(iteration=number, said=_assignments(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Notes(iteration=number, fault=f"its configuration (meta.cfg) is not Python: {error}")


def _assignments(module: ast.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for node in module.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = _value(node.value, found)
    return found


def _value(node: ast.expr, known: Mapping[str, Any]) -> Any:
    """What an expression says, as far as it needs no running; a name stands for what was assigned to it before."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return known.get(node.id, UNKNOWN)
        case ast.List() | ast.Tuple() | ast.Set():
            return [_value(each, known) for each in node.elts]
        case ast.Dict():
            pairs = zip(node.keys, node.values, strict=True)
            return {k.value: _value(v, known) for k, v in pairs if isinstance(k, ast.Constant)}
        case ast.Call(func=ast.Name(id="dict"), args=[]):
            return {each.arg: _value(each.value, known) for each in node.keywords if each.arg}
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
    return UNKNOWN


def _found(said: object, key: str) -> Iterator[Any]:
    """Every value of ``key``, the outermost first."""
    if isinstance(said, dict):
        if key in said:
            yield said[key]
        for value in said.values():
            yield from _found(value, key)
    elif isinstance(said, list):
        for value in said:
            yield from _found(value, key)


def _with_key(said: object, key: str) -> Iterator[dict[str, Any]]:
    """Every dictionary that has ``key``."""
    if isinstance(said, dict):
        if key in said:
            yield said
        for value in said.values():
            yield from _with_key(value, key)
    elif isinstance(said, list):
        for value in said:
            yield from _with_key(value, key)


def _refuse_more_than_lora(adapter: Mapping[str, Any], rank: int, path: Path) -> None:
    said = [f"{key} = {adapter[key]!r}" for key in REFUSED if adapter.get(key)]
    if isinstance(adapter.get("r"), int) and adapter["r"] != rank:
        said.append(f"r = {adapter['r']}, but the weights have {rank}")
    if said:
        raise UnavailableError(
            f"{path} was trained with an adapter that cannot be merged here: {'; '.join(said)}.",
            hint="Only plain LoRA is: no DoRA, no rslora. Merge it where it was trained (peft: merge_and_unload).",
        )


def _number(value: object) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return float(value) if good else None  # type: ignore[arg-type] # a number, as was just seen


def _last_parts(path: str) -> set[str]:
    """The last part of a path of either kind, with and without what may be an extension."""
    name = PureWindowsPath(PurePosixPath(path.rstrip("/\\")).name).name.lower()
    return {name, name.removesuffix(".pth")} - {""}
