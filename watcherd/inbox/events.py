"""The kernel's file events: hints where to look, so that nobody waits for the next sweep.

No event source is the truth: queues overflow, network file systems raise none, watches run out. So nothing here needs
to be complete, and whenever something may have been missed, a sweep is asked for. Folders are watched, never files. A
sweep tells of every folder before it reads it, so that a watch is there first and nothing slips in between.

Events come from watchdog's inotify reader. Its ``Observer`` would walk new folders itself, watch ignored ones too, be
silent when watches run out, keep any number of events, and hold all of them back for half a second after each file that
leaves the inbox, which with an archive is each file.
"""

from __future__ import annotations

import errno
import itertools
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from watchdog.observers.inotify_c import CallbackId, InotifyConstants, InotifyEvent, InotifyFD, Mask

from watcherd.linux.threads import name_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from watcherd.inbox.sweep import IgnoreList

CAPACITY = 8192
"""Hints that are kept; more than these become one sweep."""

_MASK = Mask(
    InotifyConstants.IN_CREATE
    | InotifyConstants.IN_CLOSE_WRITE
    | InotifyConstants.IN_MOVED_TO
    | InotifyConstants.IN_ATTRIB
    | InotifyConstants.IN_DELETE_SELF
    | InotifyConstants.IN_MOVE_SELF
    | InotifyConstants.IN_ONLYDIR
    | InotifyConstants.IN_DONT_FOLLOW
    | InotifyConstants.IN_EXCL_UNLINK
)
"""No IN_MODIFY: a file that is being written is looked at when it is due, and when it is closed. No IN_DELETE and
IN_MOVED_FROM: what is gone is seen to be gone when it is due, and our own disposals would be most of them."""

