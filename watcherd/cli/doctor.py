"""``watcherd doctor``: look at everything, say what to do about what is wrong."""

from __future__ import annotations

from typing import Annotated

import typer

from watcherd.cli.common import ConfigOption, JsonOption, load_config, print_json
from watcherd.cli.steer import steered
from watcherd.errors import WatcherdError
from watcherd.status.doctor import examine

MARKS = {"ok": "ok     ", "warning": "WARNING", "error": "ERROR  "}
COLOURS = {"ok": None, "warning": typer.colors.YELLOW, "error": typer.colors.RED}


def doctor(
    config: ConfigOption = None,
    *,
    repair: Annotated[bool, typer.Option("--repair", help="Put right what is safe to put right.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check folders, space, the history, and that rows and files agree; exit code 70 when something is broken.

    With --repair what is safe is put right, by the running daemon or while none runs by this command; it says what.
    """
    settings = load_config(config)
    findings = list(examine(settings, lambda what: steered(settings, "repair", {"what": what})))
    done = {id(finding): finding.repair() for finding in findings if repair and finding.repair}
    if as_json:
        print_json(
            [
                {
                    "check": finding.check,
                    "level": finding.level,
                    "text": finding.text,
                    "todo": finding.todo,
                    "repairable": finding.repair is not None,
                    "repaired": done.get(id(finding)),
                }
                for finding in findings
            ]
        )
    else:
        for finding in findings:
            mark = typer.style(MARKS[finding.level], fg=COLOURS[finding.level])
            typer.echo(f"{mark} {finding.check}: {finding.text}")
            if finding.todo and id(finding) not in done:
                typer.echo(f"        {finding.todo}" + (" Or --repair." if finding.repair else ""))
            elif id(finding) in done:
                typer.echo(f"        {done[id(finding)]}")
    if any(finding.level == "error" and id(finding) not in done for finding in findings):
        raise typer.Exit(WatcherdError.exit_code)
