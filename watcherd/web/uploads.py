"""Trying it: what is dropped into the page goes through the inbox, as by `watcherd submit`, and its job is followed.

Each upload has folders of its own below the inbox, one for each prompt, so that nobody's file gets another name and
the options beside it speak for it alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import tempfile
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse

from watcherd.errors import WatcherdError
from watcherd.file_names import show, storable
from watcherd.formats.sniff import HEAD, describe, known_format
from watcherd.formats.truncation import ends_early
from watcherd.job import FINISHED, State
from watcherd.outputs import DRAWN
from watcherd.store import history, overview, reader
from watcherd.web.guard import RefusedError
from watcherd.web.pictures import has_picture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from watcherd.web.site import Site

PATH = "/try"
MOST_FILES = 64
"""Files of one upload."""
MOST_PROMPTS = 8
"""Prompts that are tried side by side."""
LONGEST_PROMPT = 4000
"""Characters of a prompt."""
LONGEST_NAME = 200
"""Bytes of a file's name; what is longer loses its middle."""
BATCHES = 500
"""Uploads that are followed; older ones are found in the history."""
FOLDER = "web"
"""Below the inbox, or a profile's folder: where the page's scans come in."""
PASTED = "pasted.png"
"""What a picture is called that comes without a name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What is asked for with an upload. ``prompts``: each is a job of its own; empty: the configured one."""

    profile: str | None
    options: Mapping[str, Any]
    prompts: tuple[str, ...]


@dataclass(kw_only=True, slots=True)
class Followed:
    """A scan on its way to one model. ``source``: its path below the inbox, as shown. ``which``: of the models that
    compute it."""

    source: str
    name: str
    prompt: str
    which: int = 0
    model: str = ""
    state: str = "dropped"
    error: str | None = None
    advice: str | None = None
    job: int | None = None
    picture: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """An upload. ``after``: the last arrival before it."""

    after: int
    scans: list[Followed] = field(default_factory=list)


