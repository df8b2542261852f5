"""The application: every address that is answered, with the guard around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from python_multipart.exceptions import FormParserError
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.routing import Route, Router

from watcherd.errors import BusyError, JobError, StoreError, UnavailableError, UsageError, WatcherdError
from watcherd.web import uploads
from watcherd.web.doorway import Doorway
from watcherd.web.export import Export
from watcherd.web.guard import Guard, RefusedError
from watcherd.web.now import Now
from watcherd.web.past import Past
from watcherd.web.poller import Poller
from watcherd.web.report import Report
from watcherd.web.scans import Scans
from watcherd.web.site import Site, no_such_page, static

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]

STREAM = "/events"
STATUS: dict[type[WatcherdError], int] = {
    UsageError: 400,
    UnavailableError: 404,
    BusyError: 503,
    StoreError: 503,
    JobError: 404,
}
"""What browsers are told beside the words, by the kind of error."""


def application(site: Site) -> ASGIApp:
    """All of it, for an ASGI server. Makes the site's poller."""
    now, past, scans, doorway = Now(site), Past(site), Scans(site), Doorway(site)
    tried, export = uploads.Uploads(site), Export(site)
    report = Report(site)
    site.poller = Poller(now.look)

    def own(request: Request) -> Response:
        return static(site, request.path_params["name"])

    routes = [
        Route("/", now.page),
        Route(STREAM, now.events),
        Route("/login", doorway.page, methods=["GET"]),
        Route("/login", doorway.log_in, methods=["POST"]),
        Route("/logout", doorway.log_out, methods=["POST"]),
        Route("/history", past.page, methods=["GET"]),
        Route("/history", past.search, methods=["POST"]),
        Route("/failures", past.failures),
        Route("/report", report.page),
        Route("/report.css", report.style),
        Route("/reviews.csv", export.csv),
        Route("/reviews.json", export.json),
        Route(uploads.PATH, tried.page, methods=["GET"]),
        Route(uploads.PATH, tried.upload, methods=["POST"]),
        Route("/try/{batch}", tried.follow),
        Route("/job/{id:int}", scans.page),
        Route("/job/{id:int}/compare/{other:int}", scans.compare),
        Route("/job/{id:int}/layer/{layer}/{frame:int}", scans.layer),
        Route("/job/{id:int}/thumbnail", scans.thumbnail),
        Route("/job/{id:int}/file/{kind}", scans.file),
        Route("/job/{id:int}/record", scans.record),
        Route("/job/{id:int}/log", scans.log),
        *(Route(f"/job/{{id:int}}/{verb}", _steering(scans, verb), methods=["POST"]) for verb in VERBS),
        *(Route(f"/{verb}", _pausing(scans, verb), methods=["POST"]) for verb in ("pause", "resume")),
        Route("/static/{name}", own),
    ]
    router = Router(routes, redirect_slashes=False, default=_nothing)
    return Guard(_in_words(router), site.settings.web, site.sessions, upload_path=uploads.PATH, stream_path=STREAM)


VERBS = ("retry", "cancel", "priority", "review")
"""What can be done with a job."""


def _steering(scans: Scans, verb: str) -> Endpoint:
    async def steer(request: Request) -> Response:
        return await scans.steer(request, verb)

    return steer


def _pausing(scans: Scans, verb: str) -> Endpoint:
    async def pause_or_resume(request: Request) -> Response:
        return await scans.pause_or_resume(request, verb)

    return pause_or_resume


async def _nothing(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise no_such_page()


def _in_words(app: ASGIApp) -> ASGIApp:
    """Errors of ours and of the libraries as refusals."""

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except WatcherdError as error:
            status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
            raise RefusedError(status, error.message, error.hint) from error
        except (MultiPartException, FormParserError, HTTPException) as error:
            said = str(getattr(error, "message", "") or getattr(error, "detail", "") or "It is not whole.")
            raise RefusedError(400, "The form cannot be read.", said) from error

    return answered
