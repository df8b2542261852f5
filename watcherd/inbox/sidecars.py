"""Sidecars: small files beside scans that override their options.

``scan.png.toml`` or ``scan.png.json`` speaks for ``scan.png``, ``_options.toml`` for every scan of its folder, though
not of the folders in it; the scan's own one has the last word. A sidecar is never a scan. It settles as scans do, and a
scan waits for a sidecar of its own that is still being written.

Most folders have none. Which ones have is found when a sweep enters them, so that scans of all others cost nothing.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from watcherd.inbox.archive import Source
from watcherd.inbox.folders import VANISHED, OpenFolders, open_below, open_root, split
from watcherd.inbox.ingest import NOBODY_WRITES, OPEN_FOR_WRITING, UNFILLED, has_gaps, open_for_writing
from watcherd.inbox.sidecar_options import WrongError, is_foreign, overrides
from watcherd.inbox.values import Candidate, NotYet, candidate_of, reason_not_regular

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from watcherd.inbox.archive import Disposal
    from watcherd.inbox.settle import Settled
    from watcherd.job import Options
    from watcherd.values import Signature

OF_FOLDER = b"_options.toml"
SUFFIXES = (b".toml", b".json")

LARGEST = 64 << 10
"""Bytes of a sidecar."""

MOST = 16_384
"""Sidecars that are remembered while their scans are not there; later sweeps find the others."""

JUDGED_AT_ONCE = 1000

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_REFUSED = {
    errno.ELOOP: "is a symbolic link; put the file itself there",
    errno.ENXIO: "is no file",
    errno.EACCES: "may not be read by the service's user; give that user read permission",
    errno.EPERM: "may not be read by the service's user; give that user read permission",
}


def is_sidecar(path: bytes) -> bool:
    """Whether a file of this name is a sidecar, whatever is in it."""
    name = split(path)[1]
    return name.endswith(SUFFIXES) and name not in SUFFIXES


def scan_of(path: bytes) -> bytes | None:
    """The path of the scan that a sidecar speaks for; None for one that speaks for its folder."""
    return None if split(path)[1] == OF_FOLDER else path[: -len(SUFFIXES[0])]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the sidecars of one scan ask for.

    ``values``: options by key. ``wrong``: why they cannot be followed; empty: they can. ``own``: the scan's own
    sidecars, which leave the inbox with it. ``foreign``: other programs' files that are called like sidecars of it.
    """

    values: dict[str, Any] = field(default_factory=dict)
    wrong: str = ""
    own: tuple[Candidate, ...] = ()
    foreign: tuple[Candidate, ...] = ()

    @property
    def model(self) -> str | None:
        """The name of the model that is asked for; None: that of the scan's profile."""
        return self.values.get("model")

    def applied_to(self, options: Options, models: Collection[str] = ()) -> Options:
        """The options that the scan's job is frozen with. ``options``: by the configuration, those of the model that
        is asked for. ``models``: those that may be asked for."""
        wrong = self.wrong
        if self.model is not None and self.model not in models:
            allowed = f"allowed here: {', '.join(models)}" if models else "this profile has no sidecar_models"
            wrong = " ".join(filter(None, (wrong, f"A sidecar says model = {self.model!r}: {allowed}.")))
        return replace(options, refused=wrong) if wrong else replace(options, **self.values)

    def to_json(self) -> str:
        """What was overridden, as text: `applied_to` may be asked again, by another configuration."""
        return json.dumps(self.values, sort_keys=True) if self.values else "{}"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """What `to_json` wrote."""
        return cls(values={key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


NOTHING = Asked()


@dataclass(frozen=True, kw_only=True, slots=True)
class Unsettled:
    """A scan's sidecar has changed at ``since``: the scan's own quiet time counts from there."""

    since: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    candidate: Candidate | None = None
    values: dict[str, Any] = field(default_factory=dict)
    wrong: str = ""
    foreign: bool = False


@dataclass(kw_only=True, slots=True)
class _Seen:
    """A sidecar that has looked like this ``since``. ``until``: how long it waits for its scan."""

    candidate: Candidate
    since: float
    until: float


class Sidecars:
    """The sidecars that were seen. Times are seconds of a monotonic clock and passed in.

    ``settle_seconds``: how long a sidecar must not change. ``limit_seconds``: how long one waits for its scan.
    """

    def __init__(self, *, settle_seconds: float, limit_seconds: float) -> None:
        self._settle = settle_seconds
        self._limit = max(limit_seconds, settle_seconds)
        self._folders: set[bytes] = set()
        # A sidecar is in one of these: not judged yet, waiting for its scan (both in order of time), its folder's own.
        self._fresh: OrderedDict[bytes, _Seen] = OrderedDict()
        self._waiting: OrderedDict[bytes, _Seen] = OrderedDict()
        self._standing: dict[bytes, _Seen] = {}

    # What lies there

    def entering(self, root_fd: int, folder: bytes) -> None:
        """A sweep enters ``folder``: see by the names whether there is any sidecar in it."""
        try:
            descriptor = open_below(root_fd, folder)
        except OSError:
            return  # the sweep says what is in its way
        try:
            with os.scandir(descriptor) as entries:
                found = any(is_sidecar(os.fsencode(entry.name)) for entry in entries)
        except OSError:
            found = True  # nobody knows
        finally:
            os.close(descriptor)
        (self._folders.add if found else self._folders.discard)(folder)

    def saw(self, candidate: Candidate, now: float, *, hinted: bool = False) -> None:
        """A look has shown a sidecar; ``hinted``: an event says that something has happened to it."""
        self._folders.add(split(candidate.path)[0])
        self._note(candidate, now, changed=hinted)

    def _note(self, candidate: Candidate, now: float, *, changed: bool = False, wanted: bool = False) -> _Seen:
        """What is known of a sidecar that looks like this now. One that a scan has ``wanted`` is always remembered."""
        path = candidate.path
        known = self._fresh.get(path) or self._waiting.get(path) or self._standing.get(path)
        if known is not None and known.candidate == candidate and not changed:
            return known
        self.forget(path)
        seen = _Seen(candidate=candidate, since=now, until=now + self._limit)
        if wanted or len(self._fresh) + len(self._waiting) < MOST:
            self._fresh[path] = seen
        return seen

    def forget(self, path: bytes) -> None:
        """This sidecar was used, is on record as useless, or is gone."""
        for seen in (self._fresh, self._waiting, self._standing):
            seen.pop(path, None)

    # What is asked for

    def asked(
        self, batch: Sequence[Settled], root_fd: int, now: float, *, sure: bool, leases: bool
    ) -> Iterator[tuple[Settled, Asked | Unsettled | NotYet]]:
        """For every scan that has settled, what its sidecars ask for, or why it has to wait for them.

        ``sure``: whatever comes is noticed at once; else a folder's lack of sidecars may be old news, and every folder
        is looked at. ``leases``: as for `ingest.take`.
        """
        with OpenFolders(root_fd) as folders:
            for item in batch:
                if sure and split(item.candidate.path)[0] not in self._folders:
                    yield item, NOTHING
                else:
                    yield item, self._asked(item, folders, now, leases=leases)

    def _asked(self, item: Settled, folders: OpenFolders, now: float, *, leases: bool) -> Asked | Unsettled | NotYet:
        path = item.candidate.path
        folder, _ = split(path)
        of_folder = folder + b"/" + OF_FOLDER if folder else OF_FOLDER
        found = []
        for sidecar in (of_folder, *(path + suffix for suffix in SUFFIXES)):
            read = self._read(sidecar, item, folders, now, leases=leases)
            if isinstance(read, Unsettled | NotYet):
                return read
            if read is not None:
                found.append((sidecar, read))
        return _together(found)

    def _read(
        self, path: bytes, item: Settled, folders: OpenFolders, now: float, *, leases: bool
    ) -> _Read | Unsettled | NotYet | None:
        """One sidecar of a scan; None when there is none."""
        folder, name = split(path)
        try:
            descriptor = os.open(name, _OPEN, dir_fd=folders[folder])
        except OSError as error:
            return _cannot_open(error, item)
        try:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                return None
            if not stat.S_ISREG(status.st_mode):
                return _Read(wrong=reason_not_regular(status.st_mode))
            candidate = candidate_of(path, status)
            if not item.overdue and (wait := self._wait(descriptor, candidate, item, now, leases=leases)):
                return wait
            content = os.pread(descriptor, LARGEST + 1, 0)
        except OSError as error:
            return NotYet(path=item.candidate.path, reason=f"has a sidecar that cannot be read: {error.strerror}")
        finally:
            os.close(descriptor)
        return _parsed(candidate, content)

    def _wait(
        self, descriptor: int, candidate: Candidate, item: Settled, now: float, *, leases: bool
    ) -> Unsettled | NotYet | None:
        """Why a sidecar is not to be read yet."""
        seen = self._note(candidate, now, wanted=True)
        if now - seen.since < self._settle:
            return Unsettled(since=seen.since)
        if not (unfinished := _unfinished(descriptor, candidate.signature.size, leases=leases)):
            return None
        reason, patience = unfinished
        return NotYet(path=item.candidate.path, reason=f"has a sidecar that {reason}", patience=patience)

    # What becomes of those whose scan is not there

    @property
    def waiting(self) -> bool:
        """Whether some sidecar may still get its scan, or is not judged yet."""
        return bool(self._fresh or self._waiting)

    def next_wakeup(self) -> float | None:
        """When `due` may have something next; None while there is nothing."""
        fresh, waiting = next(iter(self._fresh.values()), None), next(iter(self._waiting.values()), None)
        times = [fresh.since + self._settle] if fresh else []
        return min([*times, waiting.until] if waiting else times, default=None)

    def due(self, now: float) -> list[tuple[Candidate, bool]]:
        """Sidecars to be judged, and whether they have waited long enough for their scans.

        Each is to be handed to `saw`, `waits`, `stands` or `forget` afterwards.
        """
        due: list[tuple[Candidate, bool]] = []
        for seen in islice(self._fresh.values(), JUDGED_AT_ONCE):
            if now - seen.since < self._settle:
                break
            due.append((seen.candidate, now >= seen.until))
        for seen in islice(self._waiting.values(), JUDGED_AT_ONCE):
            if now < seen.until:
                break
            due.append((seen.candidate, True))
        return due

    def waits(self, path: bytes, now: float) -> None:
        """This one goes on waiting for its scan."""
        seen = self._fresh[path] if path in self._fresh else self._waiting[path]
        self.forget(path)
        if now >= seen.until:
            seen.until = now + self._limit
        self._waiting[path] = seen

    def stands(self, path: bytes) -> None:
        """This one is its folder's and waits for nothing."""
        seen = self._fresh[path] if path in self._fresh else self._waiting[path]
        self.forget(path)
        self._standing[path] = seen


def beside(scans: Sequence[Source], disposals: Sequence[Disposal]) -> dict[bytes, tuple[Source, Disposal]]:
    """Where sidecars of scans that have left the inbox would lie, and how each scan left it."""
    return {
        scan.path + suffix: (scan, disposal)
        for scan, disposal in zip(scans, disposals, strict=True)
        for suffix in SUFFIXES
        if disposal.result in ("archived", "deleted")
    }


def leaving(inbox: Path, path: bytes, signature: Signature, scan: Source, disposal: Disposal) -> Source | None:
    """A followed sidecar as a source to be disposed of as its scan was, into the archive beside it.

    None when it cannot be read any more, as when somebody has taken it away.
    """
    try:
        sha256 = _hash(inbox, path)
    except OSError:
        return None
    wanted = disposal.archived_as + path[len(scan.path) :] if disposal.archived_as is not None else None
    return Source(
        path=path,
        signature=signature,
        sha256=sha256,
        how=scan.how,
        archive_as=wanted,
    )


def _hash(inbox: Path, path: bytes) -> str:
    root = open_root(inbox)
    try:
        with OpenFolders(root) as folders:
            folder, name = split(path)
            with open(os.open(name, _OPEN, dir_fd=folders[folder]), "rb") as file:  # noqa: PTH123 - no Path has it
                return hashlib.file_digest(file, "sha256").hexdigest()
    finally:
        os.close(root)


def _unfinished(descriptor: int, size: int, *, leases: bool) -> tuple[str, float | None] | None:
    """What speaks for a sidecar's being unfinished, if anything, and how long to wait for it."""
    writers = open_for_writing(descriptor) if leases else None
    if writers:
        return OPEN_FOR_WRITING, None
    if size == 0:
        return "is empty", NOBODY_WRITES
    if has_gaps(descriptor, size):
        return "has room that is not filled yet", NOBODY_WRITES if writers is False else UNFILLED
    return None


def _cannot_open(error: OSError, item: Settled) -> _Read | NotYet | None:
    if error.errno in _REFUSED:
        return _Read(wrong=_REFUSED[error.errno])
    if error.errno in VANISHED:
        return None
    return NotYet(path=item.candidate.path, reason=f"has a sidecar that cannot be opened: {error.strerror}")


def _parsed(candidate: Candidate, content: bytes) -> _Read:
    suffix = candidate.path[-len(SUFFIXES[0]) :]
    if len(content) > LARGEST and suffix == b".toml":
        return _Read(candidate=candidate, wrong=f"is larger than {LARGEST >> 10} KiB")
    if len(content) > LARGEST or is_foreign(content, suffix):  # what others say about a picture may be long
        return _Read(candidate=candidate, foreign=True)
    try:
        return _Read(candidate=candidate, values=overrides(content, suffix))
    except WrongError as error:
        return _Read(candidate=candidate, wrong=str(error))


def _together(found: Sequence[tuple[bytes, _Read]]) -> Asked:
    """The folder's options with the scan's own laid over them; whatever is wrong with any of them is wrong."""
    values: dict[str, Any] = {}
    wrong = []
    own = [read for path, read in found if scan_of(path) is not None and not read.foreign]
    for path, read in found:
        values |= read.values
        if read.wrong:
            wrong.append(f"The {_called(path)} {read.wrong}.")
    if len(own) > 1:
        wrong.append("The scan has two sidecars, *.toml and *.json; leave one.")
    candidates = tuple(read.candidate for read in own if read.candidate is not None)
    foreign = tuple(read.candidate for _, read in found if read.foreign and read.candidate is not None)
    return Asked(values=values, wrong=" ".join(wrong), own=candidates, foreign=foreign)


def _called(path: bytes) -> str:
    """A sidecar in messages, which hold no names of scans: those are often patients'."""
    return "folder's _options.toml" if scan_of(path) is None else f"scan's sidecar (*.{path[-4:].decode()})"
