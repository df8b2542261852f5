"""Put results where people look for them: staged beside the outbox, synced, renamed, the JSON last.

The order that makes it safe: files are staged and synced; their final names and hashes
are written down (`Intent`, kept by the store); the renames follow, results before the JSON that lists them. Whatever
the moment of a crash, `publish` run again over the same intents ends in the same place.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from watcherd import file_names
from watcherd.crash_points import crash_point
from watcherd.errors import WatcherdError
from watcherd.files import make_folder, rename_new, sync_filesystem
from watcherd.outputs import BY_NAME
from watcherd.values import Intent

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from watcherd.values import ResultFile

STAGING = ".staging"
MODELS = "models"
"""The folder of the results that further models make of the same scans, one in it for each model."""
LONGEST_SUFFIX = ".nii.gz"
PROBE_BYTES = 1 << 16
FLAT_BYTES = 80
"""Bytes of a scan's name that are kept where its folders cannot be: with what is added, every file system takes it."""

Place = Literal["free", "taken", "blocked"]
"""What lies at a path below the outbox: nothing, something, or something else where one of its folders belongs."""

_FORMER = re.compile(r"\d+-(-?\d+)(\..*)?|probe")
"""Names in the staging folder without a service's own, as of versions that knew of no other service."""

_BLOCKED = frozenset({errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})


class ResultLostError(WatcherdError):
    """A staged result is gone, and its final name does not hold it either."""


class NoPlaceError(WatcherdError):
    """A scan's results cannot lie anywhere in the outbox: something else is where a folder of ours belongs."""


class PlaceClosedError(WatcherdError):
    """One folder below the outbox may not be written, or not be looked into, while the outbox as a whole can be."""


