"""Write a job's results into a staging folder: masks, probability maps and pictures; and measure the masks.

Runs in a worker process. Files are not synced here: the outbox syncs a whole batch at once.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from watcherd.errors import InputError, TransientError
from watcherd.formats.npy_frames import FrameFile
from watcherd.imaging.readers.scan import BAND
from watcherd.imaging.results.measures import measure_frames
from watcherd.imaging.results.overlay import overlay, overlay_in_bands
from watcherd.imaging.results.preview import write_preview
from watcherd.imaging.results.sheets import contact_sheet, panel
from watcherd.imaging.results.video import write_video
from watcherd.imaging.values import Rendered, RenderRequest
from watcherd.imaging.verified import verified
from watcherd.outputs import DRAWN
from watcherd.values import ResultFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray

    from watcherd.values import FrameMeasure


__all__ = ["RenderRequest", "Rendered", "render"]

COMPRESSION = 1
"""Level of zlib for probability maps and TIFF pages: they are small, and time counts."""

RUNS: Final = {"compress_level": COMPRESSION, "compress_type": zlib.Z_RLE}
"""For masks: looking for runs only is as fast, and 40 % smaller than level 1 by itself."""

JPEG_QUALITY = 90

BIGTIFF_BYTES = 2**32 - 2**25

LONGEST_JPEG = 65_500
"""Pixels of a side that libjpeg writes (JPEG_MAX_DIMENSION in jmorecfg.h); the format itself would allow 65,535."""


class PictureTooLargeError(Exception):
    """The format of a picture cannot hold it."""


def render(request: RenderRequest) -> Rendered:
    """Write the files asked for.

    Raises `TransientError` when they cannot be written and `InputError` when the memory does not suffice.
    """
    try:
        return _render(request)
    except OSError as error:
        raise TransientError(
            f"The results cannot be written to {request.folder}: {error.strerror or error}.",
            hint="Make room there; the job is tried again.",
        ) from error
    except MemoryError as error:
        height, width = FrameFile(request.mask).shape[1:]
        raise InputError(
            f"The mask of {width} x {height} pixels needs more than the {request.memory_mib:,} MiB that a worker has.",
            hint="Scale the scan down, or raise limits.worker_memory_mib in the configuration.",
        ) from error


def _render(request: RenderRequest) -> Rendered:
    pixels, labels = FrameFile(request.pixels), FrameFile(request.mask)
    if pixels.shape[:3] != labels.shape:
        raise ValueError(f"the mask has the shape {labels.shape}, its scan {pixels.shape}")
    counts = [int(np.count_nonzero(frame)) for frame in labels]
    files = []
    if "mask" in request.kinds:
        files.append(_nifti_mask(request, labels) if _is_format(request, "NIFTI") else _mask(request, labels))
    drawings = _drawings(request, pixels, labels, int(np.argmax(counts)))
    wanted = [kind for kind in DRAWN if kind in request.kinds and kind in drawings]
    notes = [_drawn(request, kind, drawings[kind], files) for kind in wanted]
    if "overlay" in request.kinds:
        notes.append(_shrunk_note(pixels))
    if "dicom-seg" in request.kinds and _is_format(request, "DICOM"):
        notes.append(_dicom_seg(request, labels, files))
    return Rendered(
        files=tuple(files),
        note="; ".join(filter(None, notes)) or None,
        mask_fraction=sum(counts) / max(1, int(np.prod(labels.shape))),
        measures=_measures(request, labels, counts),
    )


def _measures(request: RenderRequest, labels: FrameFile, counts: list[int]) -> tuple[FrameMeasure, ...]:
    if not request.measure_seconds:
        return ()
    spacing = request.scan.spacing_mm if request.scan else None
    try:
        return measure_frames(labels, counts, spacing, seconds=request.measure_seconds)
    except MemoryError:
        return ()  # as where there is no time for them


def _fitting(picture: Image.Image) -> Image.Image:
    """The picture, made smaller where JPEG cannot hold its width or height."""
    longer = max(picture.size)
    if longer <= LONGEST_JPEG:
        return picture
    width, height = (max(1, round(side * LONGEST_JPEG / longer)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BOX)


def _shrunk_note(pixels: FrameFile) -> str | None:
    height, width = pixels.shape[1:3]
    if max(height, width) <= LONGEST_JPEG:
        return None
    return f"the overlay is smaller than the scan: no side of a JPEG is longer than {LONGEST_JPEG:,} pixels"


def _drawings(
    request: RenderRequest, pixels: FrameFile, labels: FrameFile, fullest: int
) -> dict[str, Callable[[], ResultFile]]:
    """How each kind is made that may be missing; pictures of one frame show the one with most mask."""
    frame_ms = request.scan.frame_ms if request.scan else None

    def one_file(kind: str, extension: str, write: Callable[..., None]) -> ResultFile:
        path = _path(request, kind, extension)
        write(path, pixels, labels, frame_ms)
        return _recorded(kind, path)

    def sheet() -> Image.Image:
        return panel(pixels[fullest], labels[fullest], frame=fullest + 1, frames=len(labels))

    found: dict[str, Callable[[], ResultFile]] = {
        "overlay": lambda: _jpeg(request, "overlay", _fitting(_overlay(pixels, labels, fullest))),
        "panel": lambda: _jpeg(request, "panel", sheet()),
    }
    if len(labels) > 1:
        found["contact-sheet"] = lambda: _jpeg(request, "contact-sheet", contact_sheet(pixels, labels))
        found["preview"] = lambda: one_file("preview", "webp", write_preview)
        found["video"] = lambda: one_file("video", "mp4", write_video)
    if (probability := request.probability) is not None:
        found["probability"] = lambda: _pages(request, "probability", FrameFile(probability), lambda frame: frame)
    return found


def _drawn(request: RenderRequest, kind: str, draw: Callable[[], ResultFile], files: list[ResultFile]) -> str | None:
    """Add a file; why there is none. A scan that is too large for a picture still has its mask."""
    try:
        files.append(draw())
    except MemoryError:
        for left in request.folder.glob(f"{request.stem}.{kind}.*"):
            left.unlink()
        return (
            f"there is no {kind}: it needs more than the {request.memory_mib:,} MiB that a worker has "
            "(limits.worker_memory_mib)"
        )
    except PictureTooLargeError as error:
        return f"there is no {kind}: {error}"
    return None


def _overlay(pixels: FrameFile, labels: FrameFile, index: int) -> Image.Image:
    """Of a large frame piece by piece: all that is computed for an overlay takes twenty times the frame's memory."""
    height, width = labels.shape[1:]
    rows = max(1, BAND // width)
    if rows >= height:
        return Image.fromarray(overlay(pixels[index], labels[index]))
    scan, mask = pixels[index], labels[index]
    picture = Image.new("RGB", (width, height))
    for top, drawn in overlay_in_bands(height, width, lambda some: (scan[some], mask[some]), rows):
        picture.paste(Image.fromarray(drawn), (0, top))
    return picture


def _is_format(request: RenderRequest, name: str) -> bool:
    return request.source is not None and request.scan is not None and request.scan.format == name


def _source(request: RenderRequest) -> AbstractContextManager[Path]:
    """The scan's own file, and nothing else, where its hash is known."""
    assert request.source is not None
    return verified(request.source, request.sha256) if request.sha256 else nullcontext(request.source)


def _nifti_mask(request: RenderRequest, labels: FrameFile) -> ResultFile:
    """In place of pages: who works with volumes needs the source's geometry."""
    from watcherd.imaging.results.nifti_mask import write_nifti_mask  # slow to import, and most scans are pictures

    path = _path(request, "mask", "nii.gz")
    with _source(request) as source:
        write_nifti_mask(path, source, labels)
    return _recorded("mask", path)


def _dicom_seg(request: RenderRequest, labels: FrameFile, files: list[ResultFile]) -> str | None:
    """Add a DICOM segmentation to ``files``; why there is none. A missing extra must not cost the mask."""
    from watcherd.imaging.results.dicom_seg import CannotSegmentError, write_dicom_seg  # slow to import

    path = _path(request, "dicom-seg", "dcm")
    try:
        with _source(request) as source:
            write_dicom_seg(
                path,
                source,
                labels,
                classes=request.classes,
                names=request.labels,
                revision=request.revision,
                memory_mib=request.memory_mib,
            )
    except CannotSegmentError as error:
        path.unlink(missing_ok=True)
        return f"There is no DICOM segmentation: {error}"
    files.append(_recorded("dicom-seg", path))
    return None


def _mask(request: RenderRequest, labels: FrameFile) -> ResultFile:
    if request.classes > 1:
        return _pages(request, "mask", labels, lambda frame: frame)
    return _pages(request, "mask", labels, lambda frame: np.where(frame, np.uint8(255), np.uint8(0)))


def _pages(
    request: RenderRequest, kind: str, frames: FrameFile, shown: Callable[[NDArray[Any]], NDArray[Any]]
) -> ResultFile:
    """A PNG of a single frame, a multi-page TIFF of several; both without loss."""
    if len(frames) == 1:
        options = RUNS if kind == "mask" else {"compress_level": COMPRESSION}
        return _file(request, kind, "png", _encoded(Image.fromarray(shown(frames[0])), "PNG", **options))
    path = _path(request, kind, "tif")
    _write_tiff(path, map(shown, frames), large=int(np.prod(frames.shape)) * frames.dtype.itemsize > BIGTIFF_BYTES)
    return _recorded(kind, path)


def _write_tiff(path: Path, frames: Iterable[NDArray[Any]], *, large: bool) -> None:
    import tifffile  # slow to import, and most scans have one frame

    with tifffile.TiffWriter(path, bigtiff=large) as file:
        for frame in frames:
            file.write(
                frame,
                photometric="minisblack",
                compression="zlib",
                compressionargs={"level": COMPRESSION},
                contiguous=False,
                metadata=None,
            )


def _jpeg(request: RenderRequest, kind: str, picture: Image.Image) -> ResultFile:
    """With a colour for every pixel: the lines on a mask are thin and all colour. Raises `PictureTooLargeError`."""
    if max(picture.size) > LONGEST_JPEG:
        raise PictureTooLargeError(f"its longer side has more than {LONGEST_JPEG:,} pixels, which no JPEG may have")
    return _file(request, kind, "jpg", _encoded(picture, "JPEG", quality=JPEG_QUALITY, subsampling=0))


def _encoded(picture: Image.Image, format_name: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format_name, **options)
    return buffer.getvalue()


def _path(request: RenderRequest, kind: str, extension: str) -> Path:
    return request.folder / f"{request.stem}.{kind}.{extension}"


def _file(request: RenderRequest, kind: str, extension: str, data: bytes) -> ResultFile:
    path = _path(request, kind, extension)
    path.write_bytes(data)
    return ResultFile(kind=kind, path=path, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def _recorded(kind: str, path: Path) -> ResultFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ResultFile(kind=kind, path=path, sha256=digest, bytes=path.stat().st_size)
