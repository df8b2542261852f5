"""The kinds of files that a result consists of: a row for each.

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
