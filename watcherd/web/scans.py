"""A scan's own page: its pictures, what happened to it, its files, and what people want done with it."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, RedirectResponse, StreamingResponse

from watcherd.errors import LostBytesError, UnavailableError, UsageError, WatcherdError
from watcherd.file_names import unshow
from watcherd.imaging.verified import verified
from watcherd.job import FINISHED
from watcherd.status import units
from watcherd.store import Filter, history, identity, reader, reviews
from watcherd.web.drawing import MOST_PIXELS, plain_file
from watcherd.web.guard import RefusedError
from watcherd.web.pictures import has_picture
from watcherd.web.site import attachment, kept, no_such_page, number

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from watcherd.web.site import Site

LAYERS = {"scan": "image/jpeg", "mask": "image/png", "probability": "image/png"}
"""What the viewer lays over one another, and as what it comes."""
SAME_SCAN = 20
"""Other jobs of the same scan that are named."""
BLOCK = 1 << 16
"""Bytes of a download that are read at a time."""
LOOKS_LIKE_A_NUMBER = 6
"""Digits of a priority, with its sign."""


class Scans:
    """Pages and files of jobs, by their numbers alone."""

    def __init__(self, site: Site) -> None:
        self._site = site

    # ---------------------------------------------------------------------------------------------------------- pages

    def page(self, request: Request) -> Response:
        job_id = number(request)
        with reader(self._site.settings.state.database) as connection:
            current = identity.current(connection, job_id)
            if current != job_id and history.job(connection, current) is not None:
                return RedirectResponse(f"/job/{current}", 303)
            story = self._told(connection, job_id)
            same = history.jobs(connection, Filter(sha256=story["sha256"], limit=SAME_SCAN + 1))
            review = reviews.of_jobs(connection, [job_id]).get(job_id)
            judged = reviews.judgeable(connection, job_id)
        shown = self._site.veil.story(story)
        return self._site.page(
            request,
            "job.html",
            title=f"Job {job_id}",
            job=shown,
            facts=_facts(shown),
            viewer=_viewer(story),
            same=[self._site.veil.job(other) for other in same if other["id"] != job_id][:SAME_SCAN],
            review=review,
            attempt=judged.attempt if judged else None,
            ended=story["state"] in FINISHED,
            files=[output for output in _files(story) if self._site.veil.may_send(output["kind"])],
            pictured=has_picture(story),
        )

    def compare(self, request: Request) -> Response:
        """Two jobs of one scan beside each other."""
        one, other = number(request), number(request, "other")
        with reader(self._site.settings.state.database) as connection:
            both = [self._told(connection, job_id) for job_id in (one, other)]
        if both[0]["sha256"] != both[1]["sha256"]:
            raise RefusedError(400, "These are two scans.", "Only jobs of the same scan are compared.")
        sides = [{"job": self._site.veil.story(story), "viewer": _viewer(story)} for story in both]
        return self._site.page(request, "compare.html", title=f"Jobs {one} and {other}", sides=sides)

    def _told(self, connection: Any, job_id: int) -> dict[str, Any]:
        try:
            return self._site.doors.tell(connection, job_id)
        except UsageError as error:
            raise RefusedError(404, f"There is no job {job_id}.", "Look in the history.") from error

    # ---------------------------------------------------------------------------------------------------------- files

    async def layer(self, request: Request) -> Response:
        """A frame of the scan, its mask or its probabilities."""
        layer, frame = request.path_params["layer"], number(request, "frame")
        if layer not in LAYERS:
            raise no_such_page()
        record = await run_in_threadpool(self._record, number(request))
        if frame >= (record["frames"] or 1):
            raise RefusedError(404, f"There is no frame {frame + 1}.", f"The scan has {record['frames'] or 1}.")
        return kept(await self._site.pictures.layer(record, layer, frame), LAYERS[layer])

    async def thumbnail(self, request: Request) -> Response:
        record = await run_in_threadpool(self._record, number(request))
        return kept(await self._site.pictures.thumbnail(record), "image/jpeg")

    async def file(self, request: Request) -> Response:
        """A result, under the name that it has in the outbox."""
        kind = request.path_params["kind"]
        job_id = number(request)
        record = await run_in_threadpool(self._story, job_id)
        output = next((one for one in _files(record) if one["kind"] == kind), None)
        if output is None or not self._site.veil.may_send(kind):
            raise no_such_page()
        path = self._site.settings.outbox.path / os.fsdecode(unshow(output["path"]))
        name = f"job-{job_id}.{kind}{''.join(path.suffixes[-1:])}" if self._site.veil.is_down else path.name
        blocks = await run_in_threadpool(_opened, str(path), output["sha256"], output["bytes"])
        return StreamingResponse(
            blocks,
            media_type="application/octet-stream",
            headers={"content-disposition": attachment(name), "content-length": str(output["bytes"])},
        )

    def record(self, request: Request) -> Response:
        """Everything about the job as JSON."""
        job_id = number(request)
        shown = self._site.veil.story(self._story(job_id))
        return JSONResponse(shown, headers={"content-disposition": attachment(f"job-{job_id}.json")})

    def log(self, request: Request) -> Response:
        """The log's lines about a job."""
        job_id = number(request)
        self._record(job_id)
        if self._site.veil.is_down:
            raise RefusedError(403, "Names are hidden.", "The log may repeat them: read it with watcherd logs.")
        what, lines = self._site.doors.log(job_id)
        return JSONResponse({"what": what, "lines": [{"at": units.local(one.at), "text": one.text} for one in lines]})

    def _record(self, job_id: int) -> dict[str, Any]:
        with reader(self._site.settings.state.database) as connection:
            record = history.job(connection, job_id)
        if record is None:
            raise RefusedError(404, f"There is no job {job_id}.", "Look in the history.")
        return record

    def _story(self, job_id: int) -> dict[str, Any]:
        with reader(self._site.settings.state.database) as connection:
            return self._told(connection, job_id)

    # ------------------------------------------------------------------------------------------------------- commands

    async def steer(self, request: Request, verb: str) -> Response:
        """Have something done with a job by the service."""
        job_id = number(request)
        form = await request.form(max_files=0, max_fields=10)
        said = {key: str(value) for key, value in form.items()}
        self._site.check_form(request, said.get("csrf", ""))
        arguments = _arguments(verb, job_id, said, request.state.visitor.who)
        called = "prioritise" if verb == "priority" else verb
        await self._have_done(request, called, arguments)
        return RedirectResponse(f"/job/{job_id}", 303)

    async def pause_or_resume(self, request: Request, verb: str) -> Response:
        """Have the service hold, or go on."""
        form = await request.form(max_files=0, max_fields=2)
        self._site.check_form(request, str(form.get("csrf", "")))
        await self._have_done(request, verb, {})
        return RedirectResponse("/", 303)

    async def _have_done(self, request: Request, verb: str, arguments: Mapping[str, Any]) -> None:
        try:
            done = await asyncio.to_thread(self._site.doors.steer, verb, arguments)
        except WatcherdError as error:
            self._site.say(request, " ".join(filter(None, (error.message, error.hint))), "bad")
        else:
            self._site.say(request, f"{verb}: {done}" if done[:1].isdigit() else done)


