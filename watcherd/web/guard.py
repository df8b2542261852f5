"""What stands before every answer of the page: whose request it is, how large it may be, and what browsers may do.

One layer around the whole application, so that nothing is answered without it: refusals and faults too.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from html import escape
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse

from watcherd import logs

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from watcherd.config import Web
    from watcherd.web.access import Sessions

COOKIE = "watcherd"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "x-frame-options": "DENY",
}
"""On every answer, whatever else it says."""

OPEN = ("/login", "/static/")
"""What is shown to those who have not logged in."""
FORM_BYTES = 64 << 10
"""Bytes of a request that is no upload."""
BODY_SECONDS = 60.0
"""Seconds that a request may be silent before its body is there."""
AT_ONCE = 100
"""Requests that are answered at the same time; event streams do not count."""
STREAMS = 200
"""Event streams at the same time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Visitor:
    """Who asks. ``session``: empty without one. ``address``: of the browser, or of the proxy before it."""

    who: str | None
    session: str
    address: str
    secure: bool


class RefusedError(Exception):
    """Why a request is not answered, for people."""

    def __init__(self, status: int, title: str, words: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(title)
        self.status, self.title, self.words = status, title, words
        self.headers = headers or {}


def refusal(error: RefusedError, *, as_json: bool) -> Response:
    """A refusal in words: for people a page, for our own scripts JSON."""
    if as_json:
        content = {"error": error.title, "hint": error.words}
        return JSONResponse(content, status_code=error.status, headers=error.headers)
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(error.title)}</title><link rel="stylesheet" href="/static/page.css"></head>
<body class="bare"><main><h1>{escape(error.title)}</h1><p>{escape(error.words)}</p>
<p><a href="/">Go to the first page</a></p></main></body></html>
"""
    return HTMLResponse(page, status_code=error.status, headers=error.headers)


class Guard:
    """The outermost layer of the application. ``upload_path``: the one path that takes large requests."""

    def __init__(self, app: ASGIApp, settings: Web, sessions: Sessions, *, upload_path: str, stream_path: str) -> None:
        self._app = app
        self._settings = settings
        self._sessions = sessions
        self._upload_path = upload_path
        self._stream_path = stream_path
        self._hosts = _hosts(settings)
        self._answering = 0
        self._streaming = 0
        self._log = logs.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # a web socket, of which there are none: uvicorn answers 403 to silence
        answer = _Answer(send)
        headers = Headers(scope=scope)
        try:
            scope["state"]["visitor"] = visitor = self._visitor(scope, headers)
            self._check(scope, headers, visitor)
            bounded = _Bounded(receive, self._most(scope), headers)
            with self._counted(scope):
                await self._app(scope, bounded, answer)
        except RefusedError as error:
            await self._refuse(error, scope, receive, answer)
        except Exception as error:
            self._log.error(
                "web_failed", error=f"{type(error).__name__}: {error}", path=_without_names(scope), exc_info=True
            )
            sorry = RefusedError(500, "A fault of watcherd.", "It is in the log of watcherd web; nothing was changed.")
            await self._refuse(sorry, scope, receive, answer)

    async def _refuse(self, error: RefusedError, scope: Scope, receive: Receive, answer: _Answer) -> None:
        if answer.begun:
            return  # the rest of an answer cannot be another one
        to_login = error.status == 401 and scope["method"] == "GET" and not _wants_json(scope)
        response = RedirectResponse("/login", 303) if to_login else refusal(error, as_json=_wants_json(scope))
        if error.status in (413, 408):
            response.headers["connection"] = "close"
        await response(scope, receive, answer)

    def _visitor(self, scope: Scope, headers: Headers) -> Visitor:
        address = scope["client"][0] if scope.get("client") else ""
        behind = address in self._settings.proxies
        told = headers.getlist(self._settings.proxy_header) if self._settings.proxy_header and behind else []
        session = _cookie(headers)
        who = self._sessions.who(session) if session else None
        if len(told) == 1 and told[0]:
            who, session = told[0], session or f"proxy {told[0]}"
        secure = behind and headers.get("x-forwarded-proto") == "https"
        return Visitor(who=who, session=session if who is not None else "", address=address, secure=secure)

    def _check(self, scope: Scope, headers: Headers, visitor: Visitor) -> None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or _name(hosts[0]) not in self._hosts:
            raise RefusedError(
                421, "This page is not called so.", "Its names are the address it listens at, and those of web.hosts."
            )
        if scope["method"] not in ("GET", "HEAD", "POST"):
            raise RefusedError(405, "That is no way to ask.", "Pages are read by GET and changed by POST.")
        path = scope["path"]
        if visitor.who is None and not path.startswith(OPEN):
            raise RefusedError(401, "Please log in.", "The session is over, or there was none: load the page again.")
        if scope["method"] == "POST":
            self._check_origin(headers, hosts[0])

    def _check_origin(self, headers: Headers, host: str) -> None:
        """Browsers say which site a request comes from; other programs say nothing."""
        origin = headers.get("origin")
        foreign = headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
        if foreign or (origin is not None and urlsplit(origin).netloc.lower() != host.lower()):
            raise RefusedError(403, "This came from another site.", "Open the page itself and do it there.")

    def _most(self, scope: Scope) -> int:
        is_upload = scope["method"] == "POST" and scope["path"] == self._upload_path
        return (self._settings.upload_mib << 20) + FORM_BYTES if is_upload else FORM_BYTES

    def _counted(self, scope: Scope) -> _Counted:
        if scope["path"] == self._stream_path:
            return _Counted(self, "_streaming", STREAMS)
        return _Counted(self, "_answering", AT_ONCE)


class _Counted:
    """One of the requests that are answered at the same time."""

    def __init__(self, guard: Any, name: str, most: int) -> None:
        self._guard, self._name, self._most = guard, name, most

    def __enter__(self) -> None:
        if getattr(self._guard, self._name) >= self._most:
            raise RefusedError(
                503, "Too much is asked at once.", "Try again in a moment.", headers={"retry-after": "2"}
            )
        self._add(1)

    def __exit__(self, *_: object) -> None:
        self._add(-1)

    def _add(self, one: int) -> None:
        setattr(self._guard, self._name, getattr(self._guard, self._name) + one)


class _Answer:
    """Passes an answer on, with the headers that all of them have."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("cache-control", "no-store")
        await self._send(message)


