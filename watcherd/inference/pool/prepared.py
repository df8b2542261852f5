"""How a model's processes are started: forked from one that has the imports done, or anew.

One such process serves all models of the service, those that are configured at its first use. It is multiprocessing's
fork server: it ends with this process, and is started again when it has died.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import threading
from typing import TYPE_CHECKING, TypeVar

from watcherd.inference.replica.imports import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from multiprocessing.context import ForkServerContext, SpawnContext
    from pathlib import Path

    from watcherd.config import Model

_COMMON = (
    "watcherd.__main__",  # a child of the installed command imports its script
    "accelerate",
    "watcherd.inference.checks",
    "watcherd.inference.pool.sharing",
    "watcherd.inference.replica.process",
    "watcherd.inference.replica.work",
    "watcherd.inference.replica.vram",
)
_OF = {
    "sa2va": ("watcherd.inference.segmenters.sa2va.segmenter",),
    "sam3": ("watcherd.inference.segmenters.sam3.segmenter", "transformers.models.sam3.modeling_sam3"),
    "semantic": (
        "watcherd.inference.segmenters.semantic.segmenter",
        "transformers.models.auto.modeling_auto",
        "transformers.models.auto.image_processing_auto",
        "transformers.modeling_utils",
    ),
}
"""The modules of those segmenters whose imports take seconds. The others are started anew: they need little, or it is
not known what they do while they are imported."""

_TYPE = re.compile(r"[a-z0-9_]+")

T = TypeVar("T")


class _Server:
    """multiprocessing's fork server, of which a process has one. Any thread uses it, behind a lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_usable = True

    def context(self, models: Sequence[Model]) -> ForkServerContext | None:
        """To fork from it; None for models whose processes are not forked."""
        if not self._is_usable or not models or any(model.segmenter not in _OF for model in models):
            return None
        with self._lock:
            wanted = dict.fromkeys(filter(None, os.environ.get(NAMES, "").split(",")))
            wanted |= dict.fromkeys([*_COMMON, *(name for model in models for name in _modules(model))])
            os.environ[NAMES] = ",".join(wanted)  # read by the server alone, when it starts
            found = multiprocessing.get_context("forkserver")
            found.set_forkserver_preload(["watcherd.inference.replica.forked"])
        return found

    def give_up(self) -> None:
        """It does not start, or its forks are of no use: do not let everybody wait for it again."""
        self._is_usable = False


_server = _Server()


def start(models: Iterable[Model], begin: Callable[[ForkServerContext | SpawnContext], T]) -> T:
    """Have ``begin`` start a process for these models, with their imports done where that can be."""
    if (forking := _server.context(list(models))) is not None:
        try:
            return begin(forking)
        except (EOFError, ConnectionError):  # it has ended: see `replica.imports`
            _server.give_up()
    return begin(multiprocessing.get_context("spawn"))


def give_up() -> None:
    """Fork no more: what was forked cannot work on this machine."""
    _server.give_up()


def _modules(model: Model) -> list[str]:
    names = list(_OF[model.segmenter])
    if model.segmenter == "semantic" and (kind := _type(model.path)):
        names += [f"transformers.models.{kind}.{part}_{kind}" for part in ("modeling", "image_processing")]
    return names


def _type(folder: Path | None) -> str:
    """What the folder's ``config.json`` calls its model; empty where it does not say: loading tells what is wrong."""
    try:
        found = json.loads((folder / "config.json").read_text())["model_type"] if folder else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return found if isinstance(found, str) and _TYPE.fullmatch(found) else ""
