"""What to say of a moment: from what `document.gather` found to words, with no terminal and no clock of its own.

The first line must be true above all: a daemon that is dead, hangs or is held up is never called running.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from watcherd.state.live import inbox_away
from watcherd.status.document import seconds_since
from watcherd.status.starting import how_to_start
from watcherd.status.units import duration, gib, when

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

Tone = Literal["good", "note", "warn", "bad"]

PHASES = {
    "starting": "starting",
    "loading": "loading its model",
    "running": "running",
    "stopping": "stopping; what is being computed ends first",
    "frozen": "FROZEN: its process was stopped by a signal, and does nothing",
}
"""The daemon's own phases, and what they are called here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """Something a person should know, and in ``todo`` what can be done about it."""

    tone: Tone
    text: str
    todo: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Replica:
    """A line about a replica. ``model``: its name, where there are several. ``memory``: what it holds on its cards, in
    words; empty where unknown."""

    number: int
    model: str
    state: str
    tone: Tone
    devices: str
    memory: str
    doing: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Gauge:
    """A card's memory. ``fraction``: of it that is in use, 0 to 1; None where unknown."""

    label: str
    name: str
    fraction: float | None
    text: str


# ------------------------------------------------------------------------------------------------- is it alive


def headline(answer: Mapping[str, Any], now: datetime) -> Notice:
    """Alive or not, and since when."""
    daemon = answer["daemon"]
    if daemon is None:
        return _not_running(answer, now)
    words = PHASES.get(daemon["phase"], daemon["phase"]) + _but(daemon)
    todo = f"Let it go on: kill -CONT {daemon['pid']}" if daemon["phase"] == "frozen" else ""
    text = f"watcherd is {words}{_begun(daemon, now, plainly=words == 'running')}, pid {daemon['pid']}."
    return Notice(tone=_tone(answer), text=text, todo=todo)


def _begun(daemon: Mapping[str, Any], now: datetime, *, plainly: bool) -> str:
    """Since when it runs. Unless ``plainly`` that is not since when it is paused, or frozen: so not "since"."""
    if "started_at" not in daemon:
        return ""
    at, up = when(daemon["started_at"], now), duration(seconds_since(daemon["started_at"], now) * 1000)
    return f" since {at} ({up})" if plainly else f"; started at {at} ({up} ago)"


def _but(daemon: Mapping[str, Any]) -> str:
    """What makes a running daemon do less than it should, in a word."""
    if daemon["phase"] != "running":
        return ""
    if daemon.get("held") or daemon.get("paused"):
        return ", but PAUSED"
    if inbox_away(daemon) is not None:
        return ", but its inbox is OFFLINE"
    if daemon.get("replicas") and not _ready(daemon):
        return ", but NO REPLICA IS READY"
    return ""


def is_up(answer: Mapping[str, Any]) -> bool:
    """Whether it runs, is not frozen, and a copy of its model is ready: what starting it anew could mend otherwise.

    A pause, by a person or for a full disk, and an inbox that is away are no faults of the process.
    """
    daemon = answer["daemon"]
    return daemon is not None and daemon["phase"] == "running" and bool(_ready(daemon) or not daemon.get("replicas"))


def _tone(answer: Mapping[str, Any]) -> Tone:
    phase = answer["daemon"]["phase"]
    if phase != "running":
        return "bad" if phase == "frozen" else "note"
    return next((notice.tone for notice in notices(answer) if notice.tone != "note"), "good")


def _ready(daemon: Mapping[str, Any]) -> int:
    return sum(map(_is_up, daemon.get("replicas", [])))


def _is_up(replica: Mapping[str, Any]) -> bool:
    return replica["phase"] in ("idle", "busy")


def _not_running(answer: Mapping[str, Any], now: datetime) -> Notice:
    last = answer["last_run"]
    start = f"Start it: {how_to_start()}"
    if last is None:
        return Notice(tone="bad", text="watcherd is not running, and never ran here.", todo=start)
    if last["ended_at"] is None:
        seen = f"; the last sign of life was at {when(answer['last_event_at'], now)}" if answer["last_event_at"] else ""
        what = "The machine went down while it ran" if last["rebooted"] else "It was killed"
        run = f"its run of {when(last['started_at'], now)} (pid {last['pid']}) did not end in good order"
        todo = f"{start}. Nothing is lost: what was under way is done again."
        return Notice(tone="bad", text=f"watcherd is not running. {what}: {run}{seen}.", todo=todo)
    text = f"watcherd is not running. Its last run {last['end_reason']} at {when(last['ended_at'], now)}."
    return Notice(tone="bad", text=text, todo=f"See why: watcherd's log. {start}" if _failed(last) else start)


