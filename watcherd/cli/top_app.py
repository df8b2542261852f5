"""The screen of ``watcherd top``. It reads the database and the state folder, as `status` does, and steers as `retry`,
`cancel` and `pause` do; it holds nothing open in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from rich.console import Group, RenderableType
from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Static

from watcherd.cli.show import story_screen, tell
from watcherd.cli.steer import steered
from watcherd.config import Config
from watcherd.errors import WatcherdError
from watcherd.status import screen, words
from watcherd.status.document import gather, seconds_since
from watcherd.status.units import AMBER, duration, took, when
from watcherd.store import overview, reader

NEXT = 50
"""Waiting jobs that are shown, the next ones first."""
RECENT = 100
"""Ended jobs that are shown, the latest first."""
COLUMNS = ("id", "state", "when", "took", "scan")
PADDING = 2
"""Of each column, and the width of the scroll bar."""
SCAN_ROOM = 16
"""Columns that a scan's name gets at least."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """What one look found. ``jobs``: under way, then next, then ended, each a row of `store.overview`."""

    now: datetime
    answer: Mapping[str, Any]
    jobs: Sequence[Mapping[str, Any]]


def look(settings: Config) -> Moment:
    """Read everything that the screen shows. Raises `WatcherdError` when it cannot be read."""
    now = datetime.now(UTC)
    answer = gather(settings, now=now)
    with reader(settings.state.database) as connection:
        found = [
            *overview.active_jobs(connection),
            *overview.next_jobs(connection, NEXT),
            *overview.recent_jobs(connection, RECENT),
        ]
    return Moment(now=now, answer=answer, jobs=found)


class Top(App[None]):
    """The screen."""

    TITLE = "watcherd"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { layout: vertical; }
    #head { height: auto; max-height: 8; padding: 0 1; }
    #figures { height: auto; padding: 0 1; color: $text-muted; }
    #replicas { height: auto; max-height: 40%; padding: 0 1; }
    #jobs { height: 1fr; min-height: 3; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pause", "Pause/resume"),
        Binding("r", "steer('retry')", "Retry"),
        Binding("c", "steer('cancel')", "Cancel"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, settings: Config, *, every: float = 1.0, look: Callable[[Config], Moment] = look) -> None:
        super().__init__()
        self._settings = settings
        self._every = every
        self._look = look
        self._moment: Moment | None = None
        self._shown: list[str] = []

    def compose(self) -> ComposeResult:
        yield Static(id="head")
        yield Static(id="figures")
        with VerticalScroll(id="replicas", can_focus=False):
            yield Static(id="replica-lines")
            yield Static(id="gauges")
        yield Jobs(id="jobs", cursor_type="row")
        yield Footer()

    def on_mount(self) -> None:
        table = self._table
        for column in COLUMNS:
            table.add_column(column, key=column)
        table.focus()
        self.refresh_now()
        self.set_interval(self._every, self.refresh_now)

    @property
    def _table(self) -> Jobs:
        return self.query_one("#jobs", Jobs)

    # ------------------------------------------------------------------------------------------------------ looking

    @work(thread=True, exclusive=True, group="look")
    def refresh_now(self) -> None:
        """Look again, away from the screen's own thread: a disk may be slow."""
        try:
            moment = self._look(self._settings)
        except WatcherdError as error:
            self.call_from_thread(self._show_trouble, error)
        else:
            self.call_from_thread(self._show, moment)

    def _show_trouble(self, error: WatcherdError) -> None:
        notice = words.Notice(tone="bad", text=error.message, todo=error.hint)
        self.query_one("#head", Static).update(screen.notice_line(notice))

    def _show(self, moment: Moment) -> None:
        self._moment = moment
        answer, daemon = moment.answer, moment.answer["daemon"]
        said = (words.headline(answer, moment.now), *words.notices(answer))
        self.query_one("#head", Static).update(Group(*map(screen.notice_line, said)))
        self.query_one("#figures", Static).update(figures(answer, moment.now))
        self.query_one("#replica-lines", Static).update(screen.replica_table(daemon))
        self.query_one("#gauges", Static).update(screen.gauge_table(daemon))
        self.query_one("#replicas").display = bool(words.replicas(daemon))
        self._show_jobs(moment)

    def _show_jobs(self, moment: Moment) -> None:
        """Change what has changed; the cursor stays on its job wherever that moves."""
        table, rows = self._table, rows_of(moment, self.size.width)
        if list(rows) != self._shown:
            chosen, place = self.selected, table.scroll_offset
            table.clear()
            for key, row in rows.items():
                table.add_row(*row.values(), key=key)
            self._shown = list(rows)
            if chosen is not None and str(chosen) in rows:
                table.move_cursor(row=self._shown.index(str(chosen)), animate=False)
            table.scroll_to(place.x, place.y, animate=False)
            return
        for key, row in rows.items():
            for column, cell in row.items():
                if table.get_cell(key, column) != cell:
                    table.update_cell(key, column, cell, update_width=True)

    # ------------------------------------------------------------------------------------------------------ steering

    @property
    def selected(self) -> int | None:
        """The job under the cursor."""
        row = self._table.cursor_row
        return int(self._shown[row]) if 0 <= row < len(self._shown) else None

    def action_pause(self) -> None:
        if self._moment is not None:
            answer = self._moment.answer
            held = answer["daemon"].get("held") if answer["daemon"] else answer["paused_since"]
            self._steer("resume" if held else "pause", {})

    def action_steer(self, verb: str) -> None:
        if self.selected is not None:
            self._steer(verb, {"jobs": [self.selected]})

    @work(thread=True, group="steer")
    def _steer(self, verb: str, arguments: Mapping[str, Any]) -> None:
        try:
            outcome = steered(self._settings, verb, arguments)
        except WatcherdError as error:
            self.call_from_thread(self.notify, str(error), title=verb, severity="error", timeout=10, markup=False)
        else:
            self.call_from_thread(self.notify, outcome, title=verb, markup=False)
        self.call_from_thread(self.refresh_now)

    def on_data_table_row_selected(self) -> None:
        """Enter, or a click on the row under the cursor."""
        if self.selected is None:
            return
        try:
            with reader(self._settings.state.database) as connection:
                story = story_screen(tell(connection, self.selected))
        except WatcherdError as error:
            self.notify(str(error), severity="error", markup=False)
        else:
            self.push_screen(Details(story))


