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
from watcherd.frames import FrameFile
from watcherd.imaging.measures import measure_frames
from watcherd.imaging.overlay import overlay
from watcherd.imaging.preview import write_preview
from watcherd.imaging.sheets import contact_sheet, panel
from watcherd.imaging.values import KINDS, Rendered, RenderedFile, RenderRequest
from watcherd.imaging.verified import verified
from watcherd.imaging.video import write_video

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray

    from watcherd.imaging.values import FrameMeasures


__all__ = ["KINDS", "RenderRequest", "Rendered", "RenderedFile", "render"]

COMPRESSION = 1
"""zlib's level for probability maps and TIFF pages: results are small, and time is what counts."""

RUNS: Final = {"compress_level": COMPRESSION, "compress_type": zlib.Z_RLE}
"""For masks: looking for runs only is as fast, and 40 % smaller than level 1 by itself."""

JPEG_QUALITY = 90

JPEG_SIDE = 65_500
"""Pixels that libjpeg allows for a side; the format itself would allow 65,535."""

BIGTIFF_BYTES = 2**32 - 2**25


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
        raise InputError(
            f"The scan needs more than {request.memory_mib} MiB to draw.",
            hint="Scale it down, or raise limits.worker_memory_mib in the configuration.",
        ) from error


def _render(request: RenderRequest) -> Rendered:
    pixels, labels = FrameFile(request.pixels), FrameFile(request.mask)
    if pixels.shape[:3] != labels.shape:
        raise ValueError(f"the mask has the shape {labels.shape}, its scan {pixels.shape}")
    counts = [int(np.count_nonzero(frame)) for frame in labels]
    files = []
    if "mask" in request.kinds:
        files.append(_nifti_mask(request, labels) if _is_format(request, "NIFTI") else _mask(request, labels))
    files += _stills(request, pixels, labels, int(np.argmax(counts)))
    if len(labels) > 1:
        files += _of_a_run(request, pixels, labels)
    if "probability" in request.kinds and request.probability is not None:
        files.append(_pages(request, "probability", FrameFile(request.probability), lambda frame: frame))
    notes = [_shrunk_note(pixels)] if "overlay" in request.kinds else []
    if "dicom-seg" in request.kinds and _is_format(request, "DICOM"):
        notes.append(_dicom_seg(request, labels, files))
    return Rendered(
        files=tuple(files),
        note=" ".join(note for note in notes if note) or None,
        mask_fraction=sum(counts) / max(1, int(np.prod(labels.shape))),
        measures=_measures(request, labels, counts),
    )


def _measures(request: RenderRequest, labels: FrameFile, counts: list[int]) -> tuple[FrameMeasures, ...]:
    if not request.measure_seconds:
        return ()
    spacing = request.scan.spacing_mm if request.scan else None
    return measure_frames(labels, counts, spacing, seconds=request.measure_seconds)


def _stills(request: RenderRequest, pixels: FrameFile, labels: FrameFile, fullest: int) -> Iterator[RenderedFile]:
    """Pictures of one frame: of a run the one with most mask."""
    if "overlay" in request.kinds:
        yield _jpeg(request, "overlay", _fitting(Image.fromarray(overlay(pixels[fullest], labels[fullest]))))
    if "panel" in request.kinds:
        sheet = panel(pixels[fullest], labels[fullest], frame=fullest + 1, frames=len(labels))
        yield _jpeg(request, "panel", sheet)


def _fitting(picture: Image.Image) -> Image.Image:
    """The picture, made smaller where JPEG cannot hold its width or height."""
    longer = max(picture.size)
    if longer <= JPEG_SIDE:
        return picture
    width, height = (max(1, round(side * JPEG_SIDE / longer)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BOX)


def _shrunk_note(pixels: FrameFile) -> str | None:
    height, width = pixels.shape[1:3]
    if max(height, width) <= JPEG_SIDE:
        return None
    return f"The overlay is smaller than the scan: no side of a JPEG is longer than {JPEG_SIDE:,} pixels."


def _of_a_run(request: RenderRequest, pixels: FrameFile, labels: FrameFile) -> Iterator[RenderedFile]:
    """Pictures of many frames."""
    frame_ms = request.scan.frame_ms if request.scan else None
    if "contact-sheet" in request.kinds:
        yield _jpeg(request, "contact-sheet", contact_sheet(pixels, labels))
    if "preview" in request.kinds:
        path = _path(request, "preview", "webp")
        write_preview(path, pixels, labels, frame_ms)
        yield _recorded("preview", path)
    if "video" in request.kinds:
        path = _path(request, "video", "mp4")
        write_video(path, pixels, labels, frame_ms)
        yield _recorded("video", path)


def _is_format(request: RenderRequest, name: str) -> bool:
    return request.source is not None and request.scan is not None and request.scan.format == name


def _source(request: RenderRequest) -> AbstractContextManager[Path]:
    """The scan's own file, and nothing else, where its hash is known."""
    assert request.source is not None
    return verified(request.source, request.sha256) if request.sha256 else nullcontext(request.source)


def _nifti_mask(request: RenderRequest, labels: FrameFile) -> RenderedFile:
    """In place of pages: who works with volumes needs the source's geometry."""
    from watcherd.imaging.nifti_mask import write_nifti_mask  # slow to import, and most scans are pictures

    path = _path(request, "mask", "nii.gz")
    with _source(request) as source:
        write_nifti_mask(path, source, labels)
    return _recorded("mask", path)


def _dicom_seg(request: RenderRequest, labels: FrameFile, files: list[RenderedFile]) -> str | None:
    """Add a DICOM segmentation to ``files``; why there is none. A missing extra must not cost the mask."""
    from watcherd.imaging.dicom_seg import CannotSegmentError, write_dicom_seg  # slow to import

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


def _mask(request: RenderRequest, labels: FrameFile) -> RenderedFile:
    if request.classes > 1:
        return _pages(request, "mask", labels, lambda frame: frame)
    return _pages(request, "mask", labels, lambda frame: (frame != 0).astype(np.uint8) * np.uint8(255))


def _pages(
    request: RenderRequest, kind: str, frames: FrameFile, shown: Callable[[NDArray[Any]], NDArray[Any]]
) -> RenderedFile:
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


def _jpeg(request: RenderRequest, kind: str, picture: Image.Image) -> RenderedFile:
    """With a colour for every pixel: the lines on a mask are thin and all colour."""
    return _file(request, kind, "jpg", _encoded(picture, "JPEG", quality=JPEG_QUALITY, subsampling=0))


def _encoded(picture: Image.Image, format_name: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format_name, **options)
    return buffer.getvalue()


def _path(request: RenderRequest, kind: str, extension: str) -> Path:
    return request.folder / f"{request.stem}.{kind}.{extension}"


def _file(request: RenderRequest, kind: str, extension: str, data: bytes) -> RenderedFile:
    path = _path(request, kind, extension)
    path.write_bytes(data)
    return RenderedFile(kind=kind, path=path, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def _recorded(kind: str, path: Path) -> RenderedFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return RenderedFile(kind=kind, path=path, sha256=digest, bytes=path.stat().st_size)
