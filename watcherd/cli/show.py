"""``watcherd show``: everything about one job, and its picture on request."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from watcherd.cli.common import ConfigOption, JsonOption, load_config, print_json
from watcherd.errors import UnavailableError, UsageError
from watcherd.file_names import show as shown_name
from watcherd.file_names import unshow
from watcherd.job import Fate
from watcherd.status.units import STAGES, STATE_COLOURS, duration, gib, local, took
from watcherd.status.units import size as bytes_of
from watcherd.store import Connection, Filter, figures, history, identity, overview, reader

MOST_NAMED = 8
"""Jobs that are named when a name fits several."""
PICTURES = ("overlay", "preview", "mask")
"""What `--open` opens: the first of these that there is."""

FILES = {
    None: "in the inbox",
    "pending": "in the inbox",
    "kept": "left in the inbox",
    "archived": "in the archive",
    "deleted": "deleted",
    "changed": "changed meanwhile, so left alone",
    "gone": "gone",
    "failed": "in the inbox, and cannot be taken out",
}
"""What became of a dropped file, by its disposal."""


def show(
    job: Annotated[
        str, typer.Argument(metavar="ID|NAME", help="The job's number, or the scan's name or a part of it.")
    ],
    config: ConfigOption = None,
    *,
    open_it: Annotated[bool, typer.Option("--open", help="Open the overlay, else the mask, in a viewer.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show everything about a job: its names, transitions, attempts, memory, results, and why it failed."""
    settings = load_config(config)
    with reader(settings.state.database) as connection:
        story = tell(connection, find(connection, job))
    if open_it:
        _open(story, settings.outbox.path)
    elif as_json:
        print_json(story)
    elif sys.stdout.isatty():
        Console(highlight=False).print(story_screen(story))
    else:
        typer.echo(_plain(story_screen(story)))


def _plain(screen: RenderableType) -> str:
    """The screen as text, so wide that no line is broken: who cuts lines out of it wants whole ones."""
    console = Console(highlight=False, width=10_000, color_system=None)
    with console.capture() as captured:
        console.print(screen)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()).rstrip()