def _failed(run: Mapping[str, Any]) -> bool:
    return run["end_reason"] in ("failed", "crashed")


# ---------------------------------------------------------------------------------------------- what holds it up


def notices(answer: Mapping[str, Any]) -> list[Notice]:
    """What holds the work up or soon will, the weightiest first."""
    found = [*_pauses(answer), *_inbox_away(answer["daemon"] or {})]
    found += [
        *_models_away(answer),
        *_machines_away(answer["daemon"] or {}),
        *_replicas_down(answer["daemon"] or {}),
        *_disks(answer["disks"]),
        *_left_behind(answer),
    ]
    found += _set_aside(answer.get("set_aside", ()))
    return sorted(found, key=lambda notice: ("bad", "warn", "note", "good").index(notice.tone))


def _pauses(answer: Mapping[str, Any]) -> Iterator[Notice]:
    daemon = answer["daemon"]
    if daemon is None:
        if answer["paused_since"]:
            text = "PAUSED by a person: the next start begins nothing new either."
            yield Notice(tone="warn", text=text, todo="Go on: watcherd resume")
        return
    if daemon.get("held"):
        yield Notice(tone="warn", text="PAUSED by a person: nothing new is begun.", todo="Go on: watcherd resume")
    for part, reason in daemon.get("paused", {}).items():
        yield Notice(tone="bad", text=f"PAUSED {part}: {reason}")


def _set_aside(items: Sequence[Mapping[str, Any]]) -> Iterator[Notice]:
    if not items:
        return
    alone = sum(bool(item["left_alone"]) for item in items)
    last = items[-1]
    text = f"{len(items)} could not be handled, the last of them {last['item']} ({last['loop']}): {last['error']}"
    todo = f"{alone} of them are left alone, since they ended the service. " if alone else ""
    yield Notice(
        tone="bad" if alone else "warn",
        text=text,
        todo=f"{todo}Nothing else is held up. See all: watcherd doctor. Try again now: watcherd doctor --repair",
    )


def _inbox_away(daemon: Mapping[str, Any]) -> Iterator[Notice]:
    if (reason := inbox_away(daemon)) is not None:
        text = f"The inbox is OFFLINE: {reason}"
        yield Notice(
            tone="bad", text=text, todo="Mount it or put the folder back; nothing is forgotten, work goes on by itself."
        )


def _models_away(answer: Mapping[str, Any]) -> Iterator[Notice]:
    """Models that have no replicas while others work, and models that jobs name and nobody knows any more."""
    models = {model["name"]: model for model in (answer["daemon"] or {}).get("models", [])}
    waiting = dict(answer.get("queued_by_model", {}))
    for name, model in models.items():
        if model["why"] is not None:
            scans = waiting.get(name, 0)
            wait = f" {scans:,} scans wait for it." if scans else ""
            what = "waits for a device" if model["state"] == "waiting" else "is not loaded"
            todo = " ".join(
                filter(None, (model["todo"], "It is tried again by itself, and at once by: watcherd reload"))
            )
            yield Notice(tone="warn", text=f"The model {name} {what}: {model['why']}{wait}", todo=todo)
    for name, scans in waiting.items() if models else ():
        if name not in models:
            yield Notice(
                tone="warn",
                text=f"{scans:,} scans wait for the model {name}, which the configuration does not have any more.",
                todo=f"Put [models.{name}] back and reload, or have another do them: "
                f"watcherd retry --model default --from-model {name}",
            )


def _machines_away(daemon: Mapping[str, Any]) -> Iterator[Notice]:
    """What is wrong with the cluster, where there is one."""
    if trouble := daemon.get("cluster_trouble"):
        yield Notice(tone="warn", text=f"The cluster cannot be reached: {trouble}")
    for machine in daemon.get("machines", []):
        if machine["refused"]:
            yield Notice(tone="warn", text=f"The machine {machine['name']} is refused: {machine['refused']}.")


def _replicas_down(daemon: Mapping[str, Any]) -> Iterator[Notice]:
    if daemon.get("phase") != "running":
        return
    for replica in daemon.get("replicas", []):
        ready = any(_is_up(other) and other.get("model") == replica.get("model") for other in daemon["replicas"])
        if (what := _broken(replica)) is not None:
            why = f": {replica['last_error']}" if replica["last_error"] else ""
            rest = "The others go on." if ready else "Nothing is computed meanwhile."
            if not ready and (name := _named(replica, daemon)):
                rest = f"Nothing is computed by {name} meanwhile."
            yield Notice(tone="warn" if ready else "bad", text=f"Replica {replica['number']} {what}{why}. {rest}")


