"""The tree whose tests these are: they try its package, never one that is installed somewhere else.

A process of its own finds the package by where it runs, and before that, in a `sitecustomize`, by what is installed.
So every Python that a test starts is told by PYTHONPATH which package is meant, and `refuse_another_tree` sees to it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[1]
"""The tree."""

_OURS = frozenset({sys.executable, str(Path(sys.executable).with_name("watcherd"))})
"""Programs that would find the package that is installed beside them."""


def python_path(*before: Path) -> str:
    """PYTHONPATH for a process that is to find the modules in ``before``, then this tree."""
    return os.pathsep.join(map(str, (*before, ROOT)))


def refuse_another_tree(event: str, arguments: Sequence[Any]) -> None:
    """An audit hook: no Python of this environment is started without being told which package is meant.

    A test may name another one, such as the wheel that it has just installed. Raises AssertionError.
    """
    if event != "subprocess.Popen":
        return
    executable, command, _, environment = arguments
    words = {os.fsdecode(word) for word in (executable, *command) if isinstance(word, str | bytes | os.PathLike)}
    if not words & _OURS:
        return
    path = _path_of(os.environ if environment is None else environment)
    if not any(Path(folder, "watcherd", "__init__.py").exists() for folder in path if folder):
        raise AssertionError(
            f"{command} would try the package that is installed, not this tree: put tests.tree.python_path() into the "
            f"PYTHONPATH of its environment, which is {os.pathsep.join(path)!r}"
        )


def _path_of(environment: Any) -> list[str]:
    values = {os.fsdecode(key): os.fsdecode(value) for key, value in environment.items()}
    return values.get("PYTHONPATH", "").split(os.pathsep)
