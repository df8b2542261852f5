"""The masks that ``watcherd evaluate`` judges: made now as the service makes them, in a folder, or of past jobs."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from watcherd import config as configuration
from watcherd.cli.common import load_config, open_history
from watcherd.cli.jobs import parse_time
from watcherd.config import Config
from watcherd.config.toml_file import SEARCHED
from watcherd.errors import UsageError
from watcherd.job import DEFAULT_MODEL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from watcherd.evaluation.frame_figures import Tolerance
    from watcherd.evaluation.judging import Options
    from watcherd.evaluation.pairing import Existing, Made, Pairs, Wanted
    from watcherd.store import Filter

KEPT = {"mask": "masks", "probability": "probabilities"}
"""Folders below ``--out`` of what ``--keep`` keeps."""

AT_ONCE = 500
"""Jobs that are read from the history together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a person asked for, read and checked. ``threshold``: None: a sweep."""

    images: Path | None
    predictions: Path | None
    probabilities: Path | None
    jobs: str | None
    profile: str | None
    threshold: float | None
    by: str
    write: bool
    tolerance: Tolerance
    inverted: bool | None
    config: Path | None
    wanted: Wanted

    def check(self) -> None:
        """Raises `UsageError` for what makes no sense together."""
        if self.predictions and self.jobs is not None:
            raise UsageError("--predictions and --jobs exclude each other.", hint="Give one of them.")
        if not self.predictions and self.jobs is None and not self.images:
            raise UsageError(
                "There is nothing to judge.", hint="Give --images, scans to segment; or --predictions; or --jobs."
            )
        if self.probabilities and not self.predictions:
            raise UsageError("--probabilities needs --predictions.", hint="They are the maps of the masks there.")
        if self.write and self.threshold is not None:
            raise UsageError("--write needs a sweep.", hint="Leave --threshold out.")
        if self.threshold is not None and (self.predictions or self.jobs is not None):
            raise UsageError(
                "--threshold changes masks that are made, and these exist already.",
                hint="Leave it out, or give --images alone.",
            )

    @property
    def source(self) -> str:
        """Whose masks are judged: one of `JudgedMasks`."""
        return "predictions" if self.predictions else "images" if self.jobs is None else "jobs"

    @property
    def judged(self) -> str:
        """Where they are: a folder, or which jobs."""
        return self.jobs if self.jobs is not None else str(self.predictions or self.images)

    def options(self, in_use: float | None) -> Options:
        """With the thresholds of the sweep, among them the one in use; None: there are no maps to sweep."""
        from watcherd.evaluation.figures import THRESHOLDS
        from watcherd.evaluation.judging import Options

        swept = () if self.threshold is not None or in_use is None else sorted({*THRESHOLDS, in_use})
        return Options(tolerance=self.tolerance, thresholds=swept, by=self.by, inverted=self.inverted)


def masks_of(asked: Asked, folder: Path) -> tuple[Pairs, dict[str, Made]]:
    """The pairs, and of each scan its mask: made now, in a folder, or of past jobs."""
    if asked.predictions:
        return _paired(_in_folder(asked.predictions, asked), asked, str(asked.predictions))
    if asked.jobs is not None:
        return _paired(_of_jobs(asked), asked, "the outbox")
    return _segmented(asked, folder)


def _paired(found: Existing, asked: Asked, where: str) -> tuple[Pairs, dict[str, Made]]:
    from watcherd.evaluation.pairing import pair_up

    pairs = pair_up(found.files, asked.wanted, found.images, where=where)
    pairs.problems[:0] = found.problems
    return pairs, found.made


def _in_folder(folder: Path, asked: Asked) -> Existing:
    from watcherd.evaluation.pairing import existing

    return existing(folder, asked.probabilities, asked.images, asked.wanted)


def _segmented(asked: Asked, folder: Path) -> tuple[Pairs, dict[str, Made]]:
    """Masks as the service would make them. Raises `UsageError` for scans of one name in several folders."""
    from watcherd.evaluation.pairing import Made, files_of, pair_up
    from watcherd.service import trial

    assert asked.images is not None
    settings = _settings(asked.config)
    pairs = pair_up(files_of(asked.images, asked.wanted.folders()), asked.wanted, where=str(asked.images))
    scans = {key: pair.image for key, pair in pairs.scans.items() if pair.image is not None}
    by_name: dict[str, Path] = {}
    for path in scans.values():
        if path.name in by_name:
            raise UsageError(f"{path} and {by_name[path.name]} have the same name.", hint="Evaluate them one by one.")
        by_name[path.name] = path
    typer.echo(f"Segmenting {len(scans)} scans ...", err=True)
    found = trial.segment(settings, list(scans.values()), folder, profile=asked.profile, threshold=asked.threshold)
    threshold = asked.threshold if asked.threshold is not None else _configured(settings, asked.profile)
    return pairs, {
        key: Made(
            mask=found[path.name].mask,
            probability=found[path.name].probability,
            error=found[path.name].error,
            model=found[path.name].model,
            threshold=threshold,
            own=True,
        )
        for key, path in scans.items()
    }


def configuration_in_use(path: Path | None) -> Config | None:
    """The configuration; None where nobody has one. Raises `ConfigError`."""
    if path or os.environ.get("WATCHERD_CONFIG") or any(candidate.is_file() for candidate in SEARCHED):
        return load_config(path)
    return None


def _settings(path: Path | None, *, quiet: bool = False) -> Config:
    """The configuration; where nobody has one, that of the default model. Raises `ConfigError`."""
    if (found := configuration_in_use(path)) is not None:
        return found
    if not quiet:
        typer.echo("There is no configuration: the default model is judged, with its defaults.", err=True)
    return configuration.build({}, base=Path.cwd())


def _configured(settings: Config, profile: str | None) -> float:
    chosen = settings.profiles[profile] if profile is not None else None
    if chosen is not None and chosen.threshold is not None:
        return float(chosen.threshold)
    return float(settings.model_called(chosen.computed_by[0] if chosen else DEFAULT_MODEL).threshold)


def _of_jobs(asked: Asked) -> Existing:
    """Of each scan the newest job's mask, if it still lies in the outbox as it was delivered."""
    from watcherd.evaluation.pairing import Existing, Made, belonging, files_of, stem_of
    from watcherd.evaluation.past import mask_of
    from watcherd.store import history

    assert asked.jobs is not None
    outbox = load_config(asked.config).outbox.path
    found = Existing(made={}, files={}, images={}, problems=[])
    chosen: dict[str, Mapping[str, Any]] = {}
    with open_history(asked.config) as connection:
        wanted = _filter(asked.jobs, asked.profile)
        while records := history.jobs(connection, wanted):
            for record in records:
                key = stem_of(record["source"])
                if key in found.made:
                    found.problems.append(_left_out(record, chosen[key]))
                    continue
                chosen[key] = record
                made = mask_of(record, outbox)
                found.made[key] = made if isinstance(made, Made) else Made(error=made)
                found.files[key] = Path(record["source"])
            wanted = replace(wanted, offset=wanted.offset + AT_ONCE)
    if asked.images:
        scans = files_of(asked.images, asked.wanted.folders())
        of = belonging(list(found.files), list(scans)).pairs
        found.images.update({key: scans[name] for key, name in of.items()})
    return found


