"""The words of ``watcherd status``: a daemon that is dead, hangs or is held up is never simply called running."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from tests.unit.cli.moments import NOW, ago, answer, card, daemon, replica
from watcherd.status import screen
from watcherd.status import words as verdict

INBOX = daemon()["inbox"]
DOWN = replica(1, "down", restarts=2, last_error="killed by SIGKILL")
FULL = {"folder": "outbox", "path": "/srv/outbox", "free_mib": 0, "total_mib": 1000, "state": "full"}


def run(**changes: Any) -> dict[str, Any]:
    return {"pid": 42, "started_at": ago(hours=2), "ended_at": None, "end_reason": None, "rebooted": False} | changes


@pytest.mark.parametrize(
    ("found", "tone", "words"),
    [
        (answer(daemon()), "good", "watcherd is running since "),
        (answer(daemon(held=True)), "warn", "running, but PAUSED; started at "),
        (answer(daemon(paused={"spool": "the disk is full"})), "bad", "running, but PAUSED; started at "),
        (
            answer(daemon(inbox=INBOX | {"online": False, "reason": "gone"})),
            "bad",
            "its inbox is OFFLINE; started at ",
        ),
        (answer(daemon(replicas=[replica(0), DOWN])), "warn", "is running since"),
        (answer(daemon(replicas=[DOWN])), "bad", "but NO REPLICA IS READY; started at "),
        (answer(daemon(replicas=[replica(0, "starting", restarts=1)])), "bad", "but NO REPLICA IS READY; started at "),
        (answer(daemon(), disks=[FULL]), "bad", "is running since"),
        (
            answer(daemon(phase="frozen")),
            "bad",
            "FROZEN: its process was stopped by a signal",
        ),
        (answer(daemon(phase="loading", replicas=[replica(0, "starting")])), "note", "loading its model; started at "),
        (answer(daemon(phase="stopping")), "note", "stopping"),
        (answer({"pid": 42, "phase": "starting"}), "note", "watcherd is starting, pid 42."),
        (answer(None), "bad", "not running. It was killed: its run of "),
        (answer(None, last_run=run(rebooted=True)), "bad", "not running. The machine went down while it ran"),
        (answer(None, last_run=None), "bad", "never ran here"),
        (
            answer(None, last_run=run(ended_at=ago(minutes=9), end_reason="stopped")),
            "bad",
            "not running. Its last run stopped at ",
        ),
    ],
)
def test_the_first_line_is_true(found: dict[str, Any], tone: str, words: str) -> None:
    """One line for each way to be alive or not, and a colour that fits."""
    head = verdict.headline(found, NOW)
    assert words in head.text
    assert tone == head.tone


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (answer(daemon(held=True)), "PAUSED by a person"),
        (answer(daemon(paused={"spool": "/x: No space left on device"})), "PAUSED spool: /x: No space left"),
        (answer(daemon(inbox=INBOX | {"online": False, "reason": "not mounted"})), "OFFLINE: not mounted"),
        (answer(daemon(replicas=[replica(0), DOWN])), "Replica 1 is dead and will be started again: killed by SIGKILL"),
        (answer(daemon(replicas=[replica(0), DOWN])), "The others go on."),
        (answer(daemon(replicas=[DOWN])), "Nothing is computed meanwhile."),
        (answer(daemon(replicas=[replica(0, "starting", restarts=1)])), "Replica 0 died and is loaded again"),
        (answer(daemon(replicas=[replica(0), replica(1, "stopped")])), "Replica 1 is given up"),
        (answer(daemon(), disks=[FULL]), "The disk of the outbox folder is full: 0 MiB free of 1,000 (/srv/outbox)."),
        (answer(None), "2 jobs were under way when it ended"),
        (answer(None, paused_since=ago(minutes=5)), "PAUSED by a person: the next start begins nothing new either."),
    ],
)
def test_what_holds_it_up_is_said(found: dict[str, Any], words: str) -> None:
    """With the reason as it was recorded."""
    assert [notice for notice in verdict.notices(found) if words in notice.text]


def test_only_what_began_with_the_daemon_is_so_since_then() -> None:
    """A pause or a signal came later: its start is not their time."""
    assert " since " in verdict.headline(answer(daemon()), NOW).text
    for changes in ({"held": True}, {"inbox": INBOX | {"online": False, "reason": "gone"}}, {"phase": "frozen"}):
        text = verdict.headline(answer(daemon(**changes)), NOW).text
        assert " since " not in text
        assert "(2 h 5 min ago), pid 42." in text


def test_what_killed_a_replica_is_said_once() -> None:
    """By its notice while it is dead, in its line once it is back."""
    dead, back = daemon(replicas=[replica(0), DOWN]), daemon(replicas=[replica(0), DOWN | {"phase": "idle"}])
    for found, noticed in ((dead, True), (back, False)):
        told = [notice for notice in verdict.notices(answer(found)) if "killed by SIGKILL" in notice.text]
        assert (noticed, not noticed) == (bool(told), "killed by SIGKILL" in verdict.replicas(found)[1].doing)


def test_it_stands_in_the_line_while_no_notice_tells_it() -> None:
    """A replica that dies in the first loading: the daemon does not run yet."""
    loading = daemon(phase="loading", replicas=[replica(0, "starting", restarts=1, last_error="killed by SIGKILL")])
    assert [] == verdict.notices(answer(loading))
    assert "killed by SIGKILL" in verdict.replicas(loading)[0].doing


def test_nothing_is_said_when_nothing_is_wrong() -> None:
    """No news is a short screen; a replica that loads for the first time is no fault."""
    assert [] == verdict.notices(answer(daemon()))
    first = daemon(phase="loading", replicas=[replica(0, "starting", stage="loading weights", fraction=0.5)])
    assert [] == verdict.notices(answer(first))


def test_the_weightiest_comes_first() -> None:
    """A full disk before a pause that somebody wished for."""
    tones = [notice.tone for notice in verdict.notices(answer(daemon(held=True, paused={"spool": "full"})))]
    assert ["bad", "warn"] == tones


def test_the_figures_are_in_words() -> None:
    """What waits, how fast it goes, how long it will take."""
    shown = verdict.facts(answer(daemon()), NOW)
    assert "2 running, 100 queued" == shown["jobs"]
    assert shown["waiting"].startswith("the oldest for 3 min; 1 for another try, at ")
    assert "done in about 10 min" == shown["backlog"]
    assert "10 a minute over the last 10 minutes" == shown["rate"]
    assert shown["inbox"].startswith("online (ext4, swept every 60 s, last at ")
    assert "vessel, float32" == shown["model"]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (answer(None), "waits until watcherd runs"),
        (answer(daemon(held=True)), "stands still"),
        (answer(daemon(), backlog_seconds=None, per_minute=0.0), "not known yet: nothing was finished of late"),
        (answer(daemon(), backlog_seconds=40), "done in a minute or less"),
    ],
)
def test_an_estimate_is_not_made_up(found: dict[str, Any], words: str) -> None:
    """None while nothing moves."""
    assert words == verdict.facts(found, NOW)["backlog"]


def test_a_dead_daemon_runs_no_jobs() -> None:
    """What the database calls running was left half-done."""
    assert "100 queued, 2 left half-done" == verdict.facts(answer(None), NOW)["jobs"]


def test_replicas_say_where_they_are_and_what_they_hold() -> None:
    """The card's number and the replica's own memory, where the driver tells them; else the card's name."""
    first, second = verdict.replicas(daemon())
    assert ("cuda:0", "18.0 GiB", "segmenting, jobs 7, 8") == (first.devices, first.memory, first.doing)
    (bare,) = verdict.replicas(daemon(cards=[], replicas=[replica(3)]))
    assert ("GPU-3aaaaaaa", "") == (bare.devices, bare.memory)
    assert "idle" == second.state