def _named(replica: Mapping[str, Any], daemon: Mapping[str, Any]) -> str:
    """The name of a replica's model; empty where there is only one."""
    return str(replica.get("model", "")) if len(daemon.get("models", [])) > 1 else ""


def _broken(replica: Mapping[str, Any]) -> str | None:
    """What is wrong with a replica; None when it is ready, or loads for the first time."""
    if replica["phase"] == "starting" and replica["restarts"]:
        return "died and is loaded again"
    return {"down": "is dead and will be started again", "stopped": "is given up"}.get(replica["phase"])


def _disks(disks: list[dict[str, Any]]) -> Iterator[Notice]:
    for disk in disks:
        if disk["state"] != "ok":
            free = f"{disk['free_mib']:,} MiB free of {disk['total_mib']:,}"
            text = f"The disk of the {disk['folder']} folder is {disk['state']}: {free} ({disk['path']})."
            yield Notice(tone="bad" if disk["state"] == "full" else "warn", text=text, todo="Make room there.")


def _left_behind(answer: Mapping[str, Any]) -> Iterator[Notice]:
    if answer["daemon"] is None and (left := len(answer["active"])):
        were, them = ("job was", "it") if left == 1 else ("jobs were", "them")
        yield Notice(tone="note", text=f"{left} {were} under way when it ended; the next start does {them} again.")


# ----------------------------------------------------------------------------------------------------- the figures


def facts(answer: Mapping[str, Any], now: datetime) -> dict[str, str]:
    """Names and values for the rest of the screen; what has nothing to say is left out."""
    every = {
        "jobs": _jobs(answer),
        "waiting": _waiting(answer["queue"], now),
        "today": _counted(answer["today"], ("succeeded", "failed", "quarantined", "cancelled")),
        "ever": _counted(answer["jobs"], ("succeeded", "failed", "quarantined", "cancelled")),
        "arrivals": _counted(answer["arrivals"], ("settling", "ignored", "duplicate")),
        "rate": f"{answer['per_minute']:g} a minute over the last {_minutes(answer['rate_minutes'])}",
        "backlog": _backlog(answer),
        "inbox": _inbox(answer["daemon"] or {}, now),
        "model": _model(answer["daemon"] or {}),
    } | _models(answer)
    return {name: value for name, value in every.items() if value}


def _jobs(answer: Mapping[str, Any]) -> str:
    if answer["daemon"] is not None:
        return _counted(answer["jobs"], ("running", "delivering", "queued")) or "nothing waits"
    left = answer["jobs"]["running"] + answer["jobs"]["delivering"]
    return _counted({**answer["jobs"], "left half-done": left}, ("queued", "left half-done")) or "nothing waits"


def _counted(counts: Mapping[str, int], words: tuple[str, ...]) -> str:
    return ", ".join(f"{counts[word]:,} {word}" for word in words if counts.get(word))


def _minutes(minutes: float) -> str:
    return "minute" if minutes == 1 else f"{minutes:g} minutes"


def _waiting(queue: Mapping[str, Any], now: datetime) -> str:
    words = []
    if queue["oldest"]:
        words.append(f"the oldest for {duration(seconds_since(queue['oldest'], now) * 1000)}")
    if queue["later"]:
        first = "" if queue["later"] == 1 else "the first "
        words.append(f"{queue['later']:,} for another try, {first}at {when(queue['next_try'], now)}")
    return "; ".join(words)


def _backlog(answer: Mapping[str, Any]) -> str:
    daemon = answer["daemon"]
    waiting = answer["jobs"]["queued"] + answer["jobs"]["running"]
    if not waiting:
        return ""
    if daemon is None:
        return "waits until watcherd runs"
    if daemon.get("held") or daemon.get("paused") or daemon["phase"] == "frozen":
        return "stands still"
    seconds = answer["backlog_seconds"]
    return f"done in {_roughly(seconds)}" if seconds else "not known yet: nothing was finished of late"


def _roughly(seconds: float) -> str:
    """An estimate has no seconds, unless it has nothing else."""
    return f"about {duration(round(seconds / 60) * 60_000)}" if seconds >= 90 else "a minute or less"


def _inbox(daemon: Mapping[str, Any], now: datetime) -> str:
    inbox = daemon.get("inbox")
    if not inbox:
        return ""
    swept = f", last at {when(inbox['swept_at'], now)}" if inbox.get("swept_at") else ""
    how = "OFFLINE" if inbox_away(daemon) else "online" if inbox["online"] else "not looked at yet"
    return f"{how} ({inbox['filesystem']}, swept every {inbox['sweep_seconds']:g} s{swept})"


