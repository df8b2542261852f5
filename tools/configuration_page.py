"""Make docs/configuration.md from what the program itself goes by.

    python -m tools.configuration_page          # write it
    python -m tools.configuration_page --check  # 1 when it is not what it should be

Keys, defaults and allowed values come from the models in `watcherd/config/tables.py`, meanings from the comments of
`config.toml` (or, where there is none, from the text below the key in `watcherd/config/tables.py`), and what a reload
applies from `watcherd.config.reload.merged`.
"""

from __future__ import annotations

import ast
import re
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from watcherd import config
from watcherd.config.reload import merged

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "configuration.md"
PROFILE = "profiles.NAME"
MODELS = "models.NAME"

HEAD = """\
# Configuration

<!-- Made by `python -m tools.configuration_page` from config.toml and watcherd/config/tables.py; a test compares. -->

One TOML file. It is looked for at `--config`, `WATCHERD_CONFIG`, `./config.toml` and `/etc/watcherd/config.toml`, in
this order. Relative paths are relative to it. Every key may be left out. A line such as

```sh
WATCHERD_INBOX__SETTLE_SECONDS=5 watcherd run
```

overrides one key for one start: `WATCHERD_`, the table, `__`, the key. A mistake stops the start with exit code 78 and
a message that names the key, its value and what is allowed; `watcherd config check` says the same beforehand.

What is applied at *reload* can be changed while the service runs, by `watcherd reload` or `systemctl reload watcherd`,
for what is begun from then on; the rest at the next *start*. Scans that are queued already keep the options that they
were taken with.
"""


