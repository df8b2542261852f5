"""Turn a file that somebody dropped into upright 8-bit frames in an ``.npy`` file.

Runs in a worker process (`worker.start_worker`): native decoders crash and bombs explode there. Whatever a decoder
raises, the caller sees `InputError` (the scan is bad), its subclass `TruncatedError` (it may be still on its way) or
`TransientError` (the result could not be written).
"""

from __future__ import annotations

import warnings
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Self

import numpy as np
from PIL import Image, UnidentifiedImageError

from watcherd.errors import InputError, JobError
from watcherd.formats.npy_frames import FrameWriter, write_frames
from watcherd.formats.sniff import HEAD, describe, known_format, pictures
from watcherd.formats.table import BY_NAME, advised
from watcherd.formats.truncation import ends_early
from watcherd.formats.volumes import VolumeFile
from watcherd.imaging.limits import DecodeLimits
from watcherd.imaging.readers.curves import inverted, of_frame
from watcherd.imaging.readers.scan import TruncatedError, bands, tags_of, told_by, tried
from watcherd.imaging.readers.window import LEVELS_ENOUGH, Survey, Window
from watcherd.imaging.values import Decoded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from watcherd.formats.table import Format
    from watcherd.imaging.readers.curves import Shown
    from watcherd.imaging.readers.scan import Pixels, Scan, Told

    Reader = Callable[[Path, DecodeLimits], Scan]

__all__ = ["DecodeLimits", "Decoded", "TruncatedError", "decode"]

ZERO_TAIL = 512
"""Zero bytes at the end of a file that cannot be decoded, from which it counts as not written completely."""

WIDEST = 4
"""Bytes of one number in the file for models of volumes."""

AS_IT_IS = Window(low=0, high=255)
"""How 8 bits are shown that nobody says anything about."""

_ADVISED = advised()
EXPORT = f"Export the scan as {', '.join(_ADVISED[:-1])} or {_ADVISED[-1]}, or a run as a zip of these."


def decode(
    source: Path, target: Path, limits: DecodeLimits, tags: Sequence[str] = (), volume: Path | None = None
) -> Decoded:
    """Decode ``source`` into ``target`` and say what it was.

    All frames of a file, upright by their EXIF or TIFF orientation. Colours that are grey throughout are stored as
    grey. Values of more than 8 bits go through one `window.Window` for all frames. Memory holds one frame at a time.
    ``tags``: keywords of DICOM attributes whose values `Decoded` is to have. ``volume``: where the file's numbers go
    besides, as they are (`watcherd.formats.volumes.VolumeFile`), for models that take them; None: nowhere.

    Raises `InputError`, `TruncatedError` or `TransientError`; never anything else.
    """
    with _own_errors(source, limits):
        failures: list[Exception] = []
        for reader in _readers(_identify(source)):
            try:
                with closing(reader(source, limits)) as scan:
                    return replace(_stored(scan, target, limits, tags, volume), pictures=_pictures(source))
            except (JobError, MemoryError):
                raise
            except Exception as error:
                failures.append(error)
        raise failures[0]


def _pictures(source: Path) -> int:
    with source.open("rb") as file:
        return pictures(file.read(HEAD))


def _identify(source: Path) -> Format:
    """The format by content, after checks that need no decoder."""
    with source.open("rb") as file:
        head = file.read(HEAD)
        size = file.seek(0, 2)
        early = ends_early(file)
    if not head:
        raise TruncatedError("The file is empty.", hint="It was not written completely; drop it again.")
    kind = known_format(head)
    if kind is None and not head.strip(b"\0"):
        raise TruncatedError(
            "The file begins with zeros: nothing is written yet.", hint="Drop it again when it is complete."
        )
    if kind is None and not early:
        raise InputError(f"The file is not an image that can be read: it {describe(head)}.", hint=EXPORT)
    if kind is not None and kind.half_of_zeros and _ends_in_zeros(source):
        early = kind.half_of_zeros
    if early:
        raise TruncatedError(
            f"The file is truncated: it is {early} and stops after {size:,} bytes.",
            hint="The copy was interrupted; drop the file again.",
        )
    assert kind is not None
    return kind


def _readers(kind: Format) -> list[Reader]:
    """What can open a format, the likeliest first."""
    more = {"opener": _member} if kind.holds_files else {}
    return [partial(_opened, name, more) for name in kind.readers]


def _opened(reader: str, more: Mapping[str, Reader], source: Path, limits: DecodeLimits) -> Scan:
    """A file through the reader with this dotted name, which is imported only now: most are rarely needed, and slow to
    import."""
    module, _, name = reader.partition(":")
    scan: Scan = getattr(import_module(module), name)(source, limits, **more)
    return scan