def find(connection: Connection, wanted: str) -> int:
    """The job of this number, or of the scan of this name. Raises `UsageError` when there is none, or several."""
    if wanted.isdecimal():
        number = identity.current(connection, int(wanted))
        if history.job(connection, number) is not None:
            return number
    exact = overview.jobs_of_name(connection, _as_stored(wanted))
    found = exact[:1] or [
        record["id"] for record in history.jobs(connection, Filter(name=wanted, limit=MOST_NAMED + 1))
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        what = f"job {wanted}" if wanted.isdecimal() else f"job of a scan with {wanted!r} in its name"
        raise UsageError(f"There is no {what}.", hint="See `watcherd jobs`.")
    names = history.records(connection, found[:MOST_NAMED])
    listed = [f"  {job_id}  {names[job_id]['state']}  {names[job_id]['source']}" for job_id in found[:MOST_NAMED]]
    rest = ["  ..."] if len(found) > MOST_NAMED else []
    raise UsageError(
        f"{wanted!r} fits several scans:\n" + "\n".join([*listed, *rest]),
        hint="Give the job's number or its whole name.",
    )


def _as_stored(name: str) -> str:
    """A name as the shell gave it, or as it was copied from the history, in the form in which the history keeps it."""
    try:
        unshow(name)
    except ValueError:
        return shown_name(os.fsencode(name))
    return name if name.isprintable() else shown_name(os.fsencode(name))


def tell(connection: Connection, job_id: int) -> dict[str, Any]:
    """All that the history knows of a job."""
    record = history.job(connection, job_id)
    if record is None:
        raise UsageError(f"There is no job {job_id}.", hint="See `watcherd jobs`.")
    return {
        **record,
        "measures": figures.of_job(connection, job_id),
        "options": overview.options(connection, job_id),
        "events": history.events(connection, job_id),
        "tries": history.attempts(connection, job_id),
        "arrivals": history.arrivals(connection, job_id),
        "beside": overview.jobs_beside(connection, job_id),
    }


# --------------------------------------------------------------------------------------------------------- the screen


def story_screen(story: Mapping[str, Any]) -> RenderableType:
    """A job's story for people."""
    parts: list[RenderableType] = [
        _head(story),
        _titled("What happened", _grid(_events(story["events"]))),
        _titled("Attempts", Group(*_attempts(story["tries"]))),
        _titled("Names and results", Group(*_names(story["arrivals"]))),
    ]
    return Group(*(piece for part in parts for piece in (part, Text())))


def _head(story: Mapping[str, Any]) -> RenderableType:
    state = story["state"]
    title = Text.assemble(f"Job {story['id']}: ", (story["source"], "bold"), " ", (state, STATE_COLOURS.get(state, "")))
    title.overflow = "fold"
    pairs = [(name, value) for name, value in _facts(story).items() if value not in (None, "")]
    return Group(title, _indented(_grid([(f"{name}:", str(value)) for name, value in pairs])))


def _facts(story: Mapping[str, Any]) -> dict[str, Any]:
    asked = story["options"]
    fraction = story["mask_fraction"]
    return {
        "why": story["error"],
        "to do": story["advice"],
        "size": f"{story['width']} x {story['height']}, {bytes_of(story['size_bytes'])}" if story["width"] else None,
        "frames": story["frames"] if (story["frames"] or 1) > 1 else None,
        "times": _times(story),
        "model": _model(story),
        "also for": ", ".join(f"{job['model_name']} (job {job['id']}, {job['state']})" for job in story["beside"]),
        "dtype": story["dtype"],
        "options": ", ".join(_options(asked)),
        "prompt": asked.get("prompt"),
        "answer": story["answer"],
        "mask": f"{fraction:.2%} of the pixels" if fraction is not None else None,
        "measures": _measures(story),
        "note": story["note"],
        "waits until": local(story["not_before"]),
        "priority": story["priority"] or None,
        "sha256": story["sha256"],
    }


def _times(story: Mapping[str, Any]) -> str:
    """How long it waited, and how long its stages took together."""
    words = {"waited": story["queue_ms"] if story["started_at"] else None, "took": took(story)}
    return ", ".join(f"{word} {duration(ms)}" for word, ms in words.items() if ms is not None)


def _model(story: Mapping[str, Any]) -> str:
    name = story["model"] if story["model"] != story["segmenter"] else ""
    revision = f"revision {story['model_revision']}" if story["model_revision"] else ""
    return ", ".join(filter(None, [" ".join(filter(None, [story["segmenter"], name])), revision]))


def _measures(story: Mapping[str, Any]) -> str | None:
    """Of the frame with most mask."""
    if story["length"] is None:
        return None
    unit = story["unit"]
    words = [f"{story['components']} {'piece' if story['components'] == 1 else 'pieces'}"]
    words.append(f"{story['length']:,.0f} {unit} long")
    if story["mean_width"] is not None:
        words.append(f"{story['mean_width']:.3g} {unit} wide on average, {story['max_width']:.3g} at most")
    where = f" (frame {story['measured_frame']})" if (story["frames"] or 1) > 1 else ""
    return ", ".join(words) + where


def _options(asked: Mapping[str, Any]) -> Iterator[str]:
    yield f"profile {asked.get('profile')}"
    yield f"threshold {asked.get('threshold')}"
    yield " + ".join(asked.get("outputs", []))
    yield from (name for name in ("tta", "instances", "group_frames") if asked.get(name))
    if asked.get("kind", "auto") != "auto":
        yield f"kind {asked['kind']}"


def _events(events: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str | Text, ...]]:
    """Without their errors: those stand with the attempts."""
    for event in events:
        state, detail = event["to_state"] or "", event["detail"]
        colour = STATE_COLOURS.get(state, "")
        same = state == event["kind"]
        why = detail.get("reason") or _about(detail) or detail.get("error") or ""
        yield (
            Text(local(event["at"]), "dim"),
            Text(event["kind"], colour if same else ""),
            Text("  ").join(filter(None, [Text("" if same else state, colour), Text(why)])),
        )


def _why(detail: Mapping[str, Any]) -> str:
    return ": ".join(filter(None, [detail.get("reason") or _about(detail), detail.get("error") or ""]))


def _about(detail: Mapping[str, Any]) -> str:
    """What an event that is no move of the job is about."""
    if "job" in detail:
        return f"job {detail['job']} ({detail['source']}), which was the same"
    if "to" in detail:
        return f"for {_model(detail['to'])} instead of {_model(detail['from'])}"
    return str(detail.get("source", ""))


