"""What goes to an imaging worker and what comes back: plain values.

The main process handles these, and needs neither numpy nor Pillow for it: they would be a tenth of its start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from watcherd.values import quickly_pickled

if TYPE_CHECKING:
    from pathlib import Path

    from watcherd.formats.volumes import VolumeFile
    from watcherd.values import FrameMeasure, ResultFile


@quickly_pickled
@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """A scan as frames on disk.

    ``path``: an ``.npy`` file of uint8, (frames, height, width) for grey or (frames, height, width, 3) for RGB.
    ``format``: a name in `formats.table`, such as ``PNG``.
    ``bit_depth``: of one value.
    ``window``: the values that became black and white, the first above the second where high is dark; None where the
    file's 8 bits, or its own curve, were taken as they are.
    ``spacing_mm``: (height, width) of one pixel in mm, upright as displayed; None where the file does not say.
    ``frame_ms``: from one frame to the next; None where the file does not say.
    ``tags``: DICOM attributes that the configuration asks for, by keyword.
    ``note``: what a reader of the record must know of it. ``modality``: DICOM's word for what took it (``XA``, ``OP``).
    ``pictures``: which version's picture it is (`watcherd.job.Options`). ``volume``: the file's own numbers, for models
    that take them; None where nobody asked for them.
    """

    path: Path
    frames: int
    height: int
    width: int
    colour: bool
    format: str
    bit_depth: int
    window: tuple[float, float] | None
    spacing_mm: tuple[float, float] | None = None
    frame_ms: float | None = None
    tags: dict[str, str] = field(default_factory=dict)
    note: str = ""
    modality: str = ""
    pictures: int = 0
    volume: VolumeFile | None = None


@quickly_pickled
@dataclass(frozen=True, kw_only=True, slots=True)
class RenderRequest:
    """What to draw from, and what to draw.

    ``pixels``: as `decode.decode` wrote it. ``mask``: uint8 label values, (frames, height, width), 0 for background.
    ``probability``: uint16, (frames, height, width), 65535 for certainty; needed for that kind only.
    ``folder``: where the files go, as ``<stem>.<kind>.<extension>``. ``kinds``: of `outputs.DRAWN`; a single frame has
    no contact sheet, preview or video. ``classes``: 1 gives a mask of 0 and 255, more give label values; ``labels``:
    their names, where known. ``revision``: of the model that made the mask. ``source``: the scan's own file, whose
    hash is ``sha256`` (empty: not known), and ``scan``: what `decode.decode` said of it; needed where results go back
    in the source's format, geometry or units. ``memory_mib``: what the worker has.
    ``measure_seconds``: what measures may cost (`measures.SECONDS`); 0: none are wanted.
    """

    pixels: Path
    mask: Path
    probability: Path | None = None
    folder: Path
    stem: str
    kinds: tuple[str, ...] = ("mask", "overlay")
    classes: int = 1
    labels: tuple[str, ...] = ()
    revision: str = ""
    source: Path | None = None
    sha256: str = ""
    scan: Decoded | None = None
    memory_mib: int = 2048
    measure_seconds: float = 0.0


@quickly_pickled
@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """The files, in the order of `outputs.DRAWN`, and the share of all pixels that belong to any class.

    ``measures``: of each frame, if they were asked for. ``note``: which of the files asked for is missing or smaller
    than the scan, and why; None when all are there and whole.
    """

    files: tuple[ResultFile, ...]
    mask_fraction: float
    measures: tuple[FrameMeasure, ...] = ()
    note: str | None = None
