"""File names: bytes on the disk, text for people, and the names that results get.

A name in the inbox is whatever bytes somebody's system made of it. It stays bytes until it is shown.
"""

from __future__ import annotations

import hashlib
import re
from typing import Literal

LONGEST = 255
"""Bytes in one component of a path on every file system we meet (NAME_MAX)."""

HASH_DIGITS = 8
"""Hex digits of a hash that tell two names apart where one would do otherwise."""

_HASH_ROOM = 1 + HASH_DIGITS
# Extensions hold a letter: "IM-0001.0002" and a DICOM UID have none, and without their last number they would clash.
_EXTENSION = re.compile(rb"(?:\.nii)?\.[A-Za-z][A-Za-z0-9]{0,5}\Z", re.IGNORECASE)
_ADDITION = re.compile(rb"-[0-9a-f]{8}(?:-[0-9]+)?\Z")
_ESCAPE = re.compile(rb"\\(\\|x[0-9a-f]{2})")


def show(name: bytes) -> str:
    r"""A name for people: printable UTF-8 as it is, every other byte as ``\xNN``, a backslash doubled.

    Two names never look alike to a program: `unshow` gives the bytes back. The text holds no control character, no
    line break, nothing that turns the direction of writing round, and can always be encoded.
    """
    text = name.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(_shown(char) for char in text)


def _shown(char: str) -> str:
    if char == "\\":
        return "\\\\"
    if char.isprintable():
        return char
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def unshow(text: str) -> bytes:
    """The bytes that `show` showed. Raises ValueError for a backslash that stands for nothing."""
    encoded = text.encode("utf-8", "surrogateescape")
    if b"\\" in _ESCAPE.sub(b"", encoded):
        raise ValueError(f"{text!r} has a backslash that is neither doubled nor followed by x and two hex digits")
    return _ESCAPE.sub(lambda found: b"\\" if found[1] == b"\\" else bytes.fromhex(found[1][1:].decode()), encoded)


def storable(text: str) -> str:
    """``text`` as it can be stored and read back as UTF-8: half a surrogate pair becomes an escape, a NUL too."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def check_relative(path: bytes) -> None:
    """Refuse a path that could lead out of the folder it is meant to be below.

    Raises ValueError for an absolute or empty path, for ``.`` and ``..`` among its parts, and for a NUL.
    """
    if b"\0" in path or any(part in (b"", b".", b"..") for part in path.split(b"/")):
        raise ValueError(f"{show(path)!r} is not a plain path below a folder")


def result_stem(path: bytes, suffix_room: int) -> bytes:
    """What the results of the scan at ``path`` are called: its sub-folder, and its name without the extension.

    ``path``: below the inbox. ``suffix_room``: bytes of the longest thing that is put behind the stem, for example
    5 for ``.json``; room for `with_hash` is kept besides. A name that would be too long is cut and gets 8 hex digits
    of its own hash, so that long names that begin alike stay apart. Raises ValueError as `check_relative` does.
    """
    check_relative(path)
    folder, slash, name = path.rpartition(b"/")
    stem = _EXTENSION.sub(b"", name)
    if not stem.strip(b"."):
        stem = name
    room = LONGEST - suffix_room - _HASH_ROOM
    if len(stem) > room:
        digits = hashlib.sha256(name).hexdigest()[:HASH_DIGITS].encode()
        stem = cut(stem, room - _HASH_ROOM) + b"-" + digits
    return folder + slash + stem


def with_hash(stem: bytes, sha256: str, digits: int = HASH_DIGITS) -> bytes:
    """A stem that another scan's results have already, told apart by the first digits of the scan's hash."""
    return stem + b"-" + sha256[:digits].encode()


def insert(name: bytes, addition: bytes) -> bytes:
    """Put ``addition`` before a name's extension, cutting the stem where the whole would be too long."""
    found = _EXTENSION.search(name)
    end = found.start() if found and found.start() > 0 else len(name)
    room = LONGEST - len(addition) - (len(name) - end)
    return cut(name[:end], room) + addition + name[end:]


def without_addition(name: bytes) -> bytes:
    """The name that `insert` put the digits of a hash into, with or without a number; others as they are."""
    found = _EXTENSION.search(name)
    end = found.start() if found and found.start() > 0 else len(name)
    return _ADDITION.sub(b"", name[:end]) + name[end:]


def cut(name: bytes, room: int) -> bytes:
    """The first ``room`` bytes at most, not ending inside a character when the name is UTF-8."""
    if len(name) <= room:
        return name
    cut = name[:room]
    try:
        name.decode()
    except UnicodeDecodeError:
        return cut
    return cut.decode("utf-8", "ignore").encode()


def hidden(kind: Literal["job", "arrival"], number: int) -> str:
    """What stands for a file's name where names are hidden: they hold patients' names."""
    return f"{kind} {number}"


def label(path: bytes, *, privacy: Literal["shown", "hidden"], kind: Literal["job", "arrival"], number: int) -> str:
    """How a scan is called in logs, metrics and process titles under ``privacy.names``."""
    return show(path) if privacy == "shown" else hidden(kind, number)