def event_words(event: Mapping[str, Any]) -> str:
    """An event of the history on one line."""
    state = event["to_state"] if event["to_state"] != event["kind"] else None
    return "  ".join(filter(None, [event["kind"], state, _why(event["detail"])]))


def _attempts(tries: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    if not tries:
        yield Text("none yet", "dim")
    computed_by = [_model(attempt) if attempt["segmenter"] else "" for attempt in tries]
    several = len(set(filter(None, computed_by))) > 1
    for attempt, model in zip(tries, computed_by, strict=True):
        times = [f"{name} {duration(attempt[f'{name}_ms'])}" for name in STAGES if attempt[f"{name}_ms"] is not None]
        where = f"replica {attempt['replica']}" if attempt["replica"] is not None else ""
        batch = f"batch of {attempt['batch_size']}" if attempt["batch_size"] else ""
        outcome = attempt["outcome"] or "under way"
        words = ", ".join(filter(None, [outcome, where, model if several else "", batch, *times]))
        yield Text(f"{attempt['number']}: {local(attempt['started_at'])}  {words}")
        if attempt["error"]:
            yield _indented(Text(attempt["error"], "red"))
        for device in attempt["devices"]:
            name = f" ({device['name']})" if device["name"] not in (None, "", device["device"]) else ""
            memory = "" if device["device"] == "cpu" else f": {_memory(device)}"
            yield _indented(Text(f"{device['device']}{name}{memory}"))
        if attempt["host_peak_rss_mib"] is not None:
            yield _indented(Text(f"process: {gib(attempt['host_peak_rss_mib'])} at the peak", "dim"))


def _memory(device: Mapping[str, Any]) -> str:
    words = {
        "vram_before_mib": "before",
        "vram_peak_allocated_mib": "allocated at the peak",
        "vram_peak_reserved_mib": "reserved",
        "nvml_process_mib": "by the driver",
    }
    known = [f"{gib(device[key])} {word}" for key, word in words.items() if device[key] is not None]
    return ", ".join(known) or "memory unknown"


def _names(arrivals: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    for name in arrivals:
        again = "the same scan again, " if name["fate"] == Fate.DUPLICATE else ""
        file = "the file is another model's first" if name["file_of"] else f"file {FILES[name['disposal']]}"
        yield Text(f"{name['source']}: {again}{file}", overflow="fold")
        if name["reason"]:
            yield _indented(Text(name["reason"], "yellow", overflow="fold"))
        rows = [(output["kind"], output["path"], bytes_of(output["bytes"])) for output in name["outputs"]]
        yield _indented(_grid(rows, folded=1))


def _grid(rows: Any, *, folded: int = -1) -> Table:
    """Columns that are as wide as they need to be; ``folded``, or else the last one, takes what is left."""
    rows = [tuple(row) for row in rows]
    grid = Table.grid(padding=(0, 2, 0, 0))
    count = len(rows[0]) if rows else 0
    for column in range(count):
        last = column == folded % count
        grid.add_column(no_wrap=not last, overflow="fold")
    for row in rows:
        grid.add_row(*row)
    return grid


def _titled(title: str, body: RenderableType) -> RenderableType:
    return Group(Text(title, "bold"), _indented(body))


def _indented(body: RenderableType) -> RenderableType:
    return Padding(body, (0, 0, 0, 2))


# ------------------------------------------------------------------------------------------------------------- --open


def _open(story: Mapping[str, Any], outbox: Path) -> None:
    """Show the job's picture in a viewer. Raises `UsageError` without one, `UnavailableError` without a display."""
    kinds = {output["kind"]: outbox / os.fsdecode(unshow(output["path"])) for output in story["outputs"]}
    path = next((kinds[kind] for kind in PICTURES if kind in kinds), None)
    if path is None:
        raise UsageError(f"Job {story['id']} is {story['state']}: there is no picture.", hint="See `watcherd show ID`.")
    if not path.exists():
        raise UnavailableError(
            f"{path} is not there any more.", hint=f"Have it made again: watcherd retry {story['id']}"
        )
    viewer = shutil.which("xdg-open")
    if viewer is None or not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UnavailableError("There is no display here to open it on.", hint=f"It is at {path}")
    typer.echo(f"Opening {path}")
    if subprocess.run([viewer, path], stdin=subprocess.DEVNULL, check=False).returncode != 0:
        raise UnavailableError("No viewer could open it.", hint=f"It is at {path}")
