"""The house: its rooms are named in docs/architecture.md, and no part outgrows what one person keeps in mind."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "watcherd"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

MOST_AT_THE_ROOT = 16
MOST_ATTRIBUTES = 20
MOST_METHODS = 25
MOST_ARGUMENTS = 8
WITH_THREADS = ("service/", "state/", "intake/", "pipeline/", "delivery/", "notify/", "inference/pool/", "flights.py")
LONG = 40
"""Lines from which on a module's tests must be found by its name, or stand in the page."""


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                yield f"{path.relative_to(PACKAGE)}: {node.name}", node


def attributes(node: ast.ClassDef) -> set[str]:
    """Names that methods assign on ``self``."""
    return {
        target.attr
        for target in ast.walk(node)
        if isinstance(target, ast.Attribute)
        and isinstance(target.ctx, ast.Store)
        and isinstance(target.value, ast.Name)
        and target.value.id == "self"
    }


def methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [item for item in node.body if isinstance(item, ast.FunctionDef)]


def test_the_root_holds_what_all_folders_share() -> None:
    found = [path.name for path in PACKAGE.glob("*.py") if path.name not in ("__init__.py", "__main__.py")]
    assert len(found) <= MOST_AT_THE_ROOT, sorted(found)


def test_no_class_has_more_than_a_person_keeps_in_mind() -> None:
    too_large = {
        name: (len(attributes(node)), len(methods(node)))
        for name, node in classes()
        if len(attributes(node)) > MOST_ATTRIBUTES or len(methods(node)) > MOST_METHODS
    }
    assert {} == too_large


def test_no_constructor_asks_for_too_much() -> None:
    asked = {
        name: len(method.args.args) + len(method.args.kwonlyargs) - 1
        for name, node in classes()
        for method in methods(node)
        if method.name == "__init__"
    }
    assert {} == {name: count for name, count in asked.items() if count > MOST_ARGUMENTS}


def test_every_attribute_has_its_value_from_the_start() -> None:
    """In the folders where threads meet none is born outside ``__init__``: who reads it can rely on it."""
    late = {}
    for name, node in classes():
        begun = [method for method in methods(node) if method.name == "__init__"]
        if not name.startswith(WITH_THREADS) or not begun:
            continue
        if missing := attributes(node) - attributes_of(begun[0]) - declared(node):
            late[name] = sorted(missing)
    assert {} == late


def declared(node: ast.ClassDef) -> set[str]:
    """Attributes with a type in the class itself: a method that ``__init__`` calls gives them their value."""
    return {
        item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }


def attributes_of(method: ast.FunctionDef) -> set[str]:
    holder = ast.ClassDef(name="", bases=[], keywords=[], body=[method], decorator_list=[])
    return attributes(holder)


@pytest.mark.parametrize("folder", sorted(str(path.parent.relative_to(ROOT)) for path in PACKAGE.rglob("__init__.py")))
def test_every_folder_has_a_sentence(folder: str) -> None:
    assert f"| `{folder}/` |" in PAGE


@pytest.mark.parametrize("module", sorted(path.name for path in PACKAGE.glob("*.py") if path.name[0] != "_"))
def test_every_module_at_the_root_has_a_sentence(module: str) -> None:
    assert f"| `{module}` |" in PAGE


def covered_elsewhere() -> dict[str, list[str]]:
    """The page's table: which tests cover a module that has none of its own name."""
    rows = re.findall(r"^\| `(watcherd/[a-z0-9_/]+\.py)` \| (.+?) \|$", PAGE, re.MULTILINE)
    return {module: re.findall(r"`(tests/[^`]+)`", tests) for module, tests in rows}


def test_the_tests_of_a_module_are_found() -> None:
    """By its name, or in the page's table; and the table has no row too many."""
    named = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    elsewhere = covered_elsewhere()
    long = {
        str(path.relative_to(ROOT)): f"test_{path.stem}.py" in named
        for path in modules()
        if len(path.read_text(encoding="utf-8").splitlines()) > LONG
    }
    assert [] == [module for module, found in long.items() if not found and module not in elsewhere]
    assert [] == [module for module in elsewhere if long.get(module, True)]
    assert [] == [test for tests in elsewhere.values() for test in tests if not (ROOT / test).exists()]