_RAN_OUT = frozenset({errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_ROOT_LOST = InotifyConstants.IN_DELETE_SELF | InotifyConstants.IN_MOVE_SELF | InotifyConstants.IN_UNMOUNT

LIMIT_HINT = (
    "Raise fs.inotify.max_user_watches (folders) or fs.inotify.max_user_instances with sysctl. Until then the inbox is "
    "swept more often, and nothing is lost."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hints:
    """What happened since the last time, in paths below the inbox.

    ``paths``: files to look at. ``folders``: new ones, to sweep. ``sweep``: events were lost, so sweep everything.
    """

    paths: tuple[bytes, ...] = ()
    folders: tuple[bytes, ...] = ()
    sweep: bool = False


class Events:
    """Listens to the folders of one inbox.

    ``wake`` is called from the reader's thread when there may be hints to `fetch`. ``warn`` gets one sentence, once,
    when not everything can be watched; `complete` is False from then on.
    """

    def __init__(
        self,
        inbox: Path,
        ignore: IgnoreList,
        *,
        wake: Callable[[], None],
        warn: Callable[[str], None],
        capacity: int = CAPACITY,
    ) -> None:
        self._inbox = os.fsencode(inbox)
        self._ignore = ignore
        self._wake = wake
        self._warn = warn
        self._capacity = capacity
        self._reader: _Reader | None = None
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._watches: dict[bytes, int] = {}
        self._folders: dict[int, bytes] = {}
        self._paths: dict[bytes, None] = {}
        self._new_folders: dict[bytes, None] = {}
        self._sweep = False
        self._limited = False
        self._warned = False

    @property
    def running(self) -> bool:
        """Whether it listens at all: not where there were no descriptors for it."""
        return self._reader is not None

    @property
    def complete(self) -> bool:
        """Whether events come from every folder that was asked for; if not, sweep more often."""
        return self._reader is not None and not self._limited

    def start(self) -> None:
        """Begin to listen; folders are added by `watch`."""
        try:
            self._reader = _Reader(self)
            self._reader.start()
        except OSError as error:
            self._reader = None
            self._out_of_watches(error)

    def stop(self) -> None:
        """Stop listening. Hints that were not fetched are forgotten."""
        if self._reader is not None:
            self._reader.stop()
            self._reader.join()
            self._reader = None
        with self._lock:
            self._watches.clear()
            self._folders.clear()

    def watch(self, folder: bytes) -> None:
        """Watch a folder below the inbox, empty for the inbox itself; one that is watched already costs nothing.

        It never fails: a folder that is gone will not be missed, and when watches run out there is the sweep.
        """
        # Under the lock, so that the reader cannot meet an event of a watch whose folder it does not know yet.
        with self._lock:
            if folder in self._watches or self._reader is None:
                return
            try:
                watch = self._add_watch(self._reader, folder)
            except OSError as error:
                if error.errno in _RAN_OUT:
                    self._out_of_watches(error)
                return
            if watch >= 0:  # watchdog returns -1 for a folder that may not be read
                self._watches[folder] = watch
                self._folders[watch] = folder

    def _add_watch(self, reader: _Reader, folder: bytes) -> int:
        path = self._inbox + b"/" + folder if folder else self._inbox
        # A number of its own each time: watchdog warns of one that a renamed folder brings again.
        return reader.add_callback(path, _MASK, reader, CallbackId(next(self._numbers)))

    def fetch(self) -> Hints:
        """The hints since the last call."""
        with self._lock:
            hints = Hints(paths=tuple(self._paths), folders=tuple(self._new_folders), sweep=self._sweep)
            self._paths.clear()
            self._new_folders.clear()
            self._sweep = False
        return hints

    def rewatch(self) -> None:
        """Begin anew, for an inbox that is another folder now; the next sweep sets the watches."""
        self.stop()
        self._limited = False
        self.start()

    def on_event(self, event: InotifyEvent) -> None:
        """Called by the reader, in its thread."""
        if event.is_queue_overflow:
            with self._lock:
                self._watches.clear()
                self._lost()
        elif event.is_ignored:
            with self._lock:
                self._forget(event.wd)
        else:
            self._note(event)
        self._wake()

    def _note(self, event: InotifyEvent) -> None:
        with self._lock:
            folder = self._folders.get(event.wd)
            if folder is None:
                self._lost()
                return
            if not event.name:
                if event.mask & _ROOT_LOST and not folder:
                    self._lost()
                return
            if self._ignore.has(os.fsdecode(event.name)):
                return
            path = folder + b"/" + event.name if folder else event.name
            if not event.is_directory:
                self._keep(self._paths, path)
            elif event.is_create or event.is_moved_to:
                # A watch under this name is that of a folder that was here before.
                self._forget_below(path)
                self._keep(self._new_folders, path)

    def _keep(self, hints: dict[bytes, None], path: bytes) -> None:
        if self._sweep:
            return
        if len(self._paths) + len(self._new_folders) >= self._capacity:
            self._lost()
        else:
            hints[path] = None

    def _lost(self) -> None:
        """Hints are missing, or too many: a sweep finds everything that they could have said."""
        self._sweep = True
        self._paths.clear()
        self._new_folders.clear()

    def _forget(self, watch: int) -> None:
        folder = self._folders.pop(watch, None)
        if folder is not None and self._watches.get(folder) == watch:
            del self._watches[folder]

    def _forget_below(self, folder: bytes) -> None:
        prefix = folder + b"/"
        for path in [path for path in self._watches if path == folder or path.startswith(prefix)]:
            del self._watches[path]

    def _out_of_watches(self, error: OSError) -> None:
        self._limited = True
        if not self._warned:
            self._warned = True
            self._warn(f"Not every folder of the inbox can be watched: {error.strerror}. {LIMIT_HINT}")


class _Reader(InotifyFD):
    """Watchdog's reader of inotify, with the events going to one place instead of to a callback for each watch."""

    def __init__(self, events: Events) -> None:
        try:
            super().__init__()
        except OSError:
            if (descriptor := getattr(self, "_inotify_fd", None)) is not None:
                os.close(descriptor)  # there was none left for the pipe beside it
            raise
        self._events = events

    def run(self) -> None:
        """Read events until `stop`, under a name of its own."""
        name_thread("events")
        super().run()

    def handle_event(self, event: InotifyEvent) -> None:
        if event.is_ignored:
            super().handle_event(event)
        self._events.on_event(event)

    def on_event(self, event: InotifyEvent) -> None:
        """Nothing: `handle_event` has seen it."""

    def on_watch_deleted(self, wd: Any) -> None:
        """Nothing: `handle_event` has seen it."""

    def on_queue_overflow(self) -> None:
        """Nothing: `handle_event` has seen it."""