def _member(source: Path, limits: DecodeLimits) -> Scan:
    """One file of a zip, through the first reader that can read its first frame."""
    readers = _readers(_identify(source))
    for reader in readers[:-1]:
        try:
            return tried(reader, source, limits)
        except (JobError, MemoryError):
            raise
        except Exception:  # noqa: S112 - the last one's error is told
            continue
    return readers[-1](source, limits)


def _stored(scan: Scan, target: Path, limits: DecodeLimits, tags: Sequence[str], volume: Path | None) -> Decoded:
    """As `_store`; when the memory does not suffice, with the scan's own figures where it is known to have some."""
    try:
        return _store(scan, target, limits, tags, volume)
    except MemoryError as error:
        size: tuple[int, int] | None = getattr(scan, "size", None)
        if size is None:
            raise
        raise InputError(
            f"The scan of {size[0]} x {size[1]} pixels, with values of {scan.bit_depth} bits, needs more than the "
            f"{limits.memory_mib:,} MiB that a worker has.",
            hint="Scale it down, or raise limits.worker_memory_mib in the configuration.",
        ) from error


def _store(scan: Scan, target: Path, limits: DecodeLimits, tags: Sequence[str], volume: Path | None) -> Decoded:
    """Look at every frame, decide window and colour for all, then write them one by one."""
    frames = _Frames(scan)
    seen, survey = _look_through(frames, scan.frames, says=BY_NAME[scan.format].says_window)
    height, width = seen[0].size
    colour = any(look.colour for look in seen)
    limits.check_bytes(len(seen) * height * width * (3 if colour else 1))
    told = told_by(scan)
    shown = _shown(told, survey)
    window = shown if isinstance(shown, Window) else None
    shape = (len(seen), height, width, 3) if colour else (len(seen), height, width)
    with _Numbers(volume, seen, limits) as numbers:
        kept = (numbers.keep(index, pixels) for index, pixels in enumerate(frames))
        painted = (_painted(pixels, shown, index, colour=colour) for index, pixels in enumerate(kept))
        write_frames(target, painted, shape, np.uint8)
    return Decoded(
        path=target,
        frames=len(seen),
        height=height,
        width=width,
        colour=colour,
        format=scan.format,
        bit_depth=scan.bit_depth,
        window=(window.low, window.high) if window else None,
        spacing_mm=told.spacing_mm,
        frame_ms=told.frame_ms,
        tags=tags_of(scan, tags),
        note=told.note,
        modality=told.modality,
        volume=None
        if volume is None
        else VolumeFile(path=volume, format=scan.format, turn=told.turn, backward=told.backward, grid=told.grid),
    )


class _Numbers:
    """Puts the frames' own numbers into the file ``path``, one at a time, on their way to be painted; None: nowhere.

    Doubles and whole numbers of 64 bits become float32: models take no more. Left by an error, no file remains.
    """

    def __init__(self, path: Path | None, seen: Sequence[_Look], limits: DecodeLimits) -> None:
        self._writer: FrameWriter | None = None
        if path is None:
            return
        kind = seen[0].dtype
        self._channels = max(look.channels for look in seen)
        kind = np.dtype(np.float32) if kind.itemsize > WIDEST else np.dtype(np.uint8) if kind == np.bool_ else kind
        shape = (len(seen), *seen[0].size, *((3,) if self._channels == 3 else ()))
        limits.check_bytes(int(np.prod(shape)) * kind.itemsize)
        self._kind = kind
        self._writer = FrameWriter(path, shape, kind)

    def __enter__(self) -> Self:
        return self

    def keep(self, index: int, pixels: Pixels) -> Pixels:
        """The frame as it came."""
        if self._writer is not None:
            numbers = pixels
            if pixels.ndim == 2 and self._channels == 3:
                numbers = np.repeat(pixels[..., np.newaxis], 3, axis=2)
            self._writer.write(index, numbers.astype(self._kind, copy=False))
        return pixels

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if self._writer is None:
            return
        if error is None:
            self._writer.close()
        else:
            self._writer.discard()


class _Frames:
    """The frames of a scan, to be gone through several times; a single one is decoded once."""

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self._only: Pixels | None = None

    def __iter__(self) -> Iterator[Pixels]:
        if self._scan.frames == 1:
            if self._only is None:
                self._only = self._scan.read(0)
            yield self._only
            return
        for index in range(self._scan.frames):
            yield self._scan.read(index)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    size: tuple[int, int]
    dtype: np.dtype[np.generic]
    colour: bool
    channels: int


