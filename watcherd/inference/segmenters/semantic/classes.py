"""Which of a model's classes become which label values of a mask."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from watcherd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from watcherd.config import Semantic

MAX_LABELS = 255


@dataclass(frozen=True, kw_only=True, slots=True)
class Classes:
    """``findings``: the model's class numbers that become label values 1, 2, ... ``names``: theirs, in that order."""

    findings: tuple[int, ...]
    names: tuple[str, ...]

    @classmethod
    def choose(cls, id2label: Mapping[int, str], setting: Semantic, *, shifted: bool = False) -> Self:
        """The configured classes, or all but the background.

        ``shifted``: the model was trained without a background (``do_reduce_labels``). Class 0 of a model whose
        classes nobody named (``LABEL_0``, ``LABEL_1``, ...) is the background, as is the custom.

        Raises `ConfigError` for numbers with a gap, for a name that the model does not have or has more than once, or
        when nothing would be left.
        """
        names = {int(number): str(name) for number, name in id2label.items()}
        if sorted(names) != list(range(len(names))):
            raise ConfigError(
                f"id2label in config.json numbers {len(names)} classes {', '.join(map(str, sorted(names)))}; they must "
                f"be 0 to {len(names) - 1}, for a model has as many outputs as id2label has entries.",
                hint="Take the config.json that was saved with these weights, or name the missing classes too.",
            )
        if setting.classes:
            findings = tuple(_number(names, wanted) for wanted in setting.classes)
        else:
            background = {name.casefold() for name in setting.background}
            unnamed = len(names) > 1 and all(re.fullmatch(r"LABEL_\d+", name) for name in names.values())
            findings = tuple(
                number
                for number, name in sorted(names.items())
                if name.casefold() not in background and not (unnamed and not shifted and number == 0)
            )
        if not findings:
            raise ConfigError(
                f"model.semantic.background = {list(setting.background)!r} leaves none of the model's classes: "
                f"{', '.join(names.values())}."
            )
        if len(findings) > MAX_LABELS:
            raise ConfigError(
                f"model.semantic.classes: a mask holds {MAX_LABELS} classes, the model has {len(findings)}.",
                hint="Name those that matter.",
            )
        return cls(findings=findings, names=tuple(names[number] for number in findings))


def _number(names: Mapping[int, str], wanted: str) -> int:
    found = [number for number, name in names.items() if name.casefold() == wanted.casefold()]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"model.semantic.classes names {wanted!r}, which {len(found)} of the model's classes are called: {found}.",
            hint="Give them names of their own in id2label of config.json.",
        )
    raise ConfigError(
        f"model.semantic.classes names {wanted!r}; the model's classes are {', '.join(map(repr, names.values()))}."
    )
