"""What kind of file system a folder is on, and whether the inbox is still the one we know.

On a network file system other hosts' writes raise no events, attributes are cached for seconds and leases say nothing:
so the inbox there is swept more often and files settle longer. The source is ``/proc/self/mountinfo`` (proc(5)).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from watcherd.errors import ConfigError
from watcherd.file_names import show

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOUNTINFO = Path("/proc/self/mountinfo")

LOCAL_SWEEP = 60.0
NETWORK_SWEEP = 3.0
"""Seconds between sweeps under ``inbox.sweep_seconds = "auto"``."""

SWEEP_SHARE = 0.05
"""A sweep takes at most this part of the time, however large the inbox is."""

NETWORK_SETTLE = 5.0
"""Files on a network file system settle at least this long: NFS shows a size that is up to 3 s old (acregmin)."""

MARKER = b".watcherd-inbox"
"""A file with this name in the inbox, put there by its owner, says that this is the share; see `Presence`."""

_NETWORK = re.compile(
    r"nfs\d*|cifs|smb\d*|smbfs|9p|virtiofs|ceph|glusterfs|lustre|afs|davfs|vboxsf|drvfs|fuse|fuse\..*|gpfs|beegfs|ocfs2"
    r"|gfs2|orangefs|pvfs2|prl_fs|vmhgfs|acfs|panfs"
)
_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mount:
    """A line of mountinfo. ``device``: "major:minor"; ``root``: the folder of the file system that is mounted."""

    device: str
    root: bytes
    point: bytes
    fs_type: str
    source: bytes

    @property
    def is_network(self) -> bool:
        """Whether other hosts, or the host of this guest, may write to it unseen."""
        return _NETWORK.fullmatch(self.fs_type) is not None

    @property
    def passes_no_syncfs(self) -> bool:
        """Whether syncfs(2) does not reach what is behind it: FUSE passes on the fsync of single files alone."""
        return self.fs_type == "fuse" or self.fs_type.startswith(("fuse.", "fuseblk"))


def parse_mountinfo(content: bytes) -> list[Mount]:
    """The mounts of a mountinfo file, in its order; lines that make no sense are left out."""
    return [mount for line in content.splitlines() if (mount := _parse_line(line)) is not None]


def _parse_line(line: bytes) -> Mount | None:
    before, separator, after = line.partition(b" - ")
    fields, rest = before.split(b" "), after.split(b" ")
    if not separator or len(fields) < 6 or len(rest) < 2:
        return None
    return Mount(
        device=fields[2].decode("ascii", "replace"),
        root=_unescape(fields[3]),
        point=_unescape(fields[4]),
        fs_type=rest[0].decode("ascii", "replace"),
        source=_unescape(rest[1]),
    )


def _unescape(text: bytes) -> bytes:
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 8)]), text)


def read_mounts() -> Sequence[Mount]:
    """The mounts that this process sees; none where there is no /proc."""
    try:
        return _parsed(MOUNTINFO.read_bytes())
    except OSError:
        return ()


@lru_cache(maxsize=1)
def _parsed(content: bytes) -> tuple[Mount, ...]:
    """As `parse_mountinfo`, which is asked every two seconds and hardly ever of anything new."""
    return tuple(parse_mountinfo(content))


def mount_of(path: bytes, mounts: Sequence[Mount]) -> Mount | None:
    """The mount that an absolute path without links lies on: the deepest, and of equal ones the last."""
    best: Mount | None = None
    for mount in mounts:
        if _is_below(path, mount.point) and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def _is_below(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


def mount_at(path: Path) -> Mount | None:
    """The mount that a folder lies on, links resolved; None when it cannot be known."""
    return mount_of(os.path.realpath(os.fsencode(path)), read_mounts())


def sweep_seconds(
    configured: Literal["auto"] | float, *, network: bool, events_complete: bool = True, last_took: float = 0.0
) -> float:
    """How long to wait after a sweep.

    ``events_complete``: every folder is watched, so that sweeps are only a safety net. ``last_took``: seconds of the
    last sweep; one that takes long is made less often.
    """
    if configured != "auto":
        return configured
    wanted = LOCAL_SWEEP if events_complete and not network else NETWORK_SWEEP
    return max(wanted, last_took / SWEEP_SHARE)


def settle_seconds(configured: float, *, network: bool) -> float:
    """How long files settle."""
    return max(configured, NETWORK_SETTLE) if network else configured


def refuse_network_state(path: Path, mount: Mount | None) -> None:
    """Raise `ConfigError` when the state folder is on a network file system, with the reason."""
    if mount is not None and mount.is_network:
        raise ConfigError(
            f"state.path = {str(path)!r} is on {show(mount.source)}, a network file system ({mount.fs_type}). SQLite's "
            "locks and its write-ahead log do not hold there, and the history would be damaged.",
            hint="Choose a folder on a local disk, for example /var/lib/watcherd; the inbox may stay on the network.",
        )


def overlaps(folders: Mapping[str, Path], mounts: Sequence[Mount]) -> list[str]:
    """Which of these folders lie in one another by way of links or bind mounts, in words.

    ``folders``: the configuration's key to the path. Compared is where a folder really is: its file system and the
    path in it, which are the same behind every mount of it.
    """
    places = {key: _place(path, mounts) for key, path in folders.items()}
    return [
        f"{key} = {str(folders[key])!r} lies inside {other} = {str(folders[other])!r}"
        for key, place in places.items()
        for other, other_place in places.items()
        if key != other and place and other_place and place[0] == other_place[0] and _is_below(place[1], other_place[1])
    ]


def _place(path: Path, mounts: Sequence[Mount]) -> tuple[str, bytes] | None:
    real = os.path.realpath(os.fsencode(path))
    mount = mount_of(real, mounts)
    if mount is None:
        return None
    return mount.device, os.path.normpath(mount.root + b"/" + real[len(mount.point.rstrip(b"/")) :])


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Which folder the inbox is. ``marker``: the content of its `MARKER`; None when it has none."""

    device: int
    inode: int
    mount_point: bytes
    fs_type: str
    source: bytes
    marker: bytes | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Presence:
    """Whether the inbox can be used now.

    ``online``: sweep it, and dispose of sources. ``renewed``: it is another mount or folder than at the last look, so
    watch and sweep all of it again. ``reason``: why it is offline. ``identity``: to be passed to the next look.
    """

    online: bool
    identity: Identity | None
    renewed: bool = False
    reason: str = ""