class Outbox:
    """The folder of results. Only this class changes anything in it, besides the marker that says whose it is.

    ``owner``: what the names of this service in the staging folder begin with. ``beside``: the models that have folders
    of their own at the moment, which no scan's folder may be or lie in. ``model``: the one of these whose names are
    meant; empty: the usual names.
    """

    def __init__(
        self,
        root: Path,
        *,
        layout: str = "per-kind",
        owner: str = "",
        beside: Callable[[], Collection[str]] = tuple,
        model: str = "",
    ) -> None:
        self._root = root
        self._owner = owner
        self._beside = beside
        self._below = f"{MODELS}/{model}/".encode() if model else b""
        self._ours = f"{owner}-" if owner else ""
        self._prefix = os.fsencode(root) + b"/"
        self._whole = layout == "per-scan"

    def of_model(self, model: str) -> Outbox:
        """The same outbox, in which a scan's results have their names in this model's folder; empty: the usual ones."""
        if not model:
            return self
        layout = "per-scan" if self._whole else "per-kind"
        return Outbox(self._root, layout=layout, owner=self._owner, model=model)

    def prepare(self) -> None:
        """Make the outbox and its staging folder, readable for the same people."""
        make_folder(self._root)
        make_folder(self._root / STAGING, mode=0o700)

    def try_to_write(self) -> None:
        """Raises OSError when a file cannot be written to the outbox at the moment."""
        probe = self._root / STAGING / f"{self._ours}probe"
        with probe.open("wb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
        probe.unlink()

    def seat(self, job_id: int, attempt: int, *, anew: bool = False) -> tuple[Path, str]:
        """The folder in which the results of one attempt are staged, and what their names begin with.

        With a folder for each scan ``anew`` makes it, empty. Else all attempts share one: to make a folder for each and
        to remove it takes a tenth of what the main process does for a scan.
        """
        name = f"{self._ours}{job_id}-{attempt}"
        if not self._whole:
            return self._root / STAGING, name
        return self.staging(job_id, attempt) if anew else self._root / STAGING / name, "result"

    def staging(self, job_id: int, attempt: int) -> Path:
        """The folder of an attempt, made anew and empty."""
        folder = self._root / STAGING / f"{self._ours}{job_id}-{attempt}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            shutil.rmtree(folder)
            folder.mkdir()
        return folder

    def discard(self, job_id: int, attempt: int) -> None:
        """Remove what an attempt that failed has staged."""
        name = f"{self._ours}{job_id}-{attempt}"
        _discard(self._root / STAGING / name)
        for path in (self._root / STAGING).glob(f"{name}.*"):
            path.unlink(missing_ok=True)

    def discard_staging(self, kept: Collection[Path] = ()) -> int:
        """Remove what earlier runs left in staging, but for what is still promised, and folders of it; the number.

        Only what is ours: names of this service, and those of versions whose names were all alike.
        """
        staged = (self._root / STAGING).iterdir()
        leftovers = [path for path in staged if path not in kept and _is_of(self._ours, path.name)]
        for leftover in leftovers:
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
        return len(leftovers)

    def plain_stem(self, source: bytes) -> bytes:
        """The name that a scan's results have as long as nobody else's have it."""
        return file_names.result_stem(source, len(LONGEST_SUFFIX))

    def stem(
        self,
        source: bytes,
        sha256: str,
        needed: Sequence[str],
        place: Callable[[bytes], Place],
        spare: Sequence[str] = (),
    ) -> bytes:
        """The name for a scan's results: its own, or with its hash when another scan's result has it.

        Where the scan's folders cannot be in the outbox, its results lie beside them, under its name and its hash.
        ``source``: path below the inbox. ``needed``: kinds of results that come; ``spare``: kinds that may come later,
        and have to be free. ``place``: what is at a path below the outbox. Raises `NoPlaceError`.
        """
        plain = self.plain_stem(source)
        flat = _flat(plain, sha256)
        for candidates in (_candidates(plain, file_names.with_hash(plain, sha256)), _candidates(flat)):
            for stem in candidates:
                places = [place(path) for path in self.paths(stem, needed)]
                if "blocked" in places or self._is_ours(stem):
                    break
                if "taken" not in places and all(place(path) != "taken" for path in self.paths(stem, spare)):
                    return stem
        blocked = next(path for path in self.paths(flat, needed) if place(path) == "blocked")
        raise NoPlaceError(
            f"The results cannot lie in the outbox: {file_names.show(os.path.dirname(blocked))!r} is no folder there.",
            hint="Move what has its name out of the way; then it is tried again.",
        )

    def _is_ours(self, stem: bytes) -> bool:
        """Whether a scan's own folder would be, or lie in, the staging folder, or a model's."""
        if not self._whole or self._below:
            return False
        first, *rest = os.fsdecode(stem).split("/")
        beside = self._beside() if first == MODELS else ()
        return first == STAGING or (bool(beside) and (not rest or rest[0] in beside))

    def paths(self, stem: bytes, kinds: Sequence[str]) -> list[bytes]:
        """Every path below the outbox that results of these kinds may have under this stem.

        With a folder for each scan also that folder: it appears as a whole, so nothing may be there before.
        """
        if not self._whole:
            return [self._below + folder + stem + suffix for folder, suffix in _shapes(tuple(kinds))]
        finals = [self.final(stem, kind, suffix) for kind in kinds for suffix in BY_NAME[kind].suffixes]
        whole = self._whole and any(kind != "failed" for kind in kinds)
        return [self._below + stem, *finals] if whole else finals

    def final(self, stem: bytes, kind: str, suffix: str) -> bytes:
        """Where a result goes, below the outbox."""
        if self._whole and kind != "failed":
            return self._below + stem + b"/" + (kind + suffix).encode()
        return self._below + BY_NAME[kind].folder.encode() + b"/" + stem + suffix.encode()

    def place(self, final: bytes, folders: dict[bytes, bool] | None = None) -> Place:
        """What lies at a path below the outbox. Raises OSError when the outbox does not answer.

        ``folders``: those that were looked at, and whether something may lie there; a batch's look is one look.
        """
        path = self._prefix + final
        try:
            os.lstat(path)
        except FileNotFoundError:
            folder = path.rpartition(b"/")[0]
            known = folders.get(folder) if folders is not None else None
            if known is None:
                known = _may_be_folder(folder)
                if folders is not None:
                    folders[folder] = known
            return "free" if known else "blocked"
        except PermissionError:  # a folder that may not be looked into: `publish` says so, and overwrites nothing
            return "free"
        except OSError as error:
            if error.errno in _BLOCKED:
                return "blocked"
            raise
        return "taken"

    def intents(self, stem: bytes, staged: Sequence[ResultFile]) -> list[Intent]:
        """The staged files with their final names; those of a folder to be published whole have them already."""
        return [
            Intent(
                kind=file.kind,
                staged=self._named(file),
                final=self.final(stem, file.kind, suffix_of(file.path.name)),
                sha256=file.sha256,
                bytes=file.bytes,
            )
            for file in staged
        ]

    def _named(self, file: ResultFile) -> Path:
        """Where a staged file lies from now on; a try before this one may have got that far."""
        if not self._whole:
            return file.path
        named = file.path.with_name(file.kind + suffix_of(file.path.name))
        if file.path.exists():
            file.path.rename(named)
        return named

    def sync(self) -> None:
        """Make everything in the outbox durable."""
        sync_filesystem(self._root)

    def publish(self, deliveries: Sequence[Sequence[Intent]]) -> None:
        """Give many scans' results their final names, durably; may be run again after a crash.

        Raises OSError when the outbox cannot be written, `PlaceClosedError` when one of its folders cannot,
        FileExistsError when somebody else's file has the name now, and `ResultLostError` when a staged file has
        disappeared.
        """
        for intents in deliveries:
            if self._whole and intents[0].kind != "failed":
                self._rename_folder(intents)
            for intent in intents:
                if intent.kind != "result":
                    self._rename(intent)
                    crash_point("deliver.renamed")
        self.sync()
        for intents in deliveries:
            for intent in intents:
                if intent.kind == "result":
                    self._rename(intent)
                    crash_point("deliver.json-renamed")
        self.sync()
        for folder in {intents[0].staged.parent for intents in deliveries}:
            if folder.name != STAGING:
                _discard(folder)

    def _rename_folder(self, intents: Sequence[Intent]) -> None:
        """All of a scan's results at once; what is left to do then is to see that each has its name."""
        staged = intents[0].staged.parent
        if all(intent.staged.exists() for intent in intents):
            target = os.path.dirname(self._absolute(intents[0].final))
            with self._in_the_place_of(intents[0]):
                os.makedirs(os.path.dirname(target), exist_ok=True)
                rename_new(staged, target)

    @contextlib.contextmanager
    def _in_the_place_of(self, intent: Intent) -> Iterator[None]:
        """Tell an error that is about one scan's folder, or one model's, from one about what all scans share, which
        pauses all: the outbox, its staging folder, and the folder of this kind of result.

        Raises `PlaceClosedError` for the former.
        """
        try:
            yield
        except PermissionError as error:
            self.try_to_write()
            top = intent.final.split(b"/")[0]
            alone = top == MODELS.encode() or (self._whole and intent.kind != "failed")
            shared = [self._prefix] if alone else [self._prefix, self._prefix + top]
            if not all(map(_may_be_written, shared)):
                raise
            folder = file_names.show(os.path.dirname(intent.final)) or "."
            raise PlaceClosedError(
                f"The outbox's folder {folder!r} may not be written by uid {os.geteuid()}: {error.strerror}.",
                hint="Give the service's user write permission there; it is tried again by itself.",
            ) from error

    def _rename(self, intent: Intent) -> None:
        with self._in_the_place_of(intent):
            self._give_name(intent)

    def _give_name(self, intent: Intent) -> None:
        target = self._absolute(intent.final)
        try:
            _move(intent.staged, target)
        except FileNotFoundError as error:
            if hash_file(target) != intent.sha256:
                raise ResultLostError(
                    f"The staged {intent.kind} {intent.staged} is gone and {os.fsdecode(target)!r} is not it.",
                    hint="Ask for the job again with `watcherd retry`.",
                ) from error
        except FileExistsError:
            if hash_file(target) != intent.sha256:
                raise
            intent.staged.unlink(missing_ok=True)

    def remove(self, earlier: Sequence[Intent]) -> None:
        """Take away results of ours that no longer hold, those of one name: the JSON first.

        A file that is not ours any more stays. Where the JSON is another one, all stays that it may list: a restored
        backup does not know what was delivered after it. Raises OSError and `PlaceClosedError`, as `publish` does.
        """
        for intent in sorted(earlier, key=lambda intent: intent.kind != "result"):
            path = self._absolute(intent.final)
            with self._in_the_place_of(intent):
                found = hash_file(path)
                if intent.kind == "result" and found not in (None, intent.sha256):
                    return
                if found == intent.sha256:
                    os.unlink(path)
            if self._whole and intent.kind != "failed":
                with contextlib.suppress(OSError):  # as long as something else is in it
                    os.rmdir(os.path.dirname(path))

    def copy(self, final: bytes, sha256: str, folder: Path, name: str) -> Path | None:
        """Copy a delivered result into ``folder``; None when it is gone or no longer what was delivered."""
        target = folder / name
        try:
            shutil.copyfile(self._absolute(final), os.fsencode(target))
        except OSError as error:
            if error.errno in _BLOCKED or isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
                return None
            raise
        return target if hash_file(os.fsencode(target)) == sha256 else None

    def _absolute(self, final: bytes) -> bytes:
        return self._prefix + final


@lru_cache(maxsize=256)
def _shapes(kinds: tuple[str, ...]) -> tuple[tuple[bytes, bytes], ...]:
    """What stands before and behind a stem in the paths of these kinds."""
    rows = [BY_NAME[kind] for kind in kinds]
    return tuple((f"{row.folder}/".encode(), suffix.encode()) for row in rows for suffix in row.suffixes)


def _is_of(ours: str, name: str) -> bool:
    """Whether a name in the staging folder is one of this service's, or of a version whose names were all alike."""
    return bool(ours and name.startswith(ours)) or _FORMER.fullmatch(name) is not None


def _move(staged: Path, target: bytes) -> None:
    """Rename, and make the target's folder if it is that which is missing. Raises FileNotFoundError and OSError."""
    try:
        rename_new(staged, target)
    except FileNotFoundError:
        if not staged.exists():
            raise
        os.makedirs(os.path.dirname(target), exist_ok=True)
        rename_new(staged, target)


def _may_be_written(folder: bytes) -> bool:
    """Whether this process may make names in a folder, if it is there."""
    return not os.path.lexists(folder) or os.access(folder, os.W_OK | os.X_OK, effective_ids=True)


def _may_be_folder(folder: bytes) -> bool:
    """Whether a folder is there, or can be made; a link that leads nowhere is in the way."""
    while True:
        try:
            return stat.S_ISDIR(os.stat(folder).st_mode)
        except FileNotFoundError:
            if os.path.islink(folder):
                return False
            folder = os.path.dirname(folder)


def _discard(folder: Path) -> None:
    """Remove a staging folder, if it is there; what is in it was promised to nobody."""
    try:
        folder.rmdir()
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)


def hash_file(path: bytes) -> str | None:
    """SHA-256 of a file in hex; None when there is none."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        if error.errno in _BLOCKED or isinstance(error, FileNotFoundError | IsADirectoryError):
            return None
        raise


def suffix_of(name: str) -> str:
    """The suffix of a result's file name: ``.nii.gz`` as a whole, else what stands behind the last dot."""
    return ".nii.gz" if name.endswith(".nii.gz") else os.path.splitext(name)[1]


def _flat(plain: bytes, sha256: str) -> bytes:
    """The name of results that cannot lie in their scan's folders: beside these, short, and with the hash."""
    return file_names.with_hash(file_names.cut(plain.rpartition(b"/")[2], FLAT_BYTES), sha256)


def _candidates(*first: bytes) -> Iterable[bytes]:
    """These names, then the last of them with a number."""
    yield from first
    number = 2
    while True:
        yield first[-1] + b"-%d" % number
        number += 1
