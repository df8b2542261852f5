"""The daemon once over, on folders of its own: masks as the service makes them, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from watcherd import logs
from watcherd.config import Config, Hooks, Inbox, Metrics, Outbox, StateFolder
from watcherd.errors import UsageError
from watcherd.file_names import show, unshow
from watcherd.job import DEFAULT_MODEL, State
from watcherd.store import Filter, history, reader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, kw_only=True, slots=True)
class Segmented:
    """What came of one image. ``mask``: 0 and 255 or label values; ``probability``: 16 bits; both as in the outbox.

    ``error``: why there is neither. ``model``: name and revision.
    """

    mask: Path | None = None
    probability: Path | None = None
    error: str = ""
    model: str = ""


def segment(
    config: Config, images: Sequence[Path], folder: Path, *, profile: str | None = None, threshold: float | None = None
) -> dict[str, Segmented]:
    """Segment ``images``, whose names differ, with the configured model; what came of each by its name.

    ``folder``: an empty one, for everything in between. ``profile``: whose settings count; ``threshold``: in place of
    the configured ones. Raises what keeps the daemon from starting.
    """
    from watcherd.service.daemon import Daemon

    inside = _folder_of(config, profile)
    settings = _apart(config, folder, profile, threshold)
    (settings.inbox.path / inside).mkdir(parents=True)
    for image in images:
        shutil.copyfile(image, settings.inbox.path / inside / image.name)
    logs.setup(settings.log.model_copy(update={"level": "error"}), hidden_names=False)
    Daemon(settings, once=True).run()
    found = _results(settings.outbox.path)
    errors = _errors(settings.state.database)
    sources = {image.name: show(os.fsencode(inside / image.name)) for image in images}
    return {
        name: found.get(source) or Segmented(error=errors.get(source) or "It was not worked on to the end.")
        for name, source in sources.items()
    }


def _folder_of(config: Config, profile: str | None) -> Path:
    if profile is None:
        return Path()
    if profile not in config.profiles:
        known = ", ".join(config.profiles) or "none"
        raise UsageError(f"There is no profile {profile!r}.", hint=f"The configuration has these profiles: {known}.")
    return Path(config.profiles[profile].folder)


def _apart(config: Config, folder: Path, profile: str | None, threshold: float | None) -> Config:
    """The profile's model alone, the same limits; folders of its own, nobody told, probabilities with every mask."""
    state = StateFolder(path=folder / "state")
    state.path.mkdir()
    if config.state.cache.is_dir():  # what a probe has measured once holds here too
        state.cache.symlink_to(config.state.cache)
    change = {"outputs": None, "model": None, "models": None, "sidecar_models": ()}
    change |= {} if threshold is None else {"threshold": None}
    model = config.model_called(config.profiles[profile].computed_by[0] if profile else DEFAULT_MODEL)
    if threshold is not None:
        model = model.model_copy(update={"threshold": threshold})
    inbox = Inbox(
        path=folder / "inbox",
        archive_path=folder / "archive",
        settle_seconds=0,
        events=False,
        on_success="keep",
        on_failure="keep",
        ignore=(),
    )
    return config.model_copy(
        update={
            "inbox": inbox,
            "outbox": Outbox(path=folder / "outbox", outputs=("mask", "probability"), measures=False),
            "state": state,
            "model": model,
            "models": {},
            "metrics": Metrics(),
            "hooks": Hooks(),
            "profiles": {name: profile.model_copy(update=change) for name, profile in config.profiles.items()},
        }
    )


def _results(outbox: Path) -> dict[str, Segmented]:
    found = {}
    for path in (outbox / "results").rglob("*.json"):
        document = json.loads(path.read_bytes())
        files = {output["kind"]: outbox / os.fsdecode(unshow(output["path"])) for output in document["outputs"]}
        model = " ".join(filter(None, (document["segmenter"], document["model"], document["model_revision"])))
        found[document["source"]] = Segmented(mask=files["mask"], probability=files.get("probability"), model=model)
    return found


def _errors(database: Path) -> Mapping[str, str]:
    with reader(database) as connection:
        jobs = history.jobs(connection, Filter(limit=None))
    return {job["source"]: job["error"] for job in jobs if job["state"] != State.SUCCEEDED and job["error"]}
