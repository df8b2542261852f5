"""From the inbox to the queue: look, wait until settled, copy into the spool, one transaction.

One thread runs it, and owns the spool. Events are hints; the sweep is the truth. Other threads tell it things through
`IntakeRequests`, and learn from `Expected` what is not in the queue yet.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from watcherd.errors import StoreError, TransientError
from watcherd.inbox.tidy import EmptyFolders
from watcherd.intake.copies import Copies
from watcherd.intake.fates import Fates
from watcherd.intake.look import Look
from watcherd.intake.presence import PRESENCE_SECONDS, InboxPresence, InboxState
from watcherd.intake.take import IntoQueue, Take
from watcherd.intake.waiting import Waiting
from watcherd.pauses import RETRY_SECONDS, StoppedError, in_words, is_passing

if TYPE_CHECKING:
    from collections.abc import Callable

    from watcherd.inbox.expected import Expected
    from watcherd.inbox.requests import IntakeRequests
    from watcherd.inbox.spool import Spool
    from watcherd.inference.pool.lanes import Lanes
    from watcherd.state.run import Run
    from watcherd.store import ModelIdentity


class Intake:
    """Turns files of the inbox into jobs: the loop of the intake's thread, which runs all parts that are made here.

    Other threads use `idle`, `state` and `turned_at`, and nothing else of it.
    """

    def __init__(
        self,
        run: Run,
        spool: Spool,
        lanes: Lanes[ModelIdentity],
        requests: IntakeRequests,
        expected: Expected,
        queued: Callable[[], None],
        once: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._requests = requests
        self._expected = expected
        self._queued = queued
        self._clock = clock
        self._folders = EmptyFolders([os.fsencode(profile.folder) for profile in run.config.profiles.values()])
        self._presence = InboxPresence(run, requests, clock=clock)
        self._waiting = Waiting(run, expected, clock=clock, once=once)
        self._fates = Fates(run, self._presence, self._waiting)
        self._look = Look(run, self._presence, self._waiting, self._fates, expected, self._folders, queued)
        self._copies = Copies(run, spool, requests, self._folders, clock=clock, once=once)
        self._into_queue = IntoQueue(
            run, lanes, requests, self._presence, self._waiting, self._fates, self._copies, queued
        )
        self._take = Take(run, spool, self._presence, self._waiting, self._fates, self._look.sweeps, self._into_queue)
        expected.begin(self._presence.quiet)

    # --------------------------------------------------------------------------------------- what other threads ask

    @property
    def idle(self) -> bool:
        """Whether everything in the inbox has been looked at and taken, as far as can be known."""
        return self._expected.nothing and not self._requests.waiting

    @property
    def state(self) -> InboxState:
        """The inbox as it was at the last look."""
        return self._presence.state

    @property
    def turned_at(self) -> float:
        """When the loop has last begun a turn."""
        return self._presence.turned_at

    # ------------------------------------------------------------------------------------------------------ the loop

    def run(self) -> None:
        """Work until the service stops."""
        events = self._presence.events
        self._presence.turned_at = self._clock()  # it was made long before: the model had to be loaded
        self._expected.begin(self._presence.quiet)
        if self._run.config.inbox.events:
            events.start()
        try:
            while not self._run.stopping.is_set():
                self._turn()
            self._into_queue.finish(wait=True)
            self._copies.gather(self._into_queue.coming, wait=True)
            self._copies.remove()
        except StoppedError:
            pass
        finally:
            events.stop()
            self._presence.close()

    def _turn(self) -> None:
        """Look at what is due, take what has settled, then wait for the next thing to do."""
        wake = self._requests.wake
        wake.clear()
        try:
            self._take_requests()
            self._into_queue.finish()
            self._copies.gather(self._into_queue.coming)
            self._run_errands()
            if not self._is_online():
                wake.wait(PRESENCE_SECONDS)
                return
            self._look.notice()
            due = self._waiting.settler.due(self._clock())
            with self._waiting.ahead(len(due)):
                self._look.look_again(due)
                self._take.take_settled()
            self._clean()
        except OSError as error:  # the inbox itself does not answer: look whether it is still there
            self._presence.look_soon()
            self._look.sweeps.begin_anew()  # what was told of the files of this turn is told no more
            self._run.pauses.set("inbox", in_words(error))
            self._run.stopping.wait(RETRY_SECONDS)
            return
        except (TransientError, StoreError) as error:  # what was not taken is found again by the next sweep
            if not is_passing(error):
                raise
            self._run.pauses.set("state" if isinstance(error, StoreError) else "spool", in_words(error))
            self._look.sweeps.begin_anew()
            self._run.stopping.wait(RETRY_SECONDS)
            return
        finally:
            self._waiting.tell_of_sidecars()
        self._run.pauses.clear("inbox")
        self._run.pauses.clear("state")
        wake.wait(self._pause())

    def _take_requests(self) -> None:
        """Take what other threads have told, and tell how long frames wait for one another now."""
        self._expected.set_quiet(self._presence.quiet)
        if self._requests.take_sweep():
            self._look.sweep_soon()
        for path in self._requests.take_left():
            self._folders.emptied(path.rpartition(b"/")[0], self._clock())

    def _run_errands(self) -> None:
        """Do what others wait for. It may put a copy into the spool that is about to go, or remove one that a batch on
        its way into the queue brings again: so nothing is on its way then, and nothing about to go."""
        if not self._requests.waiting:
            return
        self._into_queue.finish(wait=True)
        self._copies.gather(self._into_queue.coming, wait=True)
        self._copies.remove()
        while (errand := self._requests.take_errand()) is not None:
            errand()

    def _has_to_look(self) -> bool:
        """Whether somebody has woken us, or a file is due."""
        due = self._waiting.settler.next_wakeup()
        return self._requests.wake.is_set() or (due is not None and due <= self._clock())

    def _clean(self) -> None:
        self._copies.clean(self._presence.root if self._presence.is_open else None, self._has_to_look)

    def _pause(self) -> float:
        """Seconds until there is something to do."""
        parts = (self._look.next_wakeup, self._presence.next_look, self._waiting.next_wakeup, self._copies.next_wakeup)
        return max(0.0, min(parts) - self._clock())

    # --------------------------------------------------------------------------------------------- the inbox's coming

    def _is_online(self) -> bool:
        now, presence = self._clock(), self._presence
        if presence.has_jumped(now):
            self._look.sweep_soon()
        if now < presence.next_look:
            return presence.online
        if presence.look(now):
            self._open()
        presence.show(settling=len(self._waiting.settler))
        if presence.tell():
            self._queued()  # sources whose jobs have ended can leave it now
        return presence.online

    def _open(self) -> None:
        """The inbox is there, or is another folder than before: watch and sweep all of it."""
        self._presence.open()
        self._look.sweeps.begin_anew()
        self._look.sweep_soon()
        self._waiting.begin(network=self._presence.network)
        if self._run.config.inbox.events:
            self._presence.events.rewatch()
        self._look.dispose_again()