def _models(answer: Mapping[str, Any]) -> dict[str, str]:
    """A line for each of several models: what it is, how it is, and what waits for it."""
    models = (answer["daemon"] or {}).get("models", [])
    if len(models) < 2:
        return {}
    waiting = answer.get("queued_by_model", {})
    return {"model": ""} | {
        f"model {model['name']}": ", ".join(
            filter(None, (_described(model), model["state"], _queued(waiting.get(model["name"], 0))))
        )
        for model in models
    }


def _queued(scans: int) -> str:
    return f"{scans:,} queued" if scans else ""


def _model(daemon: Mapping[str, Any]) -> str:
    model = daemon.get("model")
    return _described(model) if model else ""


def _described(model: Mapping[str, Any]) -> str:
    name = "" if model["model"] in ("", model["segmenter"]) else f" {model['model']}"
    return ", ".join(filter(None, (f"{model['segmenter']}{name}", model["dtype"])))


# --------------------------------------------------------------------------------------------- replicas and cards


def replicas(daemon: Mapping[str, Any] | None) -> list[Replica]:
    """A line for each replica: where it is and what it does."""
    daemon = daemon or {}
    cards = {card["uuid"]: card for card in daemon.get("cards", [])}
    told = daemon.get("phase") == "running"
    return [
        _replica(one, cards, _named(one, daemon), told=told and _broken(one) is not None)
        for one in daemon.get("replicas", [])
    ]


def _replica(replica: Mapping[str, Any], cards: Mapping[str, Mapping[str, Any]], model: str, *, told: bool) -> Replica:
    """``told``: a notice says already what is wrong with it."""
    state = {"down": "dead", "starting": "loading", "stopped": "given up"}.get(replica["phase"], replica["phase"])
    tone: Tone = {"dead": "bad", "given up": "bad", "loading": "warn"}.get(state, "good")  # type: ignore[assignment]
    return Replica(
        number=replica["number"],
        model=model,
        state=state,
        tone=tone,
        devices=", ".join(_device(uuid, cards, replica.get("node") or "") for uuid in replica["devices"]),
        memory=_held(replica, cards),
        doing=_doing(replica, told=told),
    )


def _device(uuid: str, cards: Mapping[str, Mapping[str, Any]], node: str) -> str:
    """As the history calls it too: with its machine in front, where that is another one."""
    index = cards.get(uuid, {}).get("index")
    label = f"cuda:{index}" if index is not None else uuid[:12]
    return f"{node}:{label}" if node else label


def _held(replica: Mapping[str, Any], cards: Mapping[str, Mapping[str, Any]]) -> str:
    processes = (cards.get(uuid, {}).get("processes", {}) for uuid in replica["devices"])
    held = [used for found in processes if (used := found.get(str(replica.get("pid")))) is not None]
    return gib(sum(held)) if held else ""


def _doing(replica: Mapping[str, Any], *, told: bool) -> str:
    words = []
    if replica["stage"]:
        words.append(replica["stage"] + (f" {replica['fraction']:.0%}" if replica["fraction"] else ""))
    if jobs := replica.get("jobs"):
        shown = ", ".join(map(str, jobs[:3])) + (f" and {len(jobs) - 3} more" if len(jobs) > 3 else "")
        words.append(f"job {shown}" if len(jobs) == 1 else f"jobs {shown}")
    if restarts := replica["restarts"]:
        words.append(f"started again {restarts} times" if restarts > 1 else "started again once")
    if replica["last_error"] and not told:
        words.append(f"({replica['last_error']})")
    return ", ".join(words).replace(", (", " (")


def gauges(daemon: Mapping[str, Any] | None) -> list[Gauge]:
    """The memory of each card that carries a replica, everybody's use of it."""
    return [_gauge(card) for card in (daemon or {}).get("cards", [])]


def _gauge(card: Mapping[str, Any]) -> Gauge:
    label = _device(card["uuid"], {card["uuid"]: card}, card.get("node") or "")
    used, total = card["used_mib"], card["total_mib"]
    if used is None or not total:
        text = f"of {gib(total)}, use unknown" if total else "unknown: the driver does not answer"
        return Gauge(label=label, name=card["name"] or "", fraction=None, text=text)
    return Gauge(label=label, name=card["name"] or "", fraction=used / total, text=f"{gib(used)} of {gib(total)}")


# ------------------------------------------------------------------------------------------------------- failures


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """One of the last failures: which, what, why, and what to do about it."""

    title: str
    source: str
    error: str
    advice: str


def failure(record: Mapping[str, Any], now: datetime) -> Failure:
    """A row of the view ``failures`` in words."""
    kind = record["error_class"] or record["state"]
    return Failure(
        title=f"job {record['id']}, {kind}, {when(record['finished_at'], now)}",
        source=record["source"],
        error=record["error"] or "",
        advice=record["advice"] or "",
    )