def _look(pixels: Pixels) -> _Look:
    colour = pixels.ndim == 3 and not all(
        np.array_equal(pixels[rows, :, first], pixels[rows, :, second], equal_nan=pixels.dtype.kind == "f")
        for rows in bands(*pixels.shape[:2])
        for first, second in pairwise(range(3))
    )
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    return _Look(size=(pixels.shape[0], pixels.shape[1]), dtype=pixels.dtype, colour=colour, channels=channels)


def _look_through(frames: _Frames, count: int, *, says: bool) -> tuple[list[_Look], Survey | None]:
    """What each frame is, and a survey of all their values where these are not of 8 bits; each is decoded once.

    ``says``: the file may say how it is to be shown, so that 8 bits are surveyed too.
    """
    seen: list[_Look] = []
    survey = None
    for pixels in frames:
        seen.append(_look(pixels))
        _check_alike(seen[0], seen[-1], len(seen))
        if pixels.dtype != np.uint8 or (says and pixels.ndim == 2):
            survey = survey or Survey(count)
            survey.add(pixels)
    return seen, survey


def _check_alike(first: _Look, look: _Look, number: int) -> None:
    if look.size != first.size or look.dtype != first.dtype:
        one, other = (f"{each.size[1]} x {each.size[0]} of {each.dtype}" for each in (first, look))
        raise InputError(
            f"The frames do not belong together: frame 1 is {one}, frame {number} is {other}.",
            hint="Save the pictures as separate files.",
        )


def _shown(told: Told, survey: Survey | None) -> Shown | None:
    """The file's own window, or curve, where something can be seen through it, else one that fits all its values.

    ``survey``: of all frames; None: they are of 8 bits. These are taken as they are where nothing of the file's serves.
    """
    own = [shown for shown in (told.window, *told.others) if shown is not None]
    if survey is None:
        found = own[0] if own else None
    else:
        plain = AS_IT_IS if survey.is_of_8_bits else survey.window()
        found = _best(own, plain, survey) if own else plain
        if found is AS_IT_IS and not told.inverted:
            return None
    if told.inverted:
        return inverted(found or AS_IT_IS)
    return found


def _best(own: Sequence[Shown], plain: Window, survey: Survey) -> Shown:
    """The first of the file's own through which enough is seen; else that of all through which most is."""
    enough = (shown for shown in own if survey.levels(shown) >= LEVELS_ENOUGH)
    return next(enough, None) or max((*own, plain), key=survey.levels)


def _painted(pixels: Pixels, how: Shown | None, index: int, *, colour: bool) -> NDArray[np.uint8]:
    if pixels.ndim == 3 and not colour:
        pixels = pixels[..., 0]
    shown = of_frame(how, index).apply(pixels) if how else pixels
    return np.repeat(shown[..., np.newaxis], 3, axis=2) if colour and shown.ndim == 2 else shown


@contextmanager
def _own_errors(source: Path, limits: DecodeLimits) -> Iterator[None]:
    """Nothing but our own errors comes out, and no warning. Pillow's bomb check gives way to our own cap."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except JobError:
        raise
    except Exception as error:
        raise _explained(error, source, limits) from error
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _explained(error: Exception, source: Path, limits: DecodeLimits) -> InputError:
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return InputError(
            f"The scan needs more than {limits.memory_mib} MiB to decode.",
            hint="Scale it down, or raise limits.worker_memory_mib in the configuration.",
        )
    if isinstance(error, Image.DecompressionBombError) or "decompressed data too large" in str(error).lower():
        return InputError(
            "The file would unpack to far more than its picture, as decompression bombs do; it is not unpacked.",
            hint="Open it with another program, if you trust it, and save the picture anew.",
        )
    if isinstance(error, UnidentifiedImageError):
        return InputError(
            "The file cannot be decoded: it begins like an image, and what follows is none.",
            hint=f"It is damaged or of a rare kind. {EXPORT}",
        )  # Pillow's own words name the copy in the spool
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, OSError) and error.errno is not None:
        return InputError(f"The file cannot be read: {error.strerror}.", hint="Check its permissions and the disk.")
    if _looks_truncated(error, source):
        return TruncatedError(
            f"The file is truncated ({reason}).", hint="The copy was interrupted; drop the file again."
        )
    return InputError(f"The file cannot be decoded ({reason}).", hint=f"It is damaged or of a rare kind. {EXPORT}")


def _looks_truncated(error: Exception, source: Path) -> bool:
    words = str(error).lower()
    told = any(word in words for word in ("truncated", "not enough data", "unexpected end", "need_more_input"))
    return told or isinstance(error, EOFError) or _ends_in_zeros(source)


def _ends_in_zeros(path: Path) -> bool:
    """Whether the file's last bytes are zero: room that was made and not filled yet, as far as one can see."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - ZERO_TAIL))
        return size >= ZERO_TAIL and not file.read().strip(b"\0")
