"""The segmenters by their names: those that come with watcherd, and others' through the entry points.

Nothing is imported before it is asked for, so that a replica holds only the libraries of its own model.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, cast

from watcherd.errors import ConfigError, UnavailableError, WatcherdError
from watcherd.inference import builds, folders

if TYPE_CHECKING:
    from collections.abc import Callable

    from watcherd.config import Model
    from watcherd.inference.base import Segmenter

GROUP = "watcherd.segmenters"
"""The entry-point group; each entry is a callable that takes a `watcherd.config.Model` and gives a `Segmenter`."""

BUILT_IN = {
    "fake": "watcherd.inference.fake:create",
    "nnunet": "watcherd.inference.segmenters.nnunet:create",
    "none": "watcherd.inference.segmenters.none:create",
    "sa2va": "watcherd.inference.segmenters.sa2va:create",
    "sam3": "watcherd.inference.segmenters.sam3:create",
    "semantic": "watcherd.inference.segmenters.semantic:create",
    "vessel": "watcherd.inference.segmenters.vessel:create",
    "vesselness": "watcherd.inference.segmenters.vesselness:create",
}
"""Where the built-in ones are made. Their names cannot be taken by others."""

NEED_FOLDER = frozenset({"nnunet", "sa2va", "sam3", "semantic"})
"""Those of them that run no model without ``model.path``."""

OF_TRANSFORMERS = frozenset({"sa2va", "sam3", "semantic"})
"""Those of them whose modules are transformers', which imports torchvision where it is installed."""

FOLLOW_RUNS = frozenset({"sa2va"})
"""Those of them that follow the frames of a run (`watcherd.inference.base.RunSegmenter`), known without loading any."""


def names() -> tuple[str, ...]:
    """Every name that ``model.segmenter`` may have here."""
    return tuple(sorted({*BUILT_IN, *(entry.name for entry in entry_points(group=GROUP))}))


def refuse_unknown(model: Model) -> None:
    """Raise `ConfigError` for a segmenter that nobody has, or a folder or file of its model that is not there: known
    without loading any."""
    if model.segmenter not in BUILT_IN and model.segmenter not in names():
        raise _no_such(model.segmenter)
    if model.path is None:
        if model.segmenter in NEED_FOLDER:
            raise ConfigError(
                f"The segmenter {model.segmenter} needs a model folder, and model.path is empty.",
                hint='Set path in [model], for example path = "/srv/models/segformer-vessels".',
            )
        return
    folders.refuse_missing(model.path, file_allowed=model.segmenter not in BUILT_IN)
    for key in ("checkpoint", "sam2") if model.segmenter == "sa2va" else ():
        if (file := getattr(model.sa2va, key)) is not None:
            folders.refuse_missing_file(file, f"model.sa2va.{key}")
    if model.segmenter == "nnunet":
        from watcherd.inference.segmenters.nnunet import folder

        folder.read(model)
        folder.refuse_missing_extra()


def create(model: Model) -> Segmenter:
    """The segmenter that ``model.segmenter`` names, not loaded yet.

    Raises `ConfigError` for a name that nobody has or that several packages claim, and `UnavailableError` when an
    entry point cannot be imported or fails; errors of ours go through.
    """
    if model.segmenter in OF_TRANSFORMERS:
        builds.refuse_misfit()
    factory = _built_in(model.segmenter) or _plugged_in(model.segmenter)
    try:
        return factory(model)
    except WatcherdError:
        raise
    except Exception as error:
        raise UnavailableError(
            f"The segmenter {model.segmenter!r} cannot be made: {type(error).__name__}: {error}",
            hint="This is a fault of the segmenter; run watcherd.testing's suite on it.",
        ) from error


def _built_in(name: str) -> Callable[[Model], Segmenter] | None:
    if name not in BUILT_IN:
        return None
    module, _, attribute = BUILT_IN[name].partition(":")
    return cast("Callable[[Model], Segmenter]", getattr(import_module(module), attribute))


def _plugged_in(name: str) -> Callable[[Model], Segmenter]:
    entries = tuple(entry_points(group=GROUP, name=name))
    if not entries:
        raise _no_such(name)
    if len(entries) > 1:
        packages = ", ".join(sorted(entry.dist.name if entry.dist else entry.value for entry in entries))
        raise ConfigError(f"model.segmenter = {name!r} is claimed by several packages: {packages}.")
    try:
        loaded: Any = entries[0].load()
    except Exception as error:
        raise UnavailableError(
            f"The segmenter {name!r} ({entries[0].value}) cannot be imported: {type(error).__name__}: {error}",
            hint="Install what it needs into the environment of watcherd.",
        ) from error
    return cast("Callable[[Model], Segmenter]", loaded)


def _no_such(name: str) -> ConfigError:
    return ConfigError(
        f"model.segmenter = {name!r}: there is no such segmenter; here are {', '.join(names())}.",
        hint=f"Others come with packages that have an entry point in the group {GROUP}.",
    )
