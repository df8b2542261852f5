"""``watcherd top``: what it shows, what its keys do; on a terminal that is only pretended (textual's pilot)."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from textual.widgets import DataTable, Static

from tests.integration.cli.test_status import LIVE
from tests.terminal import on_a_terminal
from watcherd.cli.top_app import Details, Moment, Top, rows_of, scan_cell, shortened
from watcherd.errors import StoreError, UnavailableError
from watcherd.state import lock
from watcherd.status.units import when

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from textual.pilot import Pilot

    from tests.integration.cli.conftest import CommandLine


def on_screen(app: Top, act: Callable[[Pilot[None]], Awaitable[None]]) -> None:
    """Run the app at 80 columns, and ``act`` once it has looked."""

    async def run() -> None:
        async with app.run_test(size=(80, 24)) as pilot:
            await settle(pilot)
            await act(pilot)

    asyncio.run(run())


async def settle(pilot: Pilot[None]) -> None:
    """Until nothing is looked up or steered any more."""
    await pilot.pause()
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()


def words(app: Top, where: str) -> str:
    """What stands in a part of the screen, without colours."""
    from rich.console import Console

    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        console.print(app.query_one(where, Static).content)
    return captured.get()


def ids(app: Top) -> list[str]:
    return [str(key.value) for key in app.query_one(DataTable).rows]


def state_of(watcherd: CommandLine, job: int) -> str:
    """From the database: what a command prints while the app runs goes to the app."""
    with closing(sqlite3.connect(watcherd.config.state.database)) as connection:
        return str(connection.execute("SELECT state FROM job WHERE id = ?", (job,)).fetchone()[0])


def test_it_shows_what_status_and_jobs_show(watcherd: CommandLine) -> None:
    """The first line, the figures, every job with its state and error."""
    app = Top(watcherd.config, every=3600)
    refused = str(watcherd.job("refused.png"))

    async def act(_: Pilot[None]) -> None:
        assert "watcherd is not running. Its last run finished at" in words(app, "#head")
        assert "today 2 succeeded, 2 failed" in words(app, "#figures")
        assert {"1", "2", "3", "4"} == set(ids(app))
        row = [str(cell) for cell in app.query_one(DataTable).get_row(refused)]
        assert "failed" == row[1]
        assert row[-1].startswith("refused.png  The file")

    on_screen(app, act)


def test_it_shows_what_holds_the_daemon_up(watcherd: CommandLine) -> None:
    """The words and replicas of the live status; nothing is wider than the terminal."""
    live = LIVE | {"pid": os.getpid()}
    (watcherd.config.state.path / "status.json").write_text(json.dumps(live))
    app = Top(watcherd.config, every=3600)

    async def act(_: Pilot[None]) -> None:
        assert "but PAUSED" in words(app, "#head")
        assert "idle" in words(app, "#replica-lines")
        assert "loading" in words(app, "#replica-lines")
        assert app.query_one(DataTable).virtual_size.width <= 80

    with lock.sole_owner(watcherd.config.state.lock):
        on_screen(app, act)


def test_jobs_move_through_and_the_cursor_stays_on_its_job(watcherd: CommandLine) -> None:
    """The last one is asked for again and goes to the top; the one that was chosen is still the chosen one."""
    app = Top(watcherd.config, every=3600)

    async def act(pilot: Pilot[None]) -> None:
        await pilot.press("down", "down")
        chosen, last = app.selected, ids(app)[-1]
        assert 0 == watcherd("retry", last).code
        app.refresh_now()
        await settle(pilot)
        assert last == ids(app)[0]
        assert chosen == app.selected
        assert str(chosen) == ids(app)[3]

    on_screen(app, act)


def test_its_keys_retry_and_cancel_the_chosen_job(watcherd: CommandLine) -> None:
    """As the commands do, with their words."""
    app = Top(watcherd.config, every=3600)
    refused = watcherd.job("refused.png")

    async def act(pilot: Pilot[None]) -> None:
        while app.selected != refused:
            await pilot.press("down")
        await pilot.press("r")
        await settle(pilot)
        assert "queued" == state_of(watcherd, refused)
        assert refused == app.selected
        await pilot.press("c")
        await settle(pilot)
        assert "cancelled" == state_of(watcherd, refused)
        assert ["1 queued again", "1 cancelled"] == [notice.message for notice in app._notifications]

    on_screen(app, act)


def test_what_cannot_be_done_is_said(watcherd: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for somebody who may only look."""

    def refuse(*_: object) -> str:
        raise UnavailableError("You may not steer it.", hint="Ask somebody who may.")

    monkeypatch.setattr("watcherd.cli.top_app.steered", refuse)
    app = Top(watcherd.config, every=3600)

    async def act(pilot: Pilot[None]) -> None:
        await pilot.press("p")
        await settle(pilot)
        (notice,) = app._notifications
        assert "You may not steer it." in notice.message
        assert "error" == notice.severity

    on_screen(app, act)


