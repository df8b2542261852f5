"""What other threads ask of the one that owns inbox and spool: messages, which it takes when its loop turns."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

from watcherd.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class IntakeRequests:
    """A mailbox behind one lock: any thread puts something in, the intake's thread takes it out.

    ``wake``: set whenever something was put in that cannot wait; the intake waits for it. Whoever sets it by itself has
    the loop turn now.
    """

    def __init__(self) -> None:
        self.wake = threading.Event()
        self._lock = threading.Lock()
        self._sweep = False
        self._clean = False
        self._left: list[bytes] = []
        self._errands: deque[Callable[[], None]] = deque()
        self._online = True

    # ---------------------------------------------------------------------------------------------- for all threads

    @property
    def inbox_online(self) -> bool:
        """Whether the inbox is there, as the intake saw it last; True while there is no intake yet."""
        return self._online

    @property
    def waiting(self) -> bool:
        """Whether some work of `do` has not been begun yet."""
        with self._lock:
            return bool(self._errands)

    def sweep(self) -> None:
        """Look at the whole inbox as soon as possible."""
        with self._lock:
            self._sweep = True
        self.wake.set()

    def scans_finished(self) -> None:
        """Some scans need their copy in the spool no longer."""
        with self._lock:
            news, self._clean = not self._clean, True
        if news:
            self.wake.set()

    def source_left(self, path: bytes) -> None:
        """A source left the inbox; its folder may have become empty."""
        with self._lock:
            self._left.append(path)

    def do(self, work: Callable[[], T], *, within: float) -> T:
        """Have the intake's thread do it, and wait for that, at most ``within`` seconds.

        Raises what the work raises, and `UnavailableError` when the intake does not answer.
        """
        answer: Future[T] = Future()

        def errand() -> None:
            try:
                answer.set_result(work())
            except Exception as error:  # raised again where it was asked for
                answer.set_exception(error)

        with self._lock:
            self._errands.append(errand)
        self.wake.set()
        try:
            return answer.result(within)
        except TimeoutError:
            if answer.done():  # the work's own
                raise
            raise UnavailableError("The intake does not answer.", hint="Look at the log.") from None

    # ------------------------------------------------------------------------------------------- for the intake alone

    def set_online(self, online: bool) -> None:
        """Tell the others whether the inbox is there."""
        self._online = online

    def take_sweep(self) -> bool:
        """Whether a sweep was asked for since the last time."""
        with self._lock:
            asked, self._sweep = self._sweep, False
        return asked

    @property
    def finished(self) -> bool:
        """Whether scans have finished since `take_finished`: asked often, so it takes nothing."""
        with self._lock:
            return self._clean

    def take_finished(self) -> bool:
        """Whether scans have finished since the last time."""
        with self._lock:
            asked, self._clean = self._clean, False
        return asked

    def take_left(self) -> list[bytes]:
        """The sources that have left the inbox since the last time."""
        with self._lock:
            left, self._left = self._left, []
        return left

    def take_errand(self) -> Callable[[], None] | None:
        """The next thing that somebody waits for."""
        with self._lock:
            return self._errands.popleft() if self._errands else None