def identify(inbox: Path) -> Identity | str:
    """Which folder is at the inbox's path now, or why that cannot be said."""
    try:
        status = inbox.stat()
        descriptor = os.open(inbox, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        return f"{inbox} cannot be opened: {error.strerror}"
    try:
        marker = _marker(descriptor)
    finally:
        os.close(descriptor)
    mount = mount_at(inbox)
    return Identity(
        device=status.st_dev,
        inode=status.st_ino,
        mount_point=mount.point if mount else b"/",
        fs_type=mount.fs_type if mount else "",
        source=mount.source if mount else b"",
        marker=marker,
    )


def _marker(descriptor: int) -> bytes | None:
    try:
        marker = os.open(MARKER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=descriptor)
    except OSError:
        return None
    with open(marker, "rb") as file:  # noqa: PTH123 - a descriptor has no Path
        return file.read(4096)


def presence(known: Identity | None, seen: Identity | str) -> Presence:
    """Decide from the folder we know and the one that is there now; pure.

    - An unmounted share leaves its empty mount point behind, on the file system above: offline.
    - Another share mounted in its place: offline, unless a marker says that it is the same one.
    - The owner's marker was there and is not, or says something else: offline.
    - The same share mounted again, a folder made anew in the same place, a share mounted over a plain folder: online.
    """
    if isinstance(seen, str):
        return Presence(online=False, identity=known, reason=seen)
    if known is None:
        return Presence(online=True, identity=seen, renewed=True)
    reason = _why_not(known, seen)
    if reason:
        return Presence(online=False, identity=known, reason=reason)
    renewed = (known.device, known.inode, known.mount_point) != (seen.device, seen.inode, seen.mount_point)
    return Presence(online=True, identity=seen, renewed=renewed)


def _why_not(known: Identity, seen: Identity) -> str:
    if known.marker is not None:
        return "" if seen.marker == known.marker else f"its file {show(MARKER)} is missing or another one"
    if known.mount_point == seen.mount_point:
        if (known.fs_type, known.source) == (seen.fs_type, seen.source):
            return ""
        return (
            f"{show(seen.source)} ({seen.fs_type}) is mounted at {show(seen.mount_point)} where "
            f"{show(known.source)} ({known.fs_type}) was; restart the service if that is meant"
        )
    if _is_below(known.mount_point, seen.mount_point):
        return f"{show(known.source)} is no longer mounted at {show(known.mount_point)}"
    return ""
