"""What people ask of the running service: commands from its mailbox, and reading the configuration again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watcherd import config as configuration
from watcherd import logs
from watcherd.errors import ConfigError, StoreError, UsageError, WatcherdError
from watcherd.notify import exporter, hooks
from watcherd.pauses import StoppedError, is_passing
from watcherd.service.pulse import HANG_SECONDS
from watcherd.set_aside import Named, in_words
from watcherd.state import mailbox

if TYPE_CHECKING:
    from pathlib import Path

    from watcherd.inbox.requests import IntakeRequests
    from watcherd.notify.exporter import Exporter
    from watcherd.notify.hooks import Hooks
    from watcherd.pipeline.stations import Pipeline
    from watcherd.service.fleet import Fleet
    from watcherd.service.job_commands import JobCommands
    from watcherd.service.status import Status
    from watcherd.state.mailbox import Command
    from watcherd.state.run import Run


class Commands:
    """Carries out commands. For the main thread; the thread that owns the spool does what changes jobs."""

    def __init__(
        self,
        run: Run,
        requests: IntakeRequests,
        pipeline: Pipeline,
        jobs: JobCommands,
        status: Status,
        reload: Reload,
    ) -> None:
        self._run = run
        self._requests = requests
        self._pipeline = pipeline
        self._jobs = jobs
        self._status = status
        self._reload = reload
        self._log = logs.get_logger()

    def take(self) -> None:
        """Carry out what was left in the mailbox; what a full disk keeps from that stays there for the next look."""
        try:
            mailbox.carry_out_all(self._run.config.state.commands, self._run.database, self._carry_out)
        except (OSError, StoreError) as error:
            if not is_passing(error):
                raise
            if isinstance(error, OSError):
                self._run.pauses.set("commands", in_words(error))
        else:
            self._run.pauses.clear("commands")

    def _carry_out(self, command: Command) -> str:
        """Do what a person asks. A fault of ours costs that command, which is not given again: the person is told."""
        self._log.info("command_received", kind=command.verb)
        try:
            said = self._do(command)
        except (WatcherdError, StoppedError):
            raise
        except Exception as error:
            named = Named(key=f"command {command.id}", item=f"watcherd {command.verb}")
            self._run.set_aside.put("commands", named, error, waits=False)
            raise WatcherdError(
                f"A fault of watcherd kept it from doing that: {in_words(error)}", hint="Its log says more."
            ) from error
        self._run.set_aside.reload()
        return said

    def _do(self, command: Command) -> str:
        if command.verb in ("pause", "resume"):
            return self._pause_or_resume(command)
        if command.verb == "reload":
            return self._reload.reread()
        if command.verb == "sweep":
            self._requests.sweep()
            return "the inbox is swept"
        if command.verb == "repair" and command.arguments.get("what") == "promises":
            return "the service sees to that by itself"  # some may be on their way just now
        outcome = self._requests.do(lambda: self._jobs.carry_out(command), within=HANG_SECONDS)
        self._pipeline.queued()
        return outcome

    def _pause_or_resume(self, command: Command) -> str:
        said = self._jobs.carry_out(command)
        if command.verb == "pause":
            self._pipeline.held.set()
        else:
            self._pipeline.held.clear()
        self._pipeline.wake()
        self._status.show_now()
        return said


class Reload:
    """Reads the configuration again. For the main thread."""

    def __init__(
        self,
        run: Run,
        path: Path | None,
        requests: IntakeRequests,
        hooks: Hooks,
        exporter: Exporter,
        fleet: Fleet,
    ) -> None:
        self._run = run
        self._requests = requests
        self._path = path
        self._hooks = hooks
        self._exporter = exporter
        self._fleet = fleet
        self._log = logs.get_logger()

    def reread(self) -> str:
        """Go by what the file says now; what was done, in words. Raises `ConfigError`: a bad one changes nothing."""
        if self._path is None:
            raise UsageError("This daemon was started without a configuration file.")
        try:
            fresh = configuration.load(self._path)
            exporter.refuse_unusable(fresh)
            hooks.refuse_unusable(fresh)
        except ConfigError as error:
            self._log.error("config_rejected", error=error.message)
            raise
        applied, later = configuration.merged(self._run.config, fresh)
        models = self._fleet.follow_config(applied)
        self._run.settings.replace(applied)
        self._requests.wake.set()
        logs.setup(applied.log, hidden_names=applied.privacy.names == "hidden")
        self._hooks.reconfigure(applied)
        self._exporter.reconfigure(applied)
        self._log.info("config_reloaded", reason=f"needs a restart: {', '.join(later)}" if later else "applied")
        said = "reloaded" + (f"; models that follow: {models}" if models else "")
        return said + (f"; a restart is needed for {', '.join(later)}" if later else "")