class _Bounded:
    """A request's body, up to so many bytes, as long as it keeps coming."""

    def __init__(self, receive: Receive, most: int, headers: Headers, clock: Callable[[], float] = time.monotonic):
        self._receive = receive
        self._left = most
        self._clock = clock
        self._ended = False
        said = headers.get("content-length", "0")
        if not said.isdecimal() or int(said[:20]) > most:
            raise _too_large(most)
        self._most = most

    async def __call__(self) -> Message:
        if self._ended:  # what comes now is that the browser has gone; a stream waits for that as long as it lives
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), BODY_SECONDS)
        except TimeoutError as error:
            raise RefusedError(408, "The request did not come.", f"Nothing came for {BODY_SECONDS:g} s.") from error
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise _too_large(self._most)
        self._ended = not message.get("more_body", False)
        return message


def _too_large(most: int) -> RefusedError:
    return RefusedError(413, "That is too much at once.", f"At most {most >> 10:,} KiB are taken (web.upload_mib).")


def _hosts(settings: Web) -> frozenset[str]:
    own = ip_address(settings.address)
    named = {"localhost", "127.0.0.1", "::1", *settings.hosts}
    return frozenset(named if own.is_unspecified else named | {str(own)})


def _name(host: str) -> str:
    """A Host header without its port; an IPv6 address without its brackets."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:]+)\]|([A-Za-z0-9.-]+))(?::\d{1,5})?", host)
    return (found[1] or found[2]).lower() if found else ""


def _cookie(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _wants_json(scope: Scope) -> bool:
    return "application/json" in Headers(scope=scope).get("accept", "")


def _without_names(scope: Scope) -> str:
    """A path of ours holds no name; what else somebody asks for is not repeated in the log."""
    path = str(scope["path"])
    return path if path.isascii() and path.isprintable() and len(path) < 80 else "a path that is none of ours"
