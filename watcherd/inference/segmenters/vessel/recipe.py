"""``config.json``: which network, and how each kind of image is brought to it and judged."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from watcherd.errors import UnavailableError
from watcherd.inference import folders

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from watcherd.inference.segmenters.vessel.picture import Kind

FORMAT = 2
ARCHITECTURES = {1: "SegResNet", 2: "Compact"}
"""The network of each format that is understood."""
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
FILES = (CONFIG, WEIGHTS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manner:
    """How one kind of image is treated.

    ``members``: which of the networks are asked. ``sides``: the field's longest side in pixels at the network's
    input; all answers are averaged. ``shift`` is taken off the logit, and ``slope`` multiplies what is left: they were
    chosen on validation images, so that probabilities are frequencies (in format 1 only the border is right).
    ``smallest``: connected parts of a mask with a smaller share of the field's area are dropped. ``glance``: the side
    at which it is found out whether vessels are bright.
    """

    members: tuple[int, ...]
    sides: tuple[int, ...]
    shift: float
    smallest: float
    slope: float = 1.0
    glance: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A checked ``config.json``. ``network``: arguments of the ``architecture``; ``members``: how many of them the
    weights hold. ``window``: the longest side in pixels that goes through a network at once; ``overlap``: of windows
    beyond that."""

    name: str
    architecture: str
    network: Mapping[str, Any]
    members: int
    window: int
    overlap: float
    manners: Mapping[Kind, Manner]

    @classmethod
    def read(cls, folder: Path) -> Recipe:
        """The recipe in a model's folder; `UnavailableError` says what is missing or wrong there."""
        folders.refuse_unreadable(folder)
        for name in FILES:
            if not (folder / name).is_file():
                raise UnavailableError(
                    f"The model folder {folder} has no {name}.",
                    hint="A vessel model is a folder with config.json and model.safetensors, as training/export.py "
                    "writes it. Leave model.path empty for the model that comes with watcherd.",
                )
        try:
            return cls.parse(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
        except (KeyError, TypeError, ValueError) as error:
            raise UnavailableError(
                f"{folder / CONFIG} does not describe a vessel model: {error!r}.",
                hint="docs/vessel-model.md lists its keys; training/export.py writes it.",
            ) from error

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Recipe:
        """Raises KeyError, TypeError or ValueError on what it does not understand."""
        if values["format"] not in ARCHITECTURES:
            raise ValueError(f"format {values['format']} is not {' or '.join(map(str, ARCHITECTURES))}")
        architecture = ARCHITECTURES[values["format"]]
        if values["architecture"] != architecture:
            raise ValueError(f"architecture {values['architecture']!r} is not {architecture!r}")
        manners: dict[Kind, Manner] = {}
        kinds: tuple[Kind, ...] = ("fundus", "xray")
        for kind in kinds:
            manner = values["kinds"][kind]
            manners[kind] = Manner(
                members=tuple(int(member) for member in manner["members"]),
                sides=tuple(int(side) for side in manner["sides"]),
                shift=float(manner["shift"]),
                smallest=float(manner["smallest"]),
                slope=float(manner.get("slope", 1.0)),
                glance=int(manner.get("glance", 0)),
            )
            if not manners[kind].sides or min(manners[kind].sides) < 32:
                raise ValueError(f"kinds.{kind}.sides = {manner['sides']} must be sides of 32 pixels or more")
            if not manners[kind].members or not set(manners[kind].members) <= set(range(int(values["members"]))):
                raise ValueError(
                    f"kinds.{kind}.members = {manner['members']} must be numbers below {values['members']}"
                )
        return cls(
            name=str(values["name"]),
            architecture=architecture,
            network=dict(values["network"]),
            members=int(values["members"]),
            window=int(values["window"]),
            overlap=float(values["overlap"]),
            manners=manners,
        )


def revision(folder: Path) -> str:
    """What changes whenever masks may: the first 12 hex digits of the SHA-256 of configuration and weights."""
    digest = hashlib.sha256()
    for name in FILES:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:12]
