"""A zip of pictures as one scan: its pictures are the frames, in the order of their names (2 before 10).

Nothing is unpacked to disk and no member's name is ever used as a path: one picture at a time is unpacked into
anonymous memory. What the archive claims to hold is checked before any of it is unpacked, and `zipfile` gives no member
more bytes than it claims. Messages number the members and do not name them, for names often hold patients' names.
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, cast

import numpy as np

from watcherd.errors import InputError
from watcherd.formats.dicom import without_pictures
from watcherd.formats.sniff import describe, image_format
from watcherd.formats.table import HOLES, advised
from watcherd.imaging.limits import MOST_MEMBER_BYTES, RATIO, ROOM
from watcherd.imaging.readers.curves import EachItsOwn
from watcherd.imaging.readers.planes import grid_of
from watcherd.imaging.readers.scan import Told, tags_of, told_by
from watcherd.imaging.readers.window import Window, widest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import IO, BinaryIO

    from watcherd.imaging.limits import DecodeLimits
    from watcherd.imaging.readers.curves import Shown
    from watcherd.imaging.readers.scan import Pixels, Scan

MOST_MEMBERS = 20_000
"""Entries of a zip of any kind; each costs some memory before anything is unpacked."""

HEAD = 512
BLOCK = 1 << 20
ENCRYPTED = 0x1

SYSTEM_NAMES = frozenset({"__macosx", "thumbs.db", "desktop.ini"})

OFFICE = {"word": "a Word document", "xl": "an Excel workbook", "ppt": "a PowerPoint presentation"}

NO_PICTURES = frozenset({
    ".txt", ".md", ".csv", ".tsv", ".log", ".ini", ".inf", ".cfg", ".toml", ".yaml", ".yml", ".json", ".xml", ".html",
    ".htm", ".css", ".js", ".py", ".exe", ".dll", ".bat", ".sh", ".lock", ".ok", ".done", ".keep", ".db",
})  # fmt: skip
"""Ends of names of files that may be empty without a frame missing: texts, programs, marks."""

ADVISED = advised(in_zip=True)

PLAIN = "Make a plain zip of the pictures alone."


_DIGITS = re.compile(r"([0-9]+)")
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Member:
    """A picture in the archive. ``number``: its place in the archive, from 1 on, for messages."""

    number: int
    info: zipfile.ZipInfo


@dataclass(frozen=True, kw_only=True, slots=True)
class _Unpacked:
    """Picture ``index``, open: a reader on anonymous memory."""

    index: int
    scan: Scan
    descriptor: int

    def close(self) -> None:
        self.scan.close()
        os.close(self.descriptor)


class ZipScan:
    """A zip whose pictures are frames; a single picture in it may have frames of its own.

    ``opener``: opens one picture's file, as `decode.decode` would.
    """

    format = "ZIP"

    def __init__(self, path: Path, limits: DecodeLimits, opener: Callable[[Path, DecodeLimits], Scan]) -> None:
        self._limits = limits
        self._opener = opener
        self._seen: list[Told] = []
        self._open: _Unpacked | None = None
        self._archive = zipfile.ZipFile(path)
        try:
            self._pictures = _pictures(self._archive, path.stat().st_size, limits)
            limits.check_frames(len(self._pictures))
            self._unpack(0)
        except BaseException:
            self.close()
            raise
        first = self._scan
        self.bit_depth = first.bit_depth
        self._alone = len(self._pictures) == 1
        self.frames = first.frames if self._alone else len(self._pictures)

    @property
    def told(self) -> Told:
        """What all pictures that were read agree on."""
        told = [told_by(self._scan)] if self._alone else self._seen
        if not told:
            return Told()
        if any(one.inverted != told[0].inverted for one in told):
            raise InputError("The zip's pictures do not belong together: in some of them high is dark.", hint=PLAIN)
        if self._alone:
            return told[0]
        planes = [plane for one in told for plane in one.planes]
        grid, backward = grid_of(planes) if len(planes) == len(self._pictures) else (None, False)
        return Told(
            window=_window([one.window for one in told]),
            others=told[0].others if all(one.others == told[0].others for one in told) else (),
            inverted=told[0].inverted,
            spacing_mm=told[0].spacing_mm if all(one.spacing_mm == told[0].spacing_mm for one in told) else None,
            note="; ".join(dict.fromkeys(one.note for one in told if one.note)),
            modality=told[0].modality if all(one.modality == told[0].modality for one in told) else "",
            backward=backward,
            grid=grid,
        )

    def tags(self, keywords: Sequence[str]) -> dict[str, str]:
        """Of the picture that is open: those of one examination agree on what is worth asking for."""
        return tags_of(self._scan, keywords)

    def read(self, index: int) -> Pixels:
        if self._alone:
            return self._scan.read(index)
        self._unpack(index)
        with _blaming(self._pictures[index]):
            pixels = self._scan.read(0)
        if told_by(self._scan).scaled and pixels.dtype.itemsize == 2:
            pixels = pixels.astype(np.float32)  # as those whose own slope is another than 1
        if len(self._seen) < len(self._pictures):
            self._seen.append(told_by(self._scan))
        return pixels

    def close(self) -> None:
        self._pack()
        self._archive.close()

    @property
    def _scan(self) -> Scan:
        assert self._open is not None
        return self._open.scan

    def _unpack(self, index: int) -> None:
        """Have picture ``index`` open, and no other."""
        if self._open is not None and self._open.index == index:
            return
        self._pack()
        picture = self._pictures[index]
        with _blaming(picture):
            self._open = self._unpacked(index, picture)
        if len(self._pictures) > 1 and self._scan.frames > 1:
            raise InputError(
                f"Member {picture.number} of the zip has {self._scan.frames} frames of its own.",
                hint="A zip holds either pictures of one frame each or a single stack; drop the others by themselves.",
            )

    def _unpacked(self, index: int, picture: _Member) -> _Unpacked:
        descriptor = os.memfd_create("watcherd-member", os.MFD_CLOEXEC)
        try:
            with self._archive.open(picture.info) as member, open(descriptor, "wb", closefd=False) as file:
                while block := member.read(BLOCK):
                    file.write(block)
            scan = self._opener(Path(f"/proc/self/fd/{descriptor}"), self._limits)
        except BaseException:
            os.close(descriptor)
            raise
        return _Unpacked(index=index, scan=scan, descriptor=descriptor)

    def _pack(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


def _window(of_pictures: list[Shown | None]) -> Shown | None:
    """The pictures' own window where all have one, the widest where they differ, as for the frames of one file; where
    they have curves, each its own."""
    first = of_pictures[0]
    if all(one == first for one in of_pictures):
        return first
    own = tuple(one for one in of_pictures if one is not None and not isinstance(one, EachItsOwn))
    if len(own) < len(of_pictures):
        return None
    windows = [one for one in own if isinstance(one, Window)]
    return widest(windows) if len(windows) == len(own) else EachItsOwn(of_frames=own)


@contextmanager
def _blaming(picture: _Member) -> Iterator[None]:
    """Say which member it is that cannot be used."""
    try:
        yield
    except InputError as error:
        raise InputError(f"Member {picture.number} of the zip: {error.message}", hint=error.hint) from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(f"Member {picture.number} of the zip is damaged.", hint="Make the zip again.") from error
    except NotImplementedError as error:
        raise InputError(
            f"Member {picture.number} of the zip is compressed in a way that cannot be undone here ({error}).",
            hint="Make the zip with the usual method (deflate).",
        ) from error


def _pictures(archive: zipfile.ZipFile, size: int, limits: DecodeLimits) -> list[_Member]:
    """The archive's pictures in the order of their names; ``size``: of the archive in bytes.

    What is no picture, and what systems leave behind (``Thumbs.db``, ``__MACOSX``), is left out. Raises `InputError`
    for an archive that is not to be unpacked.
    """
    members = [_Member(number=number, info=info) for number, info in enumerate(archive.infolist(), start=1)]
    _check_members(members)
    _refuse_documents(archive)
    files = [member for member in members if not member.info.is_dir() and not _is_systems_own(member.info.filename)]
    _check_room(files, size, limits)
    pictures = [member for member in files if _is_picture(archive, member)]
    if not pictures:
        raise InputError(
            f"The zip holds no picture that can be read, only {len(files)} other files."
            if files
            else "The zip is empty.",
            hint=f"Put {', '.join(ADVISED[:-1])} or {ADVISED[-1]} files into it.",
        )
    return sorted(pictures, key=lambda member: (_natural(member.info.filename), member.info.filename, member.number))


def _check_members(members: list[_Member]) -> None:
    if len(members) > MOST_MEMBERS:
        raise InputError(
            f"The zip has {len(members):,} entries, more than {MOST_MEMBERS:,}.", hint="Split it into several."
        )
    for member in members:
        if _leads_out(member.info.orig_filename):
            raise InputError(
                f"The zip is refused: the path of its member {member.number} leads out of the archive.",
                hint=f"Paths with '..', drive letters or a leading slash are how archives attack. {PLAIN}",
            )
        if member.info.flag_bits & ENCRYPTED:
            raise InputError("The zip is encrypted.", hint="Make it again without a password.")


def _leads_out(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return (
        (not parts[0] and len(parts) > 1) or ".." in parts or re.match(r"[A-Za-z]:", name) is not None or "\0" in name
    )


def _refuse_documents(archive: zipfile.ZipFile) -> None:
    """Office documents are zips too, and may hold pictures; they are no scans."""
    names = {info.filename for info in archive.infolist()}
    what = ""
    if "[Content_Types].xml" in names:
        folders = {name.partition("/")[0] for name in names}
        what = next((kind for folder, kind in OFFICE.items() if folder in folders), "an office document")
    elif "mimetype" in names and archive.getinfo("mimetype").file_size < HEAD:
        with archive.open("mimetype") as file:
            what = "a document" if file.read(HEAD).startswith(b"application/") else ""
    if what:
        raise InputError(
            f"The file is not an image that can be read: it is {what}.",
            hint="Save its pictures as files and drop those.",
        )


def _is_systems_own(name: str) -> bool:
    """Whether a member is what systems leave in folders, and not what somebody has put there."""
    parts = [part for part in name.split("/") if part != "."]
    return any(part.startswith(".") or part.lower() in SYSTEM_NAMES for part in parts)


def _check_room(files: list[_Member], size: int, limits: DecodeLimits) -> None:
    """Look at what the members claim to be; they get no more than that."""
    for member in files:
        if member.info.file_size > MOST_MEMBER_BYTES:
            raise InputError(
                f"Member {member.number} of the zip is {member.info.file_size >> 20:,} MiB when it is unpacked, "
                f"more than {MOST_MEMBER_BYTES >> 20:,}.",
                hint="Drop it by itself.",
            )
    total = sum(member.info.file_size for member in files)
    limits.check_bytes(total)
    if total > max(ROOM, RATIO * size):
        raise InputError(
            f"The zip is refused: {size:,} bytes would become {total:,}, which is how archives attack.",
            hint=f"Store the pictures with a compression of their own, as PNG, or make the zip of less. {PLAIN}",
        )


def _is_picture(archive: zipfile.ZipFile, member: _Member) -> bool:
    """By content. DICOM objects without pictures, as they stand on a patient's CD, are none.

    Raises `InputError` for an archive in the archive, for pictures of formats not read here, and for a file of which
    nothing was written.
    """
    with _blaming(member), archive.open(member.info) as file:
        head = file.read(HEAD)
        _check_written(member, file, head)
        kind = image_format(head)
        if kind == "DICOM" and without_pictures(_rewound(file)):
            return False
    if kind == "ZIP":
        raise InputError(f"Member {member.number} of the zip is an archive itself.", hint=PLAIN)
    if kind is None and (what := describe(head)) in HOLES:
        raise InputError(f"Member {member.number} of the zip {what}.", hint="Save it as PNG, or leave it out.")
    return kind is not None


def _check_written(member: _Member, file: IO[bytes], head: bytes) -> None:
    """Raises `InputError` for a member that is empty or zeros alone: a frame was to be there, as far as one can see.

    Empty files whose names are those of texts and the like are none.
    """
    if head.strip(b"\0") or PurePosixPath(member.info.filename).suffix.lower() in NO_PICTURES:
        return
    while block := file.read(BLOCK):
        if block.strip(b"\0"):
            return
    raise InputError(
        f"The file {'holds nothing but zeros' if head else 'is empty'}: it was not written.",
        hint="Make the zip again, or leave that file out of it.",
    )


def _rewound(file: IO[bytes]) -> BinaryIO:
    """A member from its start, as a file that can be sought in; nothing is unpacked further than it is read."""
    file.seek(0)
    return cast("BinaryIO", file)


def _natural(name: str) -> list[list[tuple[int, str]]]:
    """A key that sorts numbers as numbers, folder by folder: what stands between numbers as text, numbers by their
    length and then digit by digit."""
    return [
        [
            (len(part.lstrip("0")), part.lstrip("0")) if place % 2 else (0, part.casefold())
            for place, part in enumerate(_DIGITS.split(component))
        ]
        for component in name.split("/")
    ]