class Uploads:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._batches: OrderedDict[str, Batch] = OrderedDict()

    def page(self, request: Request) -> Response:
        config = self._site.settings
        profiles = ["default", *config.profiles]
        return self._site.page(
            request,
            "try.html",
            title="Try it",
            profiles=[{"name": name, **self._of_profile(name)} for name in profiles],
            outputs=[kind for kind in DRAWN if kind not in ("mask", "overlay")],
            most_mib=config.web.upload_mib,
            most_prompts=MOST_PROMPTS,
        )

    def _of_profile(self, name: str) -> dict[str, Any]:
        """What a profile does by itself, and which models may be chosen in it."""
        config = self._site.settings
        profile = config.profiles.get(name)
        options = config.options_for(f"{profile.folder}/x" if profile else "x")
        models = [options.model, *(profile.sidecar_models if profile else ())]
        speaks = [m for m in dict.fromkeys(models) if config.model_called(m).segmenter in ("sa2va", "sam3")]
        return {
            "models": list(dict.fromkeys(models)),
            "speaks": speaks,
            "threshold": options.threshold,
            "prompt": options.prompt,
        }

    # --------------------------------------------------------------------------------------------------------- upload

    async def upload(self, request: Request) -> Response:
        """Take the files, look at what they are, and drop them; which upload it is, to be followed."""
        self._site.check_form(request, request.headers.get("x-csrf", ""))  # before a byte of it is read
        async with request.form(max_files=MOST_FILES, max_fields=32, max_part_size=1 << 16) as form:
            files = [one for one in form.getlist("scan") if isinstance(one, UploadFile)]
            said = {key: value for key, value in form.items() if isinstance(value, str)}
            outputs = [str(one) for one in form.getlist("output")]
            if not files:
                raise RefusedError(400, "There is no file.", "Drop one, paste a picture, or choose one.")
            wish = self._wish(said, outputs)
            batch = await run_in_threadpool(self._take, files, wish)
        key = secrets.token_urlsafe(16)
        self._batches[key] = batch
        while len(self._batches) > BATCHES:
            self._batches.popitem(last=False)
        return JSONResponse({"batch": key, "scans": self._shown(batch)})

    def _wish(self, said: Mapping[str, str], outputs: Sequence[str]) -> Wish:
        """Raises `RefusedError` for what a sidecar may not ask for."""
        profile = said.get("profile") or "default"
        if profile != "default" and profile not in self._site.settings.profiles:
            raise RefusedError(400, "There is no such profile.", "Load the page again: the configuration has changed.")
        options: dict[str, Any] = {}
        of_profile = self._of_profile(profile)
        model = said.get("model") or ""
        if model and model not in of_profile["models"]:
            raise RefusedError(
                400, "That model may not be chosen here.", f"Allowed: {', '.join(of_profile['models'])}."
            )
        if model and model != of_profile["models"][0]:
            options["model"] = model
        if threshold := said.get("threshold", ""):
            options["threshold"] = _fraction(threshold)
        if outputs:
            if unknown := [kind for kind in outputs if kind not in DRAWN]:
                raise RefusedError(400, f"There is no output {unknown[0][:40]!r}.", f"There are {', '.join(DRAWN)}.")
            options["outputs"] = sorted({"mask", "overlay", *outputs})
        lines = [line.strip() for line in said.get("prompts", "").splitlines()]
        prompts = tuple(dict.fromkeys(line for line in lines if line))
        if len(prompts) > MOST_PROMPTS or any(len(prompt) > LONGEST_PROMPT for prompt in prompts):
            raise RefusedError(400, "Those are too many prompts.", f"At most {MOST_PROMPTS}, one a line.")
        wish = Wish(profile=None if profile == "default" else profile, options=options, prompts=prompts)
        for sidecar in _sidecars(wish):
            self._check(sidecar)
        return wish

    def _check(self, sidecar: bytes) -> None:
        try:
            self._site.doors.sidecar(sidecar, b".json")
        except ValueError as error:
            raise RefusedError(400, "That cannot be asked for.", f"The sidecar {error}.") from error

    def _take(self, files: Sequence[UploadFile], wish: Wish) -> Batch:
        """Write the files down, look at them, drop them. Raises `RefusedError` before any is dropped."""
        cache = self._site.settings.state.cache
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="web-upload-", dir=cache) as name:
            folder = Path(name)
            taken = [_write(folder / str(place), one) for place, one in enumerate(files)]
            for path in taken:
                _refuse_what_is_no_scan(path)
            try:
                self._site.doors.check(taken)
            except WatcherdError as error:
                raise RefusedError(400, _without(error.message, folder), error.hint) from error
            with reader(self._site.settings.state.database) as connection:
                batch = Batch(after=overview.last_arrival_id(connection))
            upload = secrets.token_hex(6)
            for place, path in enumerate(taken):
                again = sum(other.name == path.name for other in taken[:place])
                self._drop(path, f"{upload}-{again}" if again else upload, wish, batch)
        return batch

    def _drop(self, path: Path, upload: str, wish: Wish, batch: Batch) -> None:
        """Once for each prompt. Files of one upload lie beside each other: they may be the frames of a run."""
        doors = self._site.doors
        for number, (prompt, sidecar) in enumerate(zip(wish.prompts or ("",), _sidecars(wish), strict=True), start=1):
            below = doors.place(Path(FOLDER, f"{upload}-p{number}"), wish.profile)
            if sidecar != b"{}":
                beside = path.with_name(f"{path.name}.json")
                beside.write_bytes(sidecar)
                doors.drop(beside, below)  # first: the scan must not be taken without it
            source = show(doors.drop(path, below))
            batch.scans.append(Followed(source=source, name=path.name, prompt=prompt))

    # --------------------------------------------------------------------------------------------------------- follow

    async def follow(self, request: Request) -> Response:
        """What became of an upload's scans."""
        batch = self._batches.get(request.path_params["batch"])
        if batch is None:
            raise RefusedError(404, "This upload is not followed any more.", "Look in the history.")
        await asyncio.to_thread(self._look, batch)
        return JSONResponse({"scans": self._shown(batch)})

    def _look(self, batch: Batch) -> None:
        settings = self._site.settings
        with reader(settings.state.database) as connection:
            found = overview.waited_for(connection, [scan.source for scan in batch.scans], after=batch.after)
            jobs = [row["job_id"] for rows in found.values() for row in rows if row["job_id"]]
            records = history.records(connection, jobs)
        for scan in list(batch.scans):
            rows = found.get(scan.source, [])
            if scan.which == 0:  # several models may compute it: each has a job, and a place of its own
                known = sum(other.source == scan.source for other in batch.scans)
                more = range(known, len(rows))
                batch.scans.extend(replace(scan, which=which, state="dropped", job=None) for which in more)
        for scan in batch.scans:
            rows = found.get(scan.source, [])
            if scan.which < len(rows):
                _update(scan, rows[scan.which], records)

    def _shown(self, batch: Batch) -> list[dict[str, Any]]:
        down = self._site.veil.is_down
        return [
            {
                "name": "a scan" if down else show(os.fsencode(scan.name)),
                "prompt": scan.prompt,
                "model": scan.model,
                "state": scan.state,
                "ended": scan.state in {*FINISHED, "ignored"},
                "error": "hidden, as names are" if down and scan.error else scan.error,
                "advice": None if down else scan.advice,
                "job": scan.job,
                "picture": scan.picture,
            }
            for scan in batch.scans
        ]


