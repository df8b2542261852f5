"""The kinds of files that a result consists of, and the libraries that only some of them need: a row for each.

A new kind needs a row here, its word in ``Output`` of `watcherd.config`, and a drawing in `watcherd.imaging.encode`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputKind:
    """One kind of file.

    ``folder``: of the outbox, unless each scan has a folder of its own. ``suffixes``: those that such a file may have.
    ``drawn``: it is drawn by an imaging worker, and the configuration may ask for it.
    """

    name: str
    folder: str
    suffixes: tuple[str, ...]
    drawn: bool = True


TABLE = (
    OutputKind(name="mask", folder="masks", suffixes=(".png", ".tif", ".nii.gz")),
    OutputKind(name="overlay", folder="overlays", suffixes=(".jpg",)),
    OutputKind(name="panel", folder="panels", suffixes=(".jpg",)),
    OutputKind(name="contact-sheet", folder="contact-sheets", suffixes=(".jpg",)),
    OutputKind(name="preview", folder="previews", suffixes=(".webp",)),
    OutputKind(name="video", folder="videos", suffixes=(".mp4",)),
    OutputKind(name="probability", folder="probabilities", suffixes=(".png", ".tif")),
    OutputKind(name="dicom-seg", folder="dicom-seg", suffixes=(".dcm",)),
    OutputKind(name="result", folder="results", suffixes=(".json",), drawn=False),
    OutputKind(name="failed", folder="failed", suffixes=(".txt",), drawn=False),
)
"""In the order in which a worker draws them; then the two that are text."""

BY_NAME = {kind.name: kind for kind in TABLE}
"""Kind to its row."""

DRAWN = tuple(kind.name for kind in TABLE if kind.drawn)
"""What can be drawn, in this order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Extra:
    """Libraries that are installed only on request, because the way of most scans does without them.

    ``name``: in brackets behind watcherd, in pyproject.toml too. ``module``: as it is imported. ``library``: as people
    call it. ``output``: the kind of output that needs it, if one does. ``constrained``: it is installed with watcherd's
    constraints only, or pip replaces what others need. ``beside``: other modules that it brings.
    """

    name: str
    module: str
    library: str
    output: str | None = None
    constrained: bool = False
    beside: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """What installs it beside watcherd."""
        only = "--constraint constraints.txt " if self.constrained else ""
        return f'pip install {only}"watcherd[{self.name}]"'


VIDEO = Extra(name="video", module="av", library="PyAV", output="video")
SEG = Extra(name="seg", module="highdicom", library="highdicom", output="dicom-seg")
PLOTS = Extra(name="plots", module="matplotlib", library="matplotlib")
WEB = Extra(
    name="web",
    module="starlette",
    library="Starlette and uvicorn",
    beside=("uvicorn", "jinja2", "python_multipart", "sse_starlette"),
)
EXTRAS = (VIDEO, SEG, PLOTS, WEB)
"""Those for outputs and commands: small ones, which stand beside anything."""

NNUNET = Extra(name="nnunet", module="nnunetv2", library="nnU-Net v2 (nnunetv2)", constrained=True)
"""That of the segmenter nnunet. It asks for libraries that need a build fitting that of torch."""

CLUSTER = Extra(name="cluster", module="ray", library="Ray")
"""That of `[cluster]`: large, and nothing of it is imported where ``cluster.engine`` is empty."""

EXTRA_BY_MODULE = {module: extra for extra in (*EXTRAS, NNUNET, CLUSTER) for module in (extra.module, *extra.beside)}
"""Module to its row."""

EXTRA_BY_OUTPUT = {extra.output: extra for extra in EXTRAS if extra.output is not None}
"""Kind of output to the row that it needs."""
