"""Logging in and out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from starlette.responses import RedirectResponse

from watcherd import logs
from watcherd.web.guard import COOKIE, RefusedError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from watcherd.web.guard import Visitor
    from watcherd.web.site import Site

OWNER = "the page"
"""Who somebody is who knows the token: nobody says more."""


class Doorway:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._log = logs.get_logger()

    def page(self, request: Request) -> Response:
        if request.state.visitor.who is not None:
            return RedirectResponse("/", 303)
        return self._site.page(request, "login.html", title="Log in", wrong=None, by=self._by())

    async def log_in(self, request: Request) -> Response:
        """Begin a session for who knows the token or password; words for who does not."""
        visitor: Visitor = request.state.visitor
        if wait := self._site.tries.wait(visitor.address):
            raise RefusedError(
                429,
                "Too many tries.",
                f"Try again in {math.ceil(wait)} seconds.",
                headers={"retry-after": str(math.ceil(wait))},
            )
        form = await request.form(max_files=0, max_fields=4)
        if not self._site.sessions.is_secret(str(form.get("secret", "")).strip()):
            self._site.tries.failed(visitor.address)
            self._log.warning("web_login_refused", reason="wrong token or password")
            wrong = f"That is not the {self._by()}."
            page = self._site.page(request, "login.html", title="Log in", wrong=wrong, by=self._by())
            page.status_code = 403
            return page
        answer = RedirectResponse("/", 303)
        session = self._site.sessions.begin(OWNER)
        answer.set_cookie(COOKIE, session, httponly=True, samesite="strict", secure=visitor.secure, path="/")
        return answer

    async def log_out(self, request: Request) -> Response:
        form = await request.form(max_files=0, max_fields=4)
        self._site.check_form(request, str(form.get("csrf", "")))
        self._site.sessions.end(request.state.visitor.session)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return answer

    def _by(self) -> str:
        return "password" if self._site.settings.web.password.get_secret_value() else "token"
