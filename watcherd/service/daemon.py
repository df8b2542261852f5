"""The daemon: builds every part, wires them, starts them in order, stops them in order.

Start: lock, database, what the last run left, the model, then the inbox; READY when the model has passed its checks.
Stop: the inbox, the claims, the replicas (their batches end), delivery of what is computed, the database. SIGTERM and
SIGINT stop, a second one hurries; SIGHUP reads the configuration again.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import socket
import stat
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from watcherd import config as configuration
from watcherd import logs, retry, run_names
from watcherd.crash_points import crash_point
from watcherd.delivery.promise import Delivery
from watcherd.errors import BusyError, ConfigError, StoreError, UnavailableError, UsageError, WatcherdError
from watcherd.flights import ReplicaRecord
from watcherd.imaging.pool import ImagingPool
from watcherd.inbox import mounts
from watcherd.inbox.spool import Spool
from watcherd.inference.machine import devices
from watcherd.inference.machine.cards import Card, Cards
from watcherd.inference.messages import LoadFailed, ReplicaSpec
from watcherd.inference.pool import placement
from watcherd.inference.pool.interface import Phase
from watcherd.inference.pool.pool import ReplicaPool
from watcherd.inference.segmenters import refuse_unknown
from watcherd.intake.intake import Intake
from watcherd.intake.refetch import Refetch
from watcherd.job import State
from watcherd.linux.threads import name_thread
from watcherd.new_files_first import NewFilesFirst
from watcherd.notify import exporter, hooks
from watcherd.notify.exporter import Exporter
from watcherd.notify.hooks import Hooks
from watcherd.notify.systemd import Notifier
from watcherd.outbox.deliver import Outbox
from watcherd.outbox.owner import Owner, Ownership
from watcherd.pauses import Pauses, StoppedError, is_passing
from watcherd.pipeline.stations import Pipeline
from watcherd.service.job_commands import JobSteering
from watcherd.set_aside import Named, SetAside, in_words
from watcherd.state import live, lock, mailbox
from watcherd.state.mailbox import PAUSED_SINCE, Command
from watcherd.store import CorruptDatabaseError, Database, ModelIdentity, backup, history, runs, waits
from watcherd.store import queue as jobs
from watcherd.wall_clock import WallClock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from watcherd.config import Config
    from watcherd.inference.messages import Outcome, Ready
    from watcherd.inference.pool.interface import Died
    from watcherd.inference.pool.placement import Plan
    from watcherd.store import Connection

T = TypeVar("T")

TICK_SECONDS = 1.0
ONCE_TICK_SECONDS = 0.1
STATUS_SECONDS = 5.0
HANG_SECONDS = 300.0
"""A part that shows no sign of life for so long is hung, and systemd is no longer told that all is well."""
BEAT_SECONDS = 15.0
"""Between two questions to the database whether it still answers."""
DRAIN_SECONDS = 10.0
"""At a stop, what is computed gets this long to be drawn and delivered."""
HOOK_SECONDS = 5.0
"""At a stop, calls of hooks that are being made get this long; others are made at the next start."""
JOIN_SECONDS = 2.0
EXTEND_SECONDS = 60.0
"""While the model loads, systemd is asked to wait this much longer, again and again."""
COLLECT_AFTER = 10_000
"""New objects between two collections; and what is there when all is loaded stays for good, and is not looked through
again. A job makes some hundreds: with Python's default of 700 collecting took 3 to 5 % of the CPU."""
TMPFS_MIB = 2048
"""Decoded scans go to memory where there is at least so much room, else to the state folder."""


