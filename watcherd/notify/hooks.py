"""Hooks: a program or a web server is told that a job has ended (docs/hooks.md).

At least once, and each time with the same idempotency key: the call is written down in the transaction that ends the
job (`watcherd.store.hooks`), and crossed out when it went well. In between lie a thread of its own, threads for the
calls, and growing pauses; nothing on the way of a scan waits for any of them, and no call changes a job.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from watcherd.crash_points import crash_point
from watcherd.errors import ConfigError, StoreError
from watcherd.linux.threads import NamedThread
from watcherd.logs import get_logger
from watcherd.notify.calls import CallFailedError, StoppedCallError, post, run_program
from watcherd.pauses import StoppedError, is_passing
from watcherd.set_aside import Named
from watcherd.store import history
from watcherd.store import hooks as calls

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from watcherd import config as configuration
    from watcherd.config import Config
    from watcherd.pauses import Pauses
    from watcherd.set_aside import SetAside
    from watcherd.store import Database
    from watcherd.store.hooks import HookCall

PAUSES = (10.0, 60.0, 300.0, 1200.0, 3600.0)
"""Seconds after the first, second, ... failure of a call; the last one also after all others."""
JITTER = 0.2
"""Part by which a pause is made longer or shorter, so that not all calls come back at once."""
LONGEST = timedelta(seconds=PAUSES[-1] * (1 + JITTER))
"""Time of the longest pause."""
LOOK_SECONDS = 5.0
"""Seconds between two looks for calls that are due, when nothing announces one."""
NOT_INHERITED = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
"""Variables that systemd means for the daemon alone."""

COMMAND, URL = "command", "url"


class Hooks:
    """Makes the calls of one run of the daemon. ``path``: of the configuration, for programs that call watcherd."""

    def __init__(
        self,
        config: Config,
        database: Database,
        pauses: Pauses,
        *,
        set_aside: SetAside,
        path: Path | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._database = database
        self._pauses = pauses
        self._set_aside = set_aside
        self._path = path
        self._clock = clock
        self._chance = chance
        self._log = get_logger()
        self._under_way: dict[int, threading.Thread] = {}
        self._wake = threading.Event()
        self._changed = threading.Event()
        self._ending = threading.Event()
        self._stopping = threading.Event()
        self.made: Counter[tuple[str, str]] = Counter(
            {(target, outcome): 0 for target in (COMMAND, URL) for outcome in ("called", "failed", "given-up")}
        )
        """Calls by target and outcome."""

    # ------------------------------------------------------------------------------------------------- configuration

    def begin(self) -> None:
        """Have the ends of jobs written down from now on, as the configuration says."""
        hooks, now = self._config.hooks, self._clock()
        wishes = [(event, target) for target in targets(hooks) for event in hooks.events]
        if given_up := self._database.write(lambda c: calls.wish(c, wishes, now=now)):
            self._log.warning("hook_given_up", count=given_up, reason="taken out of the configuration")
        try:
            refuse_unusable(self._config)
        except ConfigError as error:  # it may be on a share that comes back, and must not keep scans from being taken
            self._log.warning("hook_unusable", kind=COMMAND, error=error.message)

    def reconfigure(self, config: Config) -> None:
        """Use another configuration for the ends, and the calls, to come."""
        self._config = config
        self._changed.set()
        self._wake.set()

    # ------------------------------------------------------------------------------------------------------ the loop

    def run(self) -> None:
        """Make calls until `stop`; without hooks, sleep."""
        while not self._ending.is_set():
            self._wake.clear()
            if self._changed.is_set():
                self._changed.clear()
                with contextlib.suppress(StoppedError):
                    self._pauses.until_possible("state", self.begin)
            if targets(self._config.hooks):
                self.turn()
                self._wake.wait(LOOK_SECONDS)
            else:
                self._wake.wait()

    def wake(self) -> None:
        """Jobs have ended: there may be something to call."""
        self._wake.set()

    def turn(self) -> None:
        """Begin the calls that are due, as far as there is room for them."""
        under_way = set(self._under_way)  # before the look: what has ended by then is recorded
        room = self._config.hooks.at_once - len(under_way)
        if room <= 0:
            return
        try:
            with self._database.reader() as connection:
                due = calls.due(connection, now=self._clock(), limit=room, but=under_way)
        except StoreError as error:
            if not is_passing(error):
                raise
            return
        for call in due:
            thread = NamedThread(target=self._make, args=(call,), name=f"hook-{call.id}", daemon=True)
            self._under_way[call.id] = thread
            thread.start()

    @property
    def busy(self) -> bool:
        """Whether calls are being made, or are due."""
        if self._under_way:
            return True
        with self._database.reader() as connection:
            return bool(calls.due(connection, now=self._clock(), limit=1))

    def join(self, seconds: float) -> None:
        """Wait for the calls under way."""
        deadline = time.monotonic() + seconds
        for thread in list(self._under_way.values()):
            thread.join(max(0.0, deadline - time.monotonic()))

    def stop(self, within: float) -> None:
        """Begin no more calls; those under way are cut short after some seconds, and made again at the next start."""
        self._ending.set()
        self._wake.set()
        self.join(within)
        self._stopping.set()
        self.join(1.0)

    # ---------------------------------------------------------------------------------------------- one call: a thread

    def _make(self, call: HookCall) -> None:
        try:
            with self._database.reader() as connection:
                record = history.records(connection, [call.job_id])[call.job_id]
            self._call(call, record)
            crash_point("hook.called")
            self._record(call, "called", partial(calls.called, call=call, now=self._clock()))
        except CallFailedError as failure:
            self._put_off(call, failure)
        except (StoppedCallError, StoppedError):
            pass  # it stays written down
        except Exception as error:  # a fault in here must cost neither the other calls nor the daemon
            if isinstance(error, StoreError) and is_passing(error):
                return  # it stays written down, and is due
            self._set_aside.put("hooks", _named(call), error, waits=False)
            self._put_off(call, CallFailedError("a fault of watcherd; its log says more"))
        else:
            self._set_aside.done(_named(call).key)
        finally:
            del self._under_way[call.id]
            self._wake.set()

    def _call(self, call: HookCall, record: dict[str, Any]) -> None:
        hooks = self._config.hooks
        told = {"event": call.event, "idempotency_key": call.key, "outbox": str(self._config.outbox.path)}
        content = json.dumps(told | record).encode()
        if call.target == COMMAND:
            run_program(
                hooks.command,
                content=content,
                environment=environment(call, self._path),
                seconds=hooks.timeout_seconds,
                stopping=self._stopping,
            )
        else:
            secret = {name: value.get_secret_value() for name, value in hooks.headers.items()}
            post(
                hooks.url,
                content=content,
                headers={
                    "User-Agent": "watcherd",
                    "Content-Type": "application/json",
                    **secret,
                    "Idempotency-Key": call.key,
                },
                seconds=hooks.timeout_seconds,
                stopping=self._stopping,
            )

    def _put_off(self, call: HookCall, failure: CallFailedError) -> None:
        tries, now = call.tries + 1, self._clock()
        error = f"{failure.message}: {failure.tail}" if failure.tail else failure.message
        said = {"job_id": call.job_id, "kind": call.target, "attempt": tries, "reason": failure.message}
        with contextlib.suppress(StoppedError):
            if tries >= self._config.hooks.tries:
                self._record(call, "given-up", partial(calls.give_up, call=call, error=error, now=now))
                self._log.error("hook_given_up", output=failure.tail, **said)
                self._set_aside.done(_named(call).key)
                return
            pause = pause_after(tries, self._chance)
            self._record(call, "failed", partial(calls.later, call=call, error=error, not_before=now + pause))
            self._log.warning("hook_failed", output=failure.tail, wait_s=round(pause.total_seconds()), **said)

    def _record(self, call: HookCall, outcome: str, work: Callable[..., None]) -> None:
        """Write it down, and wait for a disk that refuses: a call that went well must not be made for ever."""
        self._pauses.until_possible("state", lambda: self._database.write(work))
        self.made[call.target, outcome] += 1


def _named(call: HookCall) -> Named:
    return Named(key=f"hook {call.id}", item=f"hooks.{call.target} for job {call.job_id}", job_id=call.job_id)


def targets(hooks: configuration.Hooks) -> list[str]:
    """Who is to be told."""
    return [target for target, given in ((COMMAND, hooks.command), (URL, hooks.url)) if given]


def pause_after(tries: int, chance: Callable[[], float]) -> timedelta:
    """How long a call waits that has failed so often. ``chance`` gives numbers from 0 to 1."""
    seconds = PAUSES[min(tries, len(PAUSES)) - 1]
    return timedelta(seconds=seconds * (1 + JITTER * (2 * chance() - 1)))


def environment(call: HookCall, path: Path | None) -> dict[str, str]:
    """What a program is started with: the daemon's own, without what systemd means for that alone."""
    inherited = {key: value for key, value in os.environ.items() if key not in NOT_INHERITED}
    told = {
        "WATCHERD_JOB_ID": str(call.job_id),
        "WATCHERD_JOB_STATE": call.event,
        "WATCHERD_IDEMPOTENCY_KEY": call.key,
    }
    return inherited | told | ({"WATCHERD_CONFIG": str(path)} if path else {})


def refuse_unusable(config: Config) -> None:
    """Raise `ConfigError` when the program cannot be started."""
    command = config.hooks.command
    if command and shutil.which(command[0]) is None:
        where = "a file that may be executed" if "/" in command[0] else "a program in PATH"
        raise ConfigError(
            f"hooks.command = {list(command)!r}: {command[0]} is not {where}.",
            hint="Correct the name, or make it executable (chmod +x).",
        )
