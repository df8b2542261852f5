"""The daemon: one run of the service, from its start to its end.

Start: lock, database, what the last run left, the model, then the inbox; READY when the model has passed its checks.
Stop: the inbox, the claims, the replicas (their batches end), delivery of what is computed, the database. SIGTERM and
SIGINT stop, a second one hurries; SIGHUP reads the configuration again.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import threading
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from watcherd import logs
from watcherd.crash_points import crash_point
from watcherd.errors import BusyError, ConfigError, UnavailableError, WatcherdError
from watcherd.new_files_first import NewFilesFirst
from watcherd.notify.hooks import Hooks
from watcherd.notify.systemd import Notifier
from watcherd.outbox.owner import Owner, Ownership
from watcherd.pauses import Pauses, StoppedError
from watcherd.service.assembly import assemble
from watcherd.service.clock import longest_wait
from watcherd.service.ending import Ending
from watcherd.service.opening import open_database, prepare_folders, scratch_folder
from watcherd.service.placing import refuse_all_unknown
from watcherd.service.pulse import is_done
from watcherd.service.threads import Threads
from watcherd.set_aside import SetAside
from watcherd.state import lock
from watcherd.state.mailbox import PAUSED_SINCE
from watcherd.state.run import Run, Settings
from watcherd.store import history, overview, runs, waits
from watcherd.store import queue as jobs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watcherd.config import Config
    from watcherd.service.assembly import Parts
    from watcherd.store import Database

TICK_SECONDS = 1.0
"""Seconds between two turns of the main thread."""
ONCE_TICK_SECONDS = 0.1
"""Seconds between two turns with ``--once``, which ends when nothing is left to do."""
DRAIN_SECONDS = 10.0
"""Seconds that computed scans get at a stop to be drawn and delivered."""
HOOK_SECONDS = 5.0
"""Seconds that hooks under way get at a stop; the others are called after the next start."""
JOIN_SECONDS = 2.0
"""Seconds that the metrics' thread, and that of the models, get at a stop."""
INTAKE_SECONDS = 30.0
"""Seconds that the intake gets at a stop to queue what it has copied."""
EXTEND_SECONDS = 60.0
"""Seconds more that systemd is asked to wait, again and again, while the model loads."""
COLLECT_AFTER = 10_000
"""Allocations between two garbage collections. A job makes some hundreds: with Python's default of 700, collecting took
3 to 5 % of the CPU. Objects alive after start-up are frozen and never scanned again."""