class Daemon:
    """One run of the service."""

    def __init__(self, config: Config, *, path: Path | None = None, once: bool = False) -> None:
        self._config = config
        self._path = path
        self._once = once
        self._log = logs.get_logger()
        self._notifier = Notifier()
        self._stop = threading.Event()
        self._hurry = threading.Event()
        self._reload = threading.Event()
        self._tick = threading.Event()
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._failure: WatcherdError | None = None
        self._signals = 0
        self._phase = "starting"
        self._began = datetime.now(UTC)
        self._version = version("watcherd")  # once: it reads all of what is written about the package
        self._replica_ids: dict[int, int] = {}
        self._replicas: dict[int, ReplicaRecord] = {}
        """By number; what computed a result is told by the one that answered, never by the configuration."""
        self._live = live.LiveStatus(config.state.path)
        self._status_at = float("-inf")
        self._wall_clock = WallClock()
        self._clock_set_by = 0.0
        self._threads: list[threading.Thread] = []
        self._intake: Intake | None = None
        self._beat = time.monotonic()
        self._asked = float("-inf")

    # ---------------------------------------------------------------------------------------------------- start to end

    def run(self) -> int:
        """Run until stopped; the exit code. Raises `WatcherdError` for what keeps it from starting."""
        refuse_unknown(self._config.model)
        self._prepare_folders()
        with lock.sole_owner(self._config.state.lock), contextlib.ExitStack() as stack:
            self._handle_signals()
            database = stack.enter_context(self._open_database())
            self._pauses = Pauses(self._stopping)
            self._ownership = stack.enter_context(
                Ownership(self._config.outbox.path, Owner.here(self._config.state.path))
            )
            with contextlib.suppress(OSError):  # an outbox that cannot be written now is waited for below
                self._ownership.claim()
            self._begin_run(database)
            self._hooks = Hooks(self._config, database, self._pauses, set_aside=self._set_aside, path=self._path)
            self._hooks.begin()
            self._requeue(database)
            self._exporter = Exporter(
                self._config,
                database,
                self._status,
                hook_calls=lambda: self._hooks.made,
                set_aside=lambda: self._set_aside.counts,
            )
            scratch = stack.enter_context(_scratch_folder(self._config.state.path))
            self._build(database, scratch)
            stack.callback(self._imaging.stop)
            self._thread("metrics", self._exporter.run)
            self._thread("hooks", self._hooks.run)
            try:
                self._load_model()
                self._start()
                self._watch()
            finally:
                self._shut_down(database)
        if self._failure is not None:
            raise self._failure
        return 0

    def _prepare_folders(self) -> None:
        config = self._config
        mounts.refuse_network_state(config.state.path, mounts.mount_at(config.state.path))
        folders = {
            "inbox.path": config.inbox.path,
            "inbox.archive_path": config.inbox.archive_path,
            "outbox.path": config.outbox.path,
            "state.path": config.state.path,
        }
        for key, folder in folders.items():
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                if key == "inbox.path" and folder.exists():
                    continue
                raise UnavailableError(
                    f"{key} = {str(folder)!r} cannot be made: {error.strerror}.",
                    hint="Make it, or give the service's user permission to.",
                ) from error
        for folder in (config.state.commands, config.state.cache):
            folder.mkdir(exist_ok=True)
        if problems := mounts.overlaps(folders, mounts.read_mounts()):
            raise ConfigError("; ".join(problems) + ".", hint="These folders must be apart.")

    def _open_database(self) -> Database:
        path = self._config.state.database
        try:
            return Database.open(path, mark=self._upgrading)
        except CorruptDatabaseError as error:
            aside = backup.set_aside(path, now=datetime.now(UTC))
            self._log.error("database_corrupt", error=error.message, reason=f"set aside as {aside and aside.name}")
            copies = sorted((self._config.state.path / "backups").glob("watcherd-*.db"))
            if copies:
                backup.restore(copies[-1], path, now=datetime.now(UTC))
                self._log.warning("database_restored", reason=f"from the backup {copies[-1].name}")
            return Database.open(path, mark=self._upgrading)

    def _upgrading(self, fraction: float) -> None:
        """A long history takes its time: systemd is asked to wait, and people are told."""
        self._notifier.extend(EXTEND_SECONDS, f"starting: the history is brought up to date, {fraction:.0%}")

    def _begin_run(self, database: Database) -> None:
        """Put right what the last run left, as far as the database goes."""
        crash_point("recover.begun")
        boot = Path("/proc/sys/kernel/random/boot_id")
        now = datetime.now(UTC)
        self._run_id = database.write(
            lambda c: runs.start_run(
                c,
                pid=os.getpid(),
                host=socket.gethostname(),
                boot_id=boot.read_text().strip() if boot.exists() else None,
                version=self._version,
                now=now,
            )
        )
        longest = self._longest_wait()
        database.write(lambda c: waits.bound(c, now=now, longest=longest))
        marks = self._config.state.path / "handling"
        self._set_aside = SetAside(database, self._pauses, run_id=self._run_id, marks=marks)
        self._set_aside.begin()

    def _requeue(self, database: Database) -> None:
        """What was being worked on goes back to the queue."""
        now = datetime.now(UTC)
        requeued = database.write(lambda c: jobs.requeue_interrupted(c, run_id=self._run_id, now=now))
        crash_point("recover.requeued")
        if requeued:
            self._log.warning("jobs_requeued", count=len(requeued), reason="the last run ended while they ran")

    def _build(self, database: Database, scratch: Path) -> None:
        config = self._config
        self._database = database
        self._scratch = scratch
        self._spool = Spool(config.state.spool)
        owner = Owner.here(config.state.path).short
        self._outbox = Outbox(config.outbox.path, layout=config.outbox.layout, owner=owner)
        workers = config.limits.workers
        count = min(16, max(2, os.cpu_count() or 2)) if workers == "auto" else workers
        self._imaging = ImagingPool(workers=count, memory_mib=config.limits.worker_memory_mib)
        self._new_files_first = NewFilesFirst()
        self._delivery = Delivery(config, database, self._outbox, self._pauses, self._new_files_first, self._set_aside)
        self._pipeline = Pipeline(
            config,
            database,
            self._imaging,
            lambda: self._pool,
            self._delivery,
            self._pauses,
            self._new_files_first,
            self._set_aside,
            run_id=self._run_id,
            scratch=scratch,
            spool_path=self._spool.path,
            stopping=self._stopping,
        )
        self._delivery.job_requeued = self._pipeline.wake
        self._steering = JobSteering(config, database, self._spool)
        self._stay_paused(database)

    def _stay_paused(self, database: Database) -> None:
        """A person's pause holds until that person ends it. Raises `BusyError` with ``--once``, which would not end."""
        with database.reader() as connection:
            since = runs.setting(connection, PAUSED_SINCE)
        if since is None:
            return
        if self._once:
            raise BusyError(
                f"The work has been paused by a person since {since}, and nothing new is begun.",
                hint="Let it go on: watcherd resume",
            )
        self._pipeline.held.set()
        self._log.warning("still_paused", reason=f"paused by a person since {since}; watcherd resume ends it")

    def _plan(self) -> Plan:
        config = self._config
        found = devices.inventory(
            config.devices.use, warn=lambda sentence: self._log.warning("gpu_left_out", reason=sentence)
        )
        if not found and config.model.path is None:
            count = config.devices.replicas
            return placement.plan(None, (), dtype=_cpu_dtype(config.model.dtype), replicas=count)
        return placement.plan_apart(config, found)

    def _load_model(self) -> None:
        """Start the replicas, and wait until one is ready; systemd hears how far it is."""
        self._become("loading")
        plan = self._plan()
        self._log.info("model_placed", reason=plan.reason, segmenter=self._config.model.segmenter)
        threads = max(1, (os.cpu_count() or 1) // len(plan.replicas)) if len(plan.replicas) > 1 else 0
        specs = [
            ReplicaSpec(
                number=number,
                model=self._config.model,
                placement=replica.placement(plan.dtype),
                visible=replica.visible,
                cache=self._config.state.cache,
                stack=self._scratch / f"replica-{number}.stack",
                log=self._config.log,
                hidden_names=self._config.privacy.names == "hidden",
                threads=0 if replica.visible else threads,
            )
            for number, replica in enumerate(plan.replicas)
        ]
        limits = self._config.devices
        self._specs = specs
        self._cards = Cards(uuid for spec in specs for uuid in spec.visible)
        self._cards.start()
        self._pool = ReplicaPool(
            specs, self, self, load_seconds=limits.load_seconds, batch_seconds=limits.batch_seconds
        )
        self._pool.start()
        while not self._ready.is_set() and not self._stop.is_set():
            self._ready.wait(TICK_SECONDS)
            self._notifier.extend(EXTEND_SECONDS, self._status_line())
            self._show()

    def _start(self) -> None:
        """The model is ready: finish the last run's deliveries, then open the inbox."""
        if self._stop.is_set():
            return
        self._imaging.start()  # not sooner: a replica that starts needs the cores, and no scan can come before it
        try:
            self._pauses.until_possible("outbox", self._prepare_outbox)
            self._delivery.recover()
            self._pauses.until_possible("spool", self._spool.prepare)
            self._pauses.until_possible("spool", self._clean_spool)
        except StoppedError:
            return
        crash_point("recover.swept")
        self._intake = intake = Intake(
            self._config,
            self._database,
            self._spool,
            self._pauses,
            self._new_files_first,
            self._set_aside,
            run_id=self._run_id,
            model=lambda: self._model,
            queued=self._queued,
            stopping=self._stopping,
            once=self._once,
            follows_runs=self._follows_runs,
        )
        self._pipeline.hold_frames = intake.hold
        self._pipeline.in_use = intake.in_use
        refetch = Refetch(self._config, self._database, self._spool)
        self._pipeline.bring_back = lambda job_id: self._in_intake(partial(refetch.bring_back, job_id))
        self._delivery.inbox_online = lambda: intake.state.online
        self._delivery.source_left = intake.folder_emptied
        self._delivery.scans_finished = self._scans_finished
        self._thread("intake", intake.run)
        self._thread("feed", self._pipeline.feed)
        self._thread("stage", self._pipeline.stage)
        self._thread("finish", self._pipeline.finish)
        self._thread("dispose", self._pipeline.dispose)
        self._pipeline.look_for_arrivals()
        self._become("running")
        self._notifier.ready(self._status_line())
        self._log.info("daemon_ready", version=self._version, model=self._model.model)
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER)

    def _prepare_outbox(self) -> None:
        self._ownership.claim()
        self._outbox.prepare()

    def _clean_spool(self) -> None:
        def known(names: Sequence[str]) -> set[str]:
            with self._database.reader() as connection:
                return history.spool_names(connection, names)

        self._spool.clean(known)

    def _scans_finished(self) -> None:
        """Some scans are done with: their copies may go, and whoever has a hook is told."""
        assert self._intake is not None
        self._intake.scans_finished()
        self._hooks.wake()

    def _queued(self) -> None:
        self._pipeline.wake()
        self._pipeline.look_for_arrivals()

    def _thread(self, name: str, target: Callable[[], None]) -> None:
        def guarded() -> None:
            name_thread(name)
            try:
                target()
            except BaseException as error:  # a part that fails must not leave a daemon that only looks alive
                self._log.exception("daemon_part_failed", kind=name)
                self._fail(WatcherdError(f"The part {name!r} failed: {type(error).__name__}: {error}"))

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _watch(self) -> None:
        """The main thread's loop: commands, signals, signs of life."""
        interval = ONCE_TICK_SECONDS if self._once else TICK_SECONDS
        while not self._stop.is_set():
            if self._reload.is_set():
                self._reload.clear()
                self._notifier.reloading()
                with contextlib.suppress(ConfigError):
                    self._reread()
                self._notifier.ready(self._status_line())
            self._take_commands()
            self._follow_wall_clock()
            if self._set_aside.due():
                self._pipeline.try_again()
            self._show()
            if self._is_alive():
                self._notifier.watchdog()
            if self._once and self._is_done():
                return
            self._tick.wait(interval)
            self._tick.clear()

    def _follow_wall_clock(self) -> None:
        """When somebody has set the wall clock, waits that are written down in its time are as long as they were."""
        if step := self._wall_clock.set_by():
            self._log.warning("wall_clock_set", wait_s=round(step, 1))
            self._clock_set_by += step
            if self._intake is not None:
                self._intake.clock_was_set(step)
        if not self._clock_set_by:
            return
        seconds, self._clock_set_by = self._clock_set_by, 0.0
        longest = self._longest_wait()

        def work(connection: Connection) -> None:
            waits.move(connection, seconds)
            waits.bound(connection, now=datetime.now(UTC), longest=longest)

        def moved(writing: Future[None]) -> None:
            if writing.cancelled() or writing.exception() is not None:
                self._clock_set_by += seconds  # the disk refuses: tried again at the next turn
            else:
                self._queued()

        self._database.submit(work).add_done_callback(moved)

    def _longest_wait(self) -> timedelta:
        """What nothing is made to wait for longer than: retries, calls of hooks, and frames that wait for others."""
        quiet = timedelta(seconds=self._config.inbox.run_quiet_seconds)
        return max(retry.LONGEST, hooks.LONGEST, run_names.LONGEST * quiet)

    # ---------------------------------------------------------------------------------------------------------- stop

    def _shut_down(self, database: Database) -> None:
        """Stop in order: nothing new, let batches end, deliver what is computed, give the rest back."""
        self._become("stopping")
        self._notifier.stopping("stopping: the batches that are being computed end")
        self._log.info("daemon_stopping")
        self._stopping.set()
        if self._intake is not None:
            self._intake.wake()
        self._pipeline.wake()
        seconds = self._config.limits.stop_seconds
        self._join("feed", seconds)
        pool = getattr(self, "_pool", None)
        if pool is not None:
            stopper = threading.Thread(target=pool.stop, kwargs={"within": seconds}, daemon=True)
            stopper.start()
            while stopper.is_alive():
                stopper.join(0.1)
                if self._hurry.is_set():
                    pool.kill()
        self._pipeline.no_more(DRAIN_SECONDS, self._hurry)
        self._join("stage", DRAIN_SECONDS)
        self._join("finish", DRAIN_SECONDS)
        self._join("dispose", DRAIN_SECONDS)
        self._join("intake", 30.0)
        with contextlib.suppress(WatcherdError):
            self._pipeline.release_all()
            reason = "failed" if self._failure else "finished" if self._once and not self._signals else "stopped"
            database.write(lambda c: runs.end_run(c, self._run_id, reason, now=datetime.now(UTC)))
        self._hooks.stop(HOOK_SECONDS)
        self._exporter.stop()
        self._join("metrics", JOIN_SECONDS)
        self._live.write({})
        self._log.info("daemon_stopped")

    def _join(self, name: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            if thread.name == name and not self._hurry.is_set():
                while thread.is_alive() and time.monotonic() < deadline and not self._hurry.is_set():
                    thread.join(0.1)

    def _fail(self, error: WatcherdError) -> None:
        self._failure = self._failure or error
        self._stop.set()
        self._ready.set()
        self._tick.set()

    def _handle_signals(self) -> None:
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reload)

    def _on_stop(self, *_: object) -> None:
        self._signals += 1
        if self._signals > 1:
            self._hurry.set()
        self._stop.set()
        self._ready.set()
        self._tick.set()

    def _on_reload(self, *_: object) -> None:
        self._reload.set()
        self._tick.set()

    # ------------------------------------------------------------------------- what the replicas tell (Listener)

    def replica_starting(self, number: int, pid: int) -> None:
        """A replica's process was started."""
        spec = self._specs[number]
        model = ModelIdentity(
            segmenter=spec.model.segmenter, model=str(spec.model.path or ""), revision="", dtype=spec.placement.dtype
        )
        placed = {
            "devices": list(spec.visible or ("cpu",)),
            "device_map": dict(spec.placement.device_map),
            "dtype": spec.placement.dtype,
        }
        replica_id = self._note(
            lambda c: runs.start_replica(
                c, run_id=self._run_id, number=number, model=model, placement=placed, pid=pid, now=datetime.now(UTC)
            )
        )
        if replica_id is not None:
            self._replica_ids[number] = replica_id
        self._log.info("replica_starting", replica=number, pid=pid)

    def replica_ready(self, number: int, ready: Ready) -> None:
        """A replica's model is loaded and passed its checks."""
        info = ready.info
        model = self._model = ModelIdentity(
            segmenter=info.segmenter, model=info.model, revision=info.revision, dtype=info.dtype
        )
        self._replicas[number] = ReplicaRecord(id=self._replica_ids.get(number), model=model)
        self._follows_runs = ready.follows_runs
        weights = {use.device: use.vram_peak_allocated_mib for use in ready.weights}
        self._note(
            lambda c: runs.replica_ready(
                c,
                self._replica_ids[number],
                model=model,
                weights_mib=weights,
                host_rss_mib=ready.host_rss_mib,
                now=datetime.now(UTC),
            )
        )
        self._log.info(
            "replica_ready", replica=number, load_ms=ready.load_ms, batch_size=ready.batch_size, dtype=info.dtype
        )
        if info.warning:
            self._log.warning("model_doubtful", replica=number, reason=info.warning)
        self._ready.set()
        self._pipeline.wake()

    def replica_died(self, died: Died) -> None:
        """A replica's process ended against our will."""
        self._note(lambda c: runs.end_replica(c, self._replica_ids[died.number], died.reason, now=datetime.now(UTC)))
        self._log.error("replica_died", replica=died.number, pid=died.pid, reason=died.reason, stack_dump=died.stack)

    def replica_stopped(self, number: int) -> None:
        """A replica ended in good order."""
        if number in self._replica_ids:
            self._note(lambda c: runs.end_replica(c, self._replica_ids[number], "stopped", now=datetime.now(UTC)))

    def _note(self, work: Callable[[Connection], Any]) -> Any:
        """Write about a replica, and wait for a disk that refuses; None when the daemon stops before it gives way."""
        try:
            return self._pauses.until_possible("state", lambda: self._database.write(work))
        except StoppedError:
            return None

    def batch_taken(self) -> None:
        """A replica has begun a batch."""
        self._pipeline.batch_taken()

    def scans_answered(self, number: int, outcomes: Sequence[Outcome]) -> None:
        """Scans were segmented, or failed."""
        self._pipeline.scans_answered(self._replicas[number], outcomes)

    def scans_handed_back(self, job_ids: Sequence[int]) -> None:
        """Scans that were not begun."""
        self._pipeline.scans_handed_back(job_ids)

    def model_unusable(self, failed: LoadFailed) -> None:
        """The model cannot be loaded: without any replica there is no point in going on."""
        if all(status.phase is Phase.STOPPED for status in self._pool.status()):
            error = UnavailableError(failed.message, hint=failed.hint)
            if failed.exit_code == ConfigError.exit_code:
                self._fail(ConfigError(failed.message, hint=failed.hint))
            else:
                self._fail(error)
        else:
            self._log.error("replica_unusable", error=failed.message)

    # ------------------------------------------------------------------------------------------------------- commands

    def _take_commands(self) -> None:
        try:
            mailbox.carry_out_all(self._config.state.commands, self._database, self._carry_out)
        except (OSError, StoreError) as error:  # what was left stays there for the next look
            if not is_passing(error):
                raise
            if isinstance(error, OSError):
                self._pauses.set("commands", in_words(error))
        else:
            self._pauses.clear("commands")

    def _carry_out(self, command: Command) -> str:
        """Do what a person asks. A fault of ours costs that command, which is not given again: the person is told."""
        self._log.info("command_received", kind=command.verb)
        try:
            said = self._do(command)
        except (WatcherdError, StoppedError):
            raise
        except Exception as error:
            named = Named(key=f"command {command.id}", item=f"watcherd {command.verb}")
            self._set_aside.put("commands", named, error, waits=False)
            raise WatcherdError(
                f"A fault of watcherd kept it from doing that: {in_words(error)}", hint="Its log says more."
            ) from error
        self._set_aside.reload()
        return said

    def _do(self, command: Command) -> str:
        if command.verb in ("pause", "resume"):
            said = self._steering.carry_out(command)
            if command.verb == "pause":
                self._pipeline.held.set()
            else:
                self._pipeline.held.clear()
            self._pipeline.wake()
            self._show_now()
            return said
        if command.verb == "reload":
            return self._reread()
        if command.verb == "sweep" and self._intake is not None:
            self._intake.sweep_now()
            return "the inbox is swept"
        if command.verb == "repair" and command.arguments.get("what") == "promises":
            return "the service sees to that by itself"  # some may be on their way just now
        outcome = self._in_intake(lambda: self._steering.carry_out(command))
        self._queued()
        return outcome

    def _in_intake(self, work: Callable[[], T]) -> T:
        """Have the thread that owns the spool do it. Raises what that raises, and `UnavailableError`."""
        assert self._intake is not None
        done = threading.Event()
        result: list[T | Exception] = []

        def errand() -> None:
            try:
                result.append(work())
            except Exception as error:  # raised again where the person who asked is answered
                result.append(error)
            finally:
                done.set()

        self._intake.errands.append(errand)
        self._intake.wake()
        if not done.wait(HANG_SECONDS) or not result:
            raise UnavailableError("The intake does not answer.", hint="Look at the log.")
        if isinstance(result[0], Exception):
            raise result[0]
        return result[0]

    def _reread(self) -> str:
        """Read the configuration again; a bad one changes nothing. Raises `ConfigError`."""
        if self._path is None:
            raise UsageError("This daemon was started without a configuration file.")
        try:
            fresh = configuration.load(self._path)
            exporter.refuse_unusable(fresh)
            hooks.refuse_unusable(fresh)
        except ConfigError as error:
            self._log.error("config_rejected", error=error.message)
            raise
        applied, later = configuration.merged(self._config, fresh)
        self._config = applied
        logs.setup(applied.log, hidden_names=applied.privacy.names == "hidden")
        for part in (self._intake, self._pipeline, self._delivery, self._hooks, self._exporter):
            if part is not None:
                part.reconfigure(applied)
        self._log.info("config_reloaded", reason=f"needs a restart: {', '.join(later)}" if later else "applied")
        return "reloaded" + (f"; a restart is needed for {', '.join(later)}" if later else "")

    # ---------------------------------------------------------------------------------------------- signs of life

    def _become(self, phase: str) -> None:
        self._phase = phase
        self._show_now()

    def _show_now(self) -> None:
        """Refresh the live status before anybody is told of the change."""
        self._status_at = float("-inf")
        self._show()

    def _is_alive(self) -> bool:
        """Whether sweep, database and at least one replica make progress."""
        now = time.monotonic()
        if self._pauses.reasons:
            self._beat = now
        elif now - self._asked >= BEAT_SECONDS:
            self._asked = now
            task = self._database.submit(lambda _connection: None)
            task.add_done_callback(lambda _future: setattr(self, "_beat", time.monotonic()))
        intake = self._intake
        turned = intake is None or bool(self._pauses.reasons) or now - intake.turned_at < HANG_SECONDS
        return turned and now - self._beat < HANG_SECONDS and self._pool.progressing()

    def _is_done(self) -> bool:
        """Whether ``--once`` has nothing left to do."""
        if self._intake is None or not self._intake.idle or self._pipeline.busy or self._hooks.busy:
            return False
        try:
            with self._database.reader() as connection:
                counts = history.counts(connection)
                open_jobs = sum(counts[state] for state in (State.QUEUED, State.RUNNING, State.DELIVERING))
                jobs_aside, arrivals_aside = self._set_aside.open()
                more = history.open_arrivals(connection, but=arrivals_aside)
                return open_jobs <= jobs_aside and not more and self._intake.idle
        except StoreError as error:
            if not is_passing(error):
                raise
            return False

    def _show(self) -> None:
        """Refresh the live status, and now and then the line that systemd shows."""
        self._live.write(self._status())
        now = time.monotonic()
        if self._phase == "running" and self._notifier.listening and now - self._status_at >= STATUS_SECONDS:
            self._status_at = now
            self._notifier.status(self._status_line())

    def _status(self) -> dict[str, Any]:
        pool, model = getattr(self, "_pool", None), getattr(self, "_model", None)
        intake = self._intake
        return {
            "pid": os.getpid(),
            "phase": self._phase,
            "started_at": self._began.isoformat(timespec="seconds"),
            "version": self._version,
            "config": str(self._path) if self._path else None,
            "held": self._pipeline.held.is_set() if hasattr(self, "_pipeline") else False,
            "paused": self._pauses.reasons if hasattr(self, "_pauses") else {},
            "inbox": {name: getattr(intake.state, name) for name in intake.state.__slots__} if intake else None,
            "replicas": [
                {
                    "number": status.number,
                    "phase": status.phase.value,
                    "devices": list(status.devices),
                    "pid": status.pid,
                    "stage": status.stage,
                    "fraction": status.fraction,
                    "restarts": status.restarts,
                    "jobs": list(status.jobs),
                    "last_error": status.last_error,
                    "batch_size": status.ready.batch_size if status.ready else None,
                }
                for status in (pool.status() if pool else [])
            ],
            "model": {name: getattr(model, name) for name in model.__slots__} if model else None,
            "cards": [_shown(card) for card in self._cards.latest] if pool else [],
        }

    def _status_line(self) -> str:
        """One line for ``systemctl status``."""
        pool = getattr(self, "_pool", None)
        replicas = pool.status() if pool else []
        up = sum(status.phase in (Phase.IDLE, Phase.BUSY) for status in replicas)
        line = f"{self._phase}; {up} of {len(replicas)} replicas ready"
        stages = [f"{s.stage} {s.fraction:.0%}" if s.fraction else s.stage for s in replicas if s.stage]
        if self._phase != "running":
            return f"{line}; {stages[0]}" if stages else line
        with contextlib.suppress(WatcherdError), self._database.reader() as connection:
            counts = history.counts(connection)
            rate = history.rate(connection, minutes=5, now=datetime.now(UTC))
            vram = history.vram_now(connection)
            line += f"; {counts[State.QUEUED]} queued, {counts[State.RUNNING]} running, {rate.per_minute:.1f} scans/min"
            if vram is not None:
                line += f"; {vram:.0f} MiB of VRAM at the last peak"
        for part, reason in self._pauses.reasons.items():
            line += f"; {part} paused: {reason}"
        return line