def tables(model: type[BaseModel] = config.Config, prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every table of the file with its model, in order."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield prefix + name, kind
            yield from tables(kind, f"{prefix}{name}.")
    if model is config.Config:
        yield PROFILE, config.Profile


NAMED = (dict[str, config.Profile], dict[str, config.Model])
"""Tables that people call as they like."""


def keys(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """The keys of one table with their fields."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)) and kind not in NAMED:
            yield name, field


# -------------------------------------------------------------------------------------------------------------- values


def allowed(kind: Any, limits: list[Any]) -> str:
    """What a key of this type may be, in words."""
    metadata = getattr(kind, "__metadata__", None)
    if metadata is not None:
        return allowed(get_args(kind)[0], [*limits, *(found for each in metadata for found in _limits(each))])
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(f"`{word}`" for word in arguments)
    if origin in (types.UnionType, Union):
        arms = [allowed(arm, limits) for arm in arguments if arm is not type(None)]
        return " or ".join(dict.fromkeys(arms))
    if origin is tuple:
        return f"list of {allowed(arguments[0], [])}"
    if origin is dict:
        return "table of texts"
    return {bool: "`true`, `false`", int: "whole number", float: "number", Path: "path"}.get(kind, "text") + _range(
        limits
    )


def _limits(metadata: Any) -> list[Any]:
    return list(getattr(metadata, "metadata", [metadata]))


def _range(limits: list[Any]) -> str:
    bounds = {name: value for each in limits for name, value in vars_of(each).items()}
    if "ge" in bounds and ("le" in bounds or "lt" in bounds):
        end = bounds.get("le") or (bounds["lt"] - 1 if bounds["lt"] > 1 else f"below {bounds['lt']}")
        return f", {bounds['ge']} to {end}"
    if "gt" in bounds:
        return f", more than {bounds['gt']}"
    return f", {bounds['ge']} or more" if "ge" in bounds else ""


def vars_of(limit: Any) -> dict[str, Any]:
    """The bounds that one piece of pydantic's metadata sets."""
    return {name: getattr(limit, name) for name in ("gt", "ge", "lt", "le") if getattr(limit, name, None) is not None}


def as_toml(value: Any) -> str:
    """A default as it would stand in the file."""
    match value:
        case None:
            return '""'
        case bool():
            return str(value).lower()
        case tuple() | list():
            return "[" + ", ".join(map(as_toml, value)) + "]"
        case dict():
            return "{}"
        case int() if value >= 1_000_000:
            return f"{value:_}"
        case int() | float():
            return str(value)
        case _:
            return f'"{value}"'


# ------------------------------------------------------------------------------------------------------------ meanings


def comments() -> dict[str, str]:
    """What config.toml says about each table and key."""
    found: dict[str, str] = {}
    table, above = "", ""
    for line in (ROOT / "config.toml").read_text(encoding="utf-8").splitlines():
        if head := re.fullmatch(r"(?:# )?\[([\w.]+)\]", line):
            table = {"profiles": PROFILE, "models": MODELS}.get(head[1].partition(".")[0], head[1])
            found[table], above = above, ""
        elif key := re.fullmatch(r"(?:# )?(\w+) = (.*?)(?:\s+# (.*))?", line):
            found[f"{table}.{key[1]}"] = key[3] or above
            above = ""
        elif comment := re.fullmatch(r"# (.+)", line):
            above = f"{above} {comment[1]}".strip()
        else:
            above = ""
    return found


def texts_below_keys() -> dict[str, str]:
    """What stands below keys in watcherd/config/tables.py, by class and key."""
    found = {}
    for node in ast.parse((ROOT / "watcherd" / "config" / "tables.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            for key, text in zip(node.body, node.body[1:], strict=False):
                if (
                    isinstance(key, ast.AnnAssign)
                    and isinstance(key.target, ast.Name)
                    and isinstance(text, ast.Expr)
                    and isinstance(text.value, ast.Constant)
                ):
                    found[f"{node.name}.{key.target.id}"] = " ".join(str(text.value.value).split())
    return found


def in_words(comment: str, kind: Any) -> str:
    """A comment without the list of allowed words, which has a column of its own, and safe in a table's cell."""
    words = re.findall(r"`([^`]+)`", allowed(kind, []))
    parts = [
        re.sub(r"(^|: ?)([\w-]+)$", lambda last: "" if last[2] in words else last[0], each)
        for each in comment.split(" | ")
    ]
    text = "; ".join(filter(None, parts)).replace("<", "&lt;").replace("|", "\\|")
    return with_links(text[:1].lower() + text[1:].rstrip(".") if text[1:2].islower() else text)


def with_links(text: str) -> str:
    """Pages of the documentation as links."""
    return re.sub(r"\bdocs/([\w-]+\.md)", r"[\1](\1)", text)


# --------------------------------------------------------------------------------------------------------------- reload


def reloads(table: str, key: str) -> bool:
    """Whether a running service takes a new value of this key over."""
    if table == PROFILE:
        return True
    old, new = config.Config(), object()
    applied, _ = merged(old, _with(old, [*table.split("."), key], new))
    for name in (*table.split("."), key):
        applied = getattr(applied, name)
    return applied is new


def _with(model: BaseModel, path: list[str], value: object) -> Any:
    first, *rest = path
    return model.model_copy(update={first: _with(getattr(model, first), rest, value) if rest else value})


# ----------------------------------------------------------------------------------------------------------------- page


def page() -> str:
    """The whole page."""
    said, below = comments(), texts_below_keys()
    parts = [HEAD]
    for table, model in tables():
        above = with_links(said.get(table) or str(model.__doc__)).replace("<", "&lt;")
        parts.append(f"\n## `[{table}]`\n\n{above}\n")
        parts.append("| key | default | allowed | meaning | applied at |\n|---|---|---|---|---|")
        for key, field in keys(model):
            comment = said.get(f"{table}.{key}") or below.get(f"{model.__name__}.{key}", "")
            if not (meaning := in_words(comment, field.annotation)):
                raise SystemExit(f"{table}.{key} has no meaning: give it a comment in config.toml")
            default = "as for all" if table == PROFILE and not field.is_required() else as_toml(field.default)
            cells = (
                f"`{key}`",
                "needed" if field.is_required() else default if default == "as for all" else f"`{default}`",
                allowed(field.annotation, list(field.metadata)),
                meaning,
                "reload" if reloads(table, key) else "start",
            )
            parts.append("| " + " | ".join(cells) + " |")
        if table == "model.semantic":
            parts.append(f"\n## `[{MODELS}]`\n\n{with_links(said[MODELS])} All of it is applied at reload.")
    return "\n".join(parts) + "\n"


def main() -> int:
    """Write the page, or compare it."""
    if "--check" in sys.argv[1:]:
        return int(PAGE.read_text(encoding="utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
