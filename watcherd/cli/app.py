"""The commands, put together. Exit codes are those of sysexits.h."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer

from watcherd.cli.ask import ask
from watcherd.cli.cluster import bridge, head, worker
from watcherd.cli.compare import compare
from watcherd.cli.config import config_app
from watcherd.cli.db import db_app
from watcherd.cli.demo import demo
from watcherd.cli.doctor import doctor
from watcherd.cli.evaluate import evaluate
from watcherd.cli.export_model import export_model
from watcherd.cli.inspect_model import inspect_model
from watcherd.cli.install_service import install_service, uninstall_service
from watcherd.cli.jobs import jobs
from watcherd.cli.logs import logs
from watcherd.cli.outbox import outbox_app
from watcherd.cli.plan import plan
from watcherd.cli.report import report
from watcherd.cli.review import review, reviews
from watcherd.cli.run import run as serve
from watcherd.cli.show import show
from watcherd.cli.status import status
from watcherd.cli.steer import cancel, pause, prioritise, prune, reload, resume, retry
from watcherd.cli.stop import stop
from watcherd.cli.submit import submit
from watcherd.cli.top import top
from watcherd.cli.web import web
from watcherd.errors import UnavailableError, WatcherdError
from watcherd.outputs import EXTRA_BY_MODULE

USAGE = 64
USAGE_ERROR: Any = typer.BadParameter.__base__
"""What typer raises for a command line that makes no sense: its own copy of click's UsageError, nowhere named."""
INTERRUPTED = 130

app = typer.Typer(
    name="watcherd",
    help="Watches a folder for scans, segments them with a model that stays loaded, and remembers every job.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"watcherd {version('watcherd')}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Watches a folder for scans, segments them with a model that stays loaded, and remembers every job."""


app.command("run")(serve)
LOOKING = (demo, status, top, jobs, show, ask, logs, report, doctor, plan, evaluate, compare, reviews, web)
STEERING = (submit, retry, cancel, prioritise, review, pause, resume, reload, stop, prune)
for command in (*LOOKING, *STEERING):
    app.command()(command)
app.command("inspect-model")(inspect_model)
app.command("export-model")(export_model)
app.command("install-service")(install_service)
app.command("uninstall-service")(uninstall_service)
for part in (head, worker, bridge):
    app.command()(part)
app.add_typer(config_app, name="config")
app.add_typer(db_app, name="db")
app.add_typer(outbox_app, name="outbox")


def run(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code. What went wrong is said on stderr: what, why and what to do."""
    try:
        result = app(args=arguments, standalone_mode=False, prog_name="watcherd")
        sys.stdout.flush()
    except WatcherdError as error:
        print(f"watcherd: {error.message}", file=sys.stderr)
        if error.hint:
            print(error.hint, file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        extra = EXTRA_BY_MODULE.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        print(f"watcherd: This needs {extra.library}, which is not installed.", file=sys.stderr)
        print(f"Install it: {extra.command}", file=sys.stderr)
        return UnavailableError.exit_code
    except typer.Abort:
        return INTERRUPTED
    except USAGE_ERROR as error:
        error.show()
        return USAGE
    except BrokenPipeError:  # the reader of our output has seen enough; what is left would fail again at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as ending:  # typer's own way to end when it meets a closed pipe first
        if not isinstance(ending.__context__, BrokenPipeError):
            raise
        return 0
    return result if isinstance(result, int) else 0