def _shown(card: Card) -> dict[str, Any]:
    values = {name: getattr(card, name) for name in card.__slots__}
    return values | {"processes": {str(pid): used for pid, used in card.processes.items()}}


def _cpu_dtype(setting: str) -> str:
    return "float32" if setting == "auto" else setting


@contextlib.contextmanager
def _scratch_folder(state: Path) -> Any:
    """The run folder for decoded scans: in memory where there is room, else in the state folder; emptied at the end.

    What a killed run left behind is removed: its name is the state folder's own, with something behind it where
    somebody else was there first. Everybody may make folders in ``/dev/shm``, so what is not ours is left alone.
    """
    name = f"watcherd-{os.getuid()}-{state.stat().st_dev:x}-{state.stat().st_ino:x}"
    memory = Path(os.environ.get("RUNTIME_DIRECTORY", "/dev/shm"))  # noqa: S108 - a folder of our own in it, mode 0700
    place, name = (memory, name) if _room_mib(memory) >= TMPFS_MIB else (state, "run")
    for left in (place / name, *place.glob(f"{name}-*")):
        if _is_our_folder(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = _made(place, name)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _made(place: Path, name: str) -> Path:
    try:
        (place / name).mkdir(mode=0o700)
    except FileExistsError:
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=place))  # of mode 0700, and surely new
    return place / name


def _is_our_folder(path: Path) -> bool:
    """Whether it is a folder, no link to one, that belongs to this user and that nobody else may enter."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


def _room_mib(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free >> 20 if os.access(folder, os.W_OK) else 0
    except OSError:
        return 0