def test_a_card_whose_driver_is_silent_has_no_figure() -> None:
    """Unknown is not empty."""
    known, unknown = verdict.gauges(daemon(cards=[card(0), card(1, None)]))
    assert ("19.5 GiB of 80.0 GiB", 20_000 / 81_920) == (known.text, known.fraction)
    assert ("of 80.0 GiB, use unknown", None) == (unknown.text, unknown.fraction)


@pytest.mark.parametrize(
    ("fraction", "drawn"),
    [(0.0, "░░░░"), (0.5, "██░░"), (0.53125, "██▏░"), (1.0, "████"), (7.0, "████"), (None, "····")],
)
def test_a_bar_is_exact_to_an_eighth_of_a_column(fraction: float | None, drawn: str) -> None:
    """And never longer than its place."""
    assert drawn == screen.bar(fraction, width=4).plain


@pytest.mark.parametrize("width", [80, 50])
def test_cards_keep_their_numbers_and_figures(width: int) -> None:
    """Where the terminal is narrow or a card's name long, bars and names give way."""
    long = {"name": "NVIDIA RTX PRO 6000 Blackwell Server Edition"}
    console = Console(width=width, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(screen.gauge_table(daemon(cards=[card(0) | long, card(1, None) | long])))
    one, other = captured.get().splitlines()
    assert one.startswith("cuda:0  █")
    assert "  19.5 GiB of 80.0 GiB  " in one
    assert other.startswith("cuda:1  ····")
    assert "  of 80.0 GiB, use unknown  " in other
    assert width >= max(len(one), len(other))


def test_the_screen_fits_80_columns_and_has_every_word() -> None:
    """The longest names and reasons are folded, not cut."""
    name = "coronary/" + "frame_" * 20 + ".jpg"
    failed = {"id": 9, "state": "failed", "source": name, "error_class": "input", "error": "It is text. " * 12}
    found = answer(
        daemon(paused={"outbox": "No space left on device " * 5}, replicas=[replica(0), DOWN]),
        failures=[failed | {"advice": "Export it again. " * 8, "finished_at": ago(minutes=5)}],
    )
    console = Console(width=80, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(screen.status_screen(found, NOW))
    lines = captured.get().splitlines()
    assert 80 >= max(map(len, lines))
    assert "…" not in captured.get()
    assert name == "".join(line.strip() for line in lines if "frame_" in line or line.strip() == ".jpg")