class Daemon:
    """One run of the service. Everything here runs in the main thread."""

    def __init__(self, config: Config, *, path: Path | None = None, once: bool = False) -> None:
        self._config = config
        self._path = path
        self._once = once
        self._log = logs.get_logger()
        self._notifier = Notifier()
        self._ending = Ending()
        self._threads = Threads(self._ending)

    def run(self) -> int:
        """Run until stopped; the exit code. Raises `WatcherdError` for what keeps it from starting."""
        config = self._config
        refuse_all_unknown(config.model_tables)
        prepare_folders(config)
        with lock.sole_owner(config.state.lock), contextlib.ExitStack() as stack:
            self._ending.handle_signals()
            database = stack.enter_context(open_database(config, self._upgrading))
            pauses = Pauses(threading.Event())
            ownership = stack.enter_context(Ownership(config.outbox.path, Owner.here(config.state.path)))
            with contextlib.suppress(OSError):  # an outbox that cannot be written now is waited for below
                ownership.claim()
            run = self._begin(database, pauses)
            hooks = Hooks(config, database, pauses, set_aside=run.set_aside, path=self._path)
            hooks.begin()
            self._requeue(run)
            scratch = stack.enter_context(scratch_folder(config.state.path))
            parts = assemble(
                run,
                ending=self._ending,
                notifier=self._notifier,
                hooks=hooks,
                scratch=scratch,
                path=self._path,
                once=self._once,
            )
            self._stay_paused(run, parts)
            stack.callback(parts.imaging.stop)
            self._threads.start("metrics", parts.exporter.run)
            self._threads.start("hooks", hooks.run)
            try:
                self._load_model(parts, scratch)
                self._open_inbox(run, parts, ownership)
                self._watch(run, parts, hooks)
            finally:
                self._shut_down(run, parts, hooks)
        if self._ending.failure is not None:
            raise self._ending.failure
        return 0

    # -------------------------------------------------------------------------------------------------------- start

    def _upgrading(self, fraction: float) -> None:
        """A long history takes its time: systemd is asked to wait, and people are told."""
        self._notifier.extend(EXTEND_SECONDS, f"starting: the history is brought up to date, {fraction:.0%}")

    def _begin(self, database: Database, pauses: Pauses) -> Run:
        """Put right what the last run left, as far as the database goes."""
        crash_point("recover.begun")
        boot = Path("/proc/sys/kernel/random/boot_id")
        now = datetime.now(UTC)
        run_id = database.write(
            lambda c: runs.start_run(
                c,
                pid=os.getpid(),
                host=socket.gethostname(),
                boot_id=boot.read_text().strip() if boot.exists() else None,
                version=version("watcherd"),
                now=now,
            )
        )
        longest = longest_wait(self._config)
        database.write(lambda c: waits.bound(c, now=now, longest=longest))
        set_aside = SetAside(database, pauses, run_id=run_id, marks=self._config.state.path / "handling")
        set_aside.begin()
        return Run(
            id=run_id,
            settings=Settings(self._config),
            database=database,
            pauses=pauses,
            set_aside=set_aside,
            new_files_first=NewFilesFirst(),
            stopping=pauses.stopping,
        )

    def _requeue(self, run: Run) -> None:
        """What was being worked on goes back to the queue."""
        now = datetime.now(UTC)
        requeued = run.database.write(lambda c: jobs.requeue_interrupted(c, run_id=run.id, now=now))
        crash_point("recover.requeued")
        if requeued:
            self._log.warning("jobs_requeued", count=len(requeued), reason="the last run ended while they ran")

    def _stay_paused(self, run: Run, parts: Parts) -> None:
        """A person's pause holds until that person ends it. Raises `BusyError` with ``--once``, which would not end."""
        with run.database.reader() as connection:
            since = runs.setting(connection, PAUSED_SINCE)
        if since is None:
            return
        if self._once:
            raise BusyError(
                f"The work has been paused by a person since {since}, and nothing new is begun.",
                hint="Let it go on: watcherd resume",
            )
        parts.pipeline.held.set()
        self._log.warning("still_paused", reason=f"paused by a person since {since}; watcherd resume ends it")

    def _load_model(self, parts: Parts, scratch: Path) -> None:
        """Start the replicas, and wait until each model is ready or known to have none; systemd hears how far it is."""
        parts.status.become("loading")
        parts.fleet.start(scratch)
        while not parts.fleet.settled and not self._ending.asked.is_set():
            self._ending.wake.wait(TICK_SECONDS)
            self._ending.wake.clear()
            self._notifier.extend(EXTEND_SECONDS, parts.status.line())
            parts.status.show()

    def _open_inbox(self, run: Run, parts: Parts, ownership: Ownership) -> None:
        """The models are ready: finish the last run's deliveries, then open the inbox."""
        if self._ending.asked.is_set():
            return
        parts.imaging.start()  # not sooner: a replica that starts needs the cores, and no scan can come before it

        def prepare_outbox() -> None:
            ownership.claim()
            parts.outbox.prepare()

        try:
            run.pauses.until_possible("outbox", prepare_outbox)
            parts.delivery.recover()
            run.pauses.until_possible("spool", parts.spool.prepare)
            run.pauses.until_possible("spool", lambda: _clean_spool(run, parts))
        except StoppedError:
            return
        crash_point("recover.swept")
        pipeline = parts.pipeline
        self._threads.start("models", parts.fleet.follow)
        self._threads.start("intake", parts.intake.run)
        self._threads.start("feed", pipeline.feed)
        self._threads.start("stage", pipeline.stage)
        self._threads.start("finish", pipeline.finish)
        self._threads.start("dispose", pipeline.dispose)
        pipeline.look_for_arrivals()
        parts.status.become("running")
        self._notifier.ready(parts.status.line())
        loaded = ", ".join(lane.identity.model for lane in parts.lanes.all() if lane.is_ready)
        self._log.info("daemon_ready", version=parts.status.version, model=loaded)
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER)

    # --------------------------------------------------------------------------------------------------------- work

    def _watch(self, run: Run, parts: Parts, hooks: Hooks) -> None:
        """The main thread's loop: commands, signals, signs of life."""
        ending, interval = self._ending, ONCE_TICK_SECONDS if self._once else TICK_SECONDS
        while not ending.asked.is_set():
            if ending.reload.is_set():
                ending.reload.clear()
                self._notifier.reloading()
                with contextlib.suppress(ConfigError):
                    parts.reload.reread()
                self._notifier.ready(parts.status.line())
            parts.commands.take()
            parts.clock.follow()
            if run.set_aside.due():
                parts.pipeline.try_again()
            parts.status.show()
            if parts.pulse.is_alive():
                self._notifier.watchdog()
            able = [lane.name for lane in parts.lanes.all() if lane.is_carried]
            if self._once and is_done(run, parts.intake, parts.pipeline, hooks, able):
                self._say_what_waits(run, parts, able)
                return
            ending.wake.wait(interval)
            ending.wake.clear()

    def _say_what_waits(self, run: Run, parts: Parts, able: Sequence[str]) -> None:
        """With ``--once`` the exit code tells of scans whose model could do nothing."""
        with run.database.reader() as connection:
            waiting = {name: n for name, n in overview.queued_by_model(connection).items() if name not in able}
        if not waiting:
            return
        reasons = parts.fleet.without_replicas()
        first = next(iter(waiting))
        why = reasons[first].message if first in reasons else "The configuration has no model of this name."
        others = f" So do those for {', '.join(list(waiting)[1:])}." if len(waiting) > 1 else ""
        hint = reasons[first].hint if first in reasons else f"Put [models.{first}] back, or: watcherd retry --model"
        self._ending.fail(
            UnavailableError(f"{waiting[first]} scans wait for the model {first}: {why}{others}", hint=hint)
        )

    # --------------------------------------------------------------------------------------------------------- stop

    def _shut_down(self, run: Run, parts: Parts, hooks: Hooks) -> None:
        """Stop in order: nothing new, let batches end, deliver what is computed, give the rest back."""
        pipeline, threads = parts.pipeline, self._threads
        parts.status.become("stopping")
        self._notifier.stopping("stopping: the batches that are being computed end")
        self._log.info("daemon_stopping")
        run.stopping.set()
        parts.requests.wake.set()
        pipeline.wake()
        seconds = run.config.limits.stop_seconds
        threads.join("feed", seconds)
        parts.fleet.stop(within=seconds)
        pipeline.no_more(DRAIN_SECONDS, self._ending.hurry)
        threads.join("stage", DRAIN_SECONDS)
        threads.join("finish", DRAIN_SECONDS)
        threads.join("dispose", DRAIN_SECONDS)
        threads.join("intake", INTAKE_SECONDS)
        threads.join("models", JOIN_SECONDS)
        with contextlib.suppress(WatcherdError):
            pipeline.release_all()
            run.database.write(lambda c: runs.end_run(c, run.id, self._how_it_ended(), now=datetime.now(UTC)))
        hooks.stop(HOOK_SECONDS)
        parts.exporter.stop()
        threads.join("metrics", JOIN_SECONDS)
        parts.status.clear()
        self._log.info("daemon_stopped")

    def _how_it_ended(self) -> str:
        if self._ending.failure is not None:
            return "failed"
        return "finished" if self._once and not self._ending.by_signal else "stopped"


def _clean_spool(run: Run, parts: Parts) -> None:
    def known(names: Sequence[str]) -> set[str]:
        with run.database.reader() as connection:
            return history.spool_names(connection, names)

    parts.spool.clean(known)