def _arguments(verb: str, job_id: int, said: Mapping[str, str], who: str | None) -> dict[str, Any]:
    jobs = {"jobs": [job_id]}
    if verb in ("retry", "cancel"):
        return jobs
    if verb == "priority":
        text = said.get("priority", "")
        if len(text) > LOOKS_LIKE_A_NUMBER or not text.removeprefix("-").isdecimal() or not text.isascii():
            raise RefusedError(400, "That is no priority.", "Write a whole number: higher is sooner, 0 is ordinary.")
        return jobs | {"priority": int(text)}
    verdict = said.get("verdict", "")
    attempt = said.get("attempt", "")
    return jobs | {
        "verdict": verdict if verdict in reviews.VERDICTS else None,
        "note": said.get("note", "").strip(),
        "reviewer": said.get("reviewer", "").strip() or (who or ""),
        "attempt": int(attempt[:19]) if attempt.isascii() and attempt.isdecimal() else None,
    }


def _opened(path: str, sha256: str, size: int) -> Iterator[bytes]:
    """The bytes of a recorded result; its hash is looked at before the first is sent. Raises `UnavailableError`."""

    def blocks() -> Iterator[bytes]:
        with verified(plain_file(path, size), sha256) as source, source.open("rb") as file:
            yield b""
            while block := file.read(BLOCK):
                yield block

    started = blocks()
    try:
        next(started)
    except (LostBytesError, OSError) as error:
        raise UnavailableError(
            "The file is not in the outbox any more as it was delivered.", hint="Have the job done again."
        ) from error
    return started


def _files(story: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The results of a job, each kind once: those under its first name, then what other names have besides."""
    found: dict[str, dict[str, Any]] = {output["kind"]: output for output in story["outputs"]}
    for arrival in story["arrivals"]:
        for output in arrival["outputs"]:
            found.setdefault(output["kind"], output)
    return list(found.values())


def _viewer(story: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the viewer has to know; None where the scan could not be read."""
    if not story["width"] or not story["height"]:
        return None
    kinds = {output["kind"] for output in story["outputs"]}
    asked = story["options"]
    profile = str(asked.get("profile", "default"))
    return {
        "id": story["id"],
        "frames": story["frames"] or 1,
        "width": story["width"],
        "height": story["height"],
        "mask": "mask" in kinds,
        "probability": "probability" in kinds,
        "threshold": story["threshold"] if story["threshold"] is not None else asked.get("threshold", 0.5),
        "table": "[model]" if profile == "default" else f"[profiles.{profile}]",
        "smaller": story["width"] * story["height"] > MOST_PIXELS,
        "frame": max(0, (story["measured_frame"] or 1) - 1),
    }


def _facts(story: Mapping[str, Any]) -> dict[str, str]:
    """Names and values beside the picture."""
    asked = story["options"]
    frames = story["frames"] or 1
    shape = f"{story['width']} x {story['height']}" if story["width"] else ""
    model = " ".join(filter(None, (story["segmenter"], story["model"] if story["model"] != story["segmenter"] else "")))
    every = {
        "size": ", ".join(
            filter(None, (shape, f"{frames} frames" if frames > 1 else "", units.size(story["size_bytes"])))
        ),
        "format": story["format"],
        "profile": story["profile"],
        "model": ", ".join(filter(None, (model, story["dtype"]))),
        "threshold": f"{story['threshold']:g}" if story["threshold"] is not None else "",
        "prompt": asked.get("prompt"),
        "answer": story["answer"],
        "mask": f"{story['mask_fraction']:.2%} of the pixels" if story["mask_fraction"] is not None else "",
        "pieces": story["components"],
        "length": _length(story["length"], story["unit"]),
        "mean width": _length(story["mean_width"], story["unit"]),
        "widest": _length(story["max_width"], story["unit"]),
        "waited": units.duration(story["queue_ms"]) if story["started_at"] else "",
        "took": units.duration(units.took(story)),
        "came": units.local(story["created_at"]),
        "done": units.local(story["finished_at"]),
        "priority": story["priority"] or "",
        "note": story["note"],
    }
    return {name: str(value) for name, value in every.items() if value not in (None, "")}


def _length(value: float | None, unit: str | None) -> str:
    return "" if value is None else f"{value:,.4g} {unit}"