def _left_out(record: Mapping[str, Any], chosen: Mapping[str, Any]) -> str:
    which = f"Job {record['id']}, {record['source']},"
    if record["model_name"] == chosen["model_name"]:
        return f"{which} is older than another: left out."
    return (
        f"{which} is of the model {record['model_name']}, and job {chosen['id']} of {chosen['model_name']} counts: "
        f"left out. Choose with --jobs 'model {record['model_name']}'."
    )


def _filter(text: str, profile: str | None) -> Filter:
    """Which jobs: ``since 7d``, ``until 2026-02-01``, ``name 'coronary/*'``, ``profile retina``, ``model trial``, in
    any order."""
    from watcherd.job import State
    from watcherd.store import Filter

    words = shlex.split(text)
    known = ("since", "until", "name", "profile", "model")
    if len(words) % 2 or any(word not in known for word in words[::2]):
        raise UsageError(
            f"--jobs {text!r} is not understood.",
            hint="Write 'since 7d', 'since 2026-01-31 until 2026-02-07', \"name 'coronary/*'\", 'profile retina', "
            "'model trial'; '' takes all.",
        )
    said = dict(zip(words[::2], words[1::2], strict=True))
    now = datetime.now(UTC)
    return Filter(
        states=(State.SUCCEEDED,),
        name=said.get("name"),
        profile=said.get("profile", profile),
        model=said.get("model"),
        since=parse_time("--jobs since", said["since"], now) if "since" in said else None,
        until=parse_time("--jobs until", said["until"], now) if "until" in said else None,
        limit=AT_ONCE,
    )


def threshold_of(asked: Asked, made: dict[str, Made]) -> float | None:
    """The threshold that the masks were made with, if they have maps and it is one and the same."""
    if not any(one.probability for one in made.values()):
        return None
    found = {one.threshold for one in made.values() if one.threshold is not None}
    if len(found) == 1:
        return found.pop()
    return _configured(_settings(asked.config, quiet=True), asked.profile)


def keep_in(out: Path, made: dict[str, Made]) -> None:
    """Masks and maps under the names of their scans, so that ``--predictions`` and ``--against`` find them."""
    for key, one in made.items():
        for kind, source in (("mask", one.mask), ("probability", one.probability)):
            if source is not None:
                ending = "".join(source.suffixes[-2:]) if source.suffix == ".gz" else source.suffix
                path = out / KEPT[kind] / f"{key}{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, path)