def test_pause_is_resume_when_it_is_paused(watcherd: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the daemon says of itself at the last look."""
    sent: list[str] = []

    def steer(_: object, verb: str, arguments: object) -> str:
        sent.append(verb)
        return f"{verb}d"

    monkeypatch.setattr("watcherd.cli.top_app.steered", steer)
    state = watcherd.config.state.path / "status.json"
    app = Top(watcherd.config, every=3600)

    async def act(pilot: Pilot[None]) -> None:
        for held in (False, True):
            state.write_text(json.dumps(LIVE | {"pid": os.getpid(), "held": held}))
            app.refresh_now()
            await settle(pilot)
            await pilot.press("p")
            await settle(pilot)

    with lock.sole_owner(watcherd.config.state.lock):
        on_screen(app, act)
    assert ["pause", "resume"] == sent


def test_a_pause_for_the_next_start_is_shown_and_taken_back(watcherd: CommandLine) -> None:
    """As with `watcherd pause`, which needs no daemon either."""
    app = Top(watcherd.config, every=3600)

    async def act(pilot: Pilot[None]) -> None:
        for paused in (True, False):
            await pilot.press("p")
            await settle(pilot)
            assert paused == ("the next start begins nothing new either" in words(app, "#head"))

    on_screen(app, act)


def test_enter_tells_a_jobs_story(watcherd: CommandLine) -> None:
    """Escape goes back to the list; q there ends."""
    app = Top(watcherd.config, every=3600)

    async def act(pilot: Pilot[None]) -> None:
        await pilot.press("enter")
        await settle(pilot)
        assert isinstance(app.screen, Details)
        assert "What happened" in app.export_screenshot().replace("&#160;", " ")
        await pilot.press("escape")
        await settle(pilot)
        assert not isinstance(app.screen, Details)
        await pilot.press("q")
        assert 0 == app.return_code

    on_screen(app, act)


def test_a_history_that_cannot_be_read_for_a_while_does_not_end_it(watcherd: CommandLine) -> None:
    """It is said, and looked for again."""
    from watcherd.cli.top_app import look

    answers: list[Exception | None] = [None, StoreError("The database is locked.", hint="Wait."), None]

    def next_look(settings: Any) -> Moment:
        if (error := answers.pop(0)) is not None:
            raise error
        return look(settings)

    app = Top(watcherd.config, every=3600, look=next_look)

    async def act(pilot: Pilot[None]) -> None:
        for said in ("The database is locked.", "watcherd is not running"):
            app.refresh_now()
            await settle(pilot)
            assert said in words(app, "#head")
        assert 4 == len(ids(app))

    on_screen(app, act)


def test_many_jobs_do_not_make_it_wide(watcherd: CommandLine) -> None:
    """Names are shortened in the middle, where frames of a run are alike; errors at the end."""
    with closing(sqlite3.connect(watcherd.config.state.database)) as connection, connection:
        connection.execute("UPDATE job SET source = 'run/' || hex(zeroblob(60)) || '_frame_' || id || '.png'")
    from watcherd.cli.top_app import look

    rows = rows_of(look(watcherd.config), 80)
    assert all(sum(len(cell) for cell in row.values()) + 10 <= 80 for row in rows.values())
    assert 2 == sum(str(row["scan"]).endswith("000_frame_" + job + ".png") for job, row in rows.items())
    assert ("ab…56789", "short") == (shortened("abcd123456789", 8), shortened("short", 8))


def test_nothing_is_under_way_while_no_daemon_runs(watcherd: CommandLine) -> None:
    """What the history calls running was left half-done, and its time stands still."""
    from watcherd.cli.top_app import look

    found = look(watcherd.config)
    running = {"id": 9, "state": "running", "source": "a.png", "since": "2026-01-02T03:04:05.000Z"}
    for alive, state, took in ((None, "half-done", False), ({"phase": "running"}, "running", True)):
        moment = Moment(now=found.now, answer={**found.answer, "daemon": alive}, jobs=[running])
        row = rows_of(moment, 80)["9"]
        assert (state, took) == (str(row["state"]), bool(str(row["took"])))


@pytest.mark.parametrize("room", [30, 60])
def test_when_a_job_is_tried_again_is_never_cut(room: int) -> None:
    """Rather its error, and its name."""
    now = datetime(2026, 1, 2, 12, tzinfo=UTC)
    job = {"source": "ward/frame_000017.jpg", "not_before": "2026-01-02T12:02:00.000Z", "error": "no memory " * 9}
    shown = str(scan_cell(job, now, room))
    assert f"  again at {when(job['not_before'], now)}" in shown
    assert "7.jpg" in shown.partition("  again")[0]
    assert room >= len(shown)


def test_it_needs_a_terminal(watcherd: CommandLine) -> None:
    """Exit code 64, with what to call instead."""
    answer = watcherd("top")
    assert 64 == answer.code
    assert "top is for a terminal" in answer.err


def test_it_runs_on_a_real_terminal(watcherd: CommandLine) -> None:
    """And ends with Ctrl-C or q, leaving the terminal as it was."""
    lines = on_a_terminal("top", "--config", str(watcherd.config_file), until="refused.png", keys="q")
    assert [line for line in lines if "watcherd is not running" in line]
    assert not [line for line in lines if "Traceback" in line]