class Jobs(DataTable[Text]):
    """The table; its enter key is named in the footer."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select_cursor", "Details")]


class Details(ModalScreen[None]):
    """Everything about one job."""

    CSS = """
    Details { align: center middle; }
    #story { width: 100%; height: 100%; background: $surface; padding: 0 1; scrollbar-size-vertical: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q", "dismiss", "Back", key_display="esc"),
    ]

    def __init__(self, story: RenderableType) -> None:
        super().__init__()
        self._story = story

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="story"):
            yield Static(self._story)
        yield Footer()


def figures(answer: Mapping[str, Any], now: datetime) -> Text:
    """What waits, what was done, how fast, and when it will be done."""
    facts = words.facts(answer, now)
    done = f"today {facts['today']}" if "today" in facts else ""
    work = " · ".join(filter(None, [facts["jobs"], done]))
    pace = [f"{answer['per_minute']:g} a minute", f"backlog {facts['backlog']}" if "backlog" in facts else ""]
    return Text(f"{work}\n{' · '.join(filter(None, pace))}")


def rows_of(moment: Moment, width: int) -> dict[str, dict[str, Text]]:
    """The table's rows by job, for a terminal of ``width`` columns: the scan takes what the others leave."""
    alive = moment.answer["daemon"] is not None
    rows = {str(job["id"]): cells(job, moment.now, alive=alive) for job in moment.jobs}
    others = sum(max([len(name), *(len(row[name]) for row in rows.values())]) for name in COLUMNS[:-1])
    room = max(SCAN_ROOM, width - others - PADDING * (len(COLUMNS) + 1))
    return {str(job["id"]): rows[str(job["id"])] | {"scan": scan_cell(job, moment.now, room)} for job in moment.jobs}


def cells(job: Mapping[str, Any], now: datetime, *, alive: bool) -> dict[str, Text]:
    """A job's row but for its scan: how long one under way has been there, or how long one that ended took.

    While no daemon is ``alive`` nothing is under way, whatever the history says.
    """
    if not alive and job["state"] in ("running", "delivering"):
        state, since = Text("half-done", AMBER), when(job["since"], now) if job["since"] else ""
        return {"id": Text(str(job["id"]), justify="right"), "state": state, "when": Text(since), "took": Text("")}
    if job["state"] in ("running", "delivering", "queued"):
        so_long = duration(seconds_since(job["since"], now) * 1000) if job["since"] else ""
    else:
        so_long = duration(took(job))
    return {
        "id": Text(str(job["id"]), justify="right"),
        "state": screen.state_text(job["state"]),
        "when": Text(when(job["since"], now) if job["since"] else ""),
        "took": Text(so_long, justify="right"),
    }


def scan_cell(job: Mapping[str, Any], now: datetime, room: int) -> Text:
    """In ``room`` columns the name, shortened in the middle if need be, when it is tried again, what went wrong."""
    later = job.get("not_before")
    again = f"  again at {when(later, now)}" if later and datetime.fromisoformat(later) > now else ""
    error = "  " + " ".join(job["error"].split()) if job.get("error") else ""
    # When it is tried again is said whole; what is left is for the name first, then for the error.
    left = room - len(again)
    named = shortened(job["source"], max(left // 2, left - len(error), min(left, SCAN_ROOM)))
    said = error if len(named) + 3 < left else ""
    scan = Text.assemble(named, (again, AMBER), (said, "red"))
    scan.truncate(room, overflow="ellipsis")
    return scan


def shortened(name: str, room: int) -> str:
    """A name in ``room`` columns: what is left out is in the middle, since frames of a run differ at the end."""
    if len(name) <= room or room < 3:
        return name
    head = (room - 1) // 3
    return f"{name[:head]}…{name[len(name) - (room - 1 - head) :]}"