def _update(scan: Followed, row: Mapping[str, Any], records: Mapping[int, Mapping[str, Any]]) -> None:
    if row["job_id"] is None:
        scan.state, scan.error = row["fate"], row["reason"]
        return
    state = State(row["state"])
    delivered = state not in FINISHED or row["delivery"] in ("delivered", "none")
    scan.job, scan.state = row["job_id"], state.value if delivered else State.DELIVERING.value
    scan.error, scan.advice = row["error"], row["advice"]
    record = records.get(row["job_id"])
    if record is not None:
        scan.picture, scan.model = has_picture(record), record["model_name"]


def _sidecars(wish: Wish) -> list[bytes]:
    """The options to lie beside the scan, for each prompt."""
    every = [dict(wish.options) | ({"prompt": prompt} if prompt else {}) for prompt in wish.prompts or ("",)]
    return [json.dumps(values).encode() for values in every]


def _fraction(said: str) -> float:
    try:
        value = float(said[:40])
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise RefusedError(400, "That is no threshold.", "Give a number from 0 to 1.")
    return value


def _write(folder: Path, upload: UploadFile) -> Path:
    """An uploaded file under its own name, as far as it is one, in a folder of its own."""
    folder.mkdir()
    path = folder / plain_name(upload.filename or "")
    with path.open("xb") as file:
        shutil.copyfileobj(upload.file, file, 1 << 20)
    return path


def plain_name(said: str) -> str:
    """The last part of what a browser says that a file is called: no folders, no control characters, not too long."""
    last = re.split(r"[/\\]", storable(said))[-1]
    name = "".join(char for char in last if char.isprintable()).strip().lstrip(".")
    stem, dot, ending = name.rpartition(".")
    if not name or not (stem or ending):
        return PASTED
    room = LONGEST_NAME - len(f"{dot}{ending}".encode()[:20])
    if len(name.encode()) > LONGEST_NAME:
        name = (
            stem.encode()[:room].decode(errors="ignore") + f"{dot}{ending}"[:20]
            if dot
            else name.encode()[:LONGEST_NAME].decode(errors="ignore")
        )
    return name


def _refuse_what_is_no_scan(path: Path) -> None:
    """By its bytes, not by its name: before the inbox has it. Raises `RefusedError`."""
    with path.open("rb") as file:
        head = file.read(HEAD)
        file.seek(0)
        kind = known_format(head)
        early = ends_early(file) if kind is not None else None
    name = show(os.fsencode(path.name))
    if not head:
        raise RefusedError(400, f"{name} is empty.", "Choose it again.")
    if path.suffix in (".toml", ".json"):
        raise RefusedError(400, f"{name} is called like options for a scan.", "Give the picture another name.")
    if kind is None:
        raise RefusedError(400, f"{name} is no picture that can be read.", f"It {describe(head)}.")
    if early:
        raise RefusedError(400, f"{name} is not whole.", f"It is {early}: export or copy it again.")


def _without(message: str, folder: Path) -> str:
    """Words about an uploaded file, which lay for a moment in a folder that nobody knows."""
    return re.sub(re.escape(str(folder)) + r"/\d+/", "", message)
