"""What all pages of one `watcherd web` share, and how a page is made: templates that escape everything."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import FileResponse, HTMLResponse, Response

from watcherd.status import units
from watcherd.web.guard import RefusedError, Visitor
from watcherd.web.veil import Veil

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request

    from watcherd.config import Config
    from watcherd.web.access import Sessions, Tries
    from watcherd.web.doors import Doors
    from watcherd.web.pictures import Pictures
    from watcherd.web.poller import Poller

TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
"""Kinds of our own files."""
LARGEST_ID = 2**63 - 1
"""What SQLite holds as a number."""


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("watcherd.web", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "duration": units.duration,
        "local": units.local,
        "bytes": units.size,
        "gib": units.gib,
        "percent": lambda share: "" if share is None else f"{share:.2%}" if share < 0.1 else f"{share:.1%}",
        "number": lambda value: "" if value is None else f"{value:,.4g}" if isinstance(value, float) else f"{value:,}",
    }
    made.globals |= {"took": units.took}
    return made


def _static() -> dict[str, bytes]:
    """Our own files by name, read once: no request names a path."""
    folder = resources.files("watcherd.web") / "static"
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if "." in entry.name}


@dataclass(kw_only=True, slots=True)
class Site:
    """Settings, doors and helpers of the pages. ``said``: words for the next page of a session, shown once."""

    settings: Config
    doors: Doors
    sessions: Sessions
    tries: Tries
    pictures: Pictures
    poller: Poller | None = None
    templates: Environment = field(default_factory=_environment)
    static: dict[str, bytes] = field(default_factory=_static)
    said: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def veil(self) -> Veil:
        return Veil(self.settings)

    def page(self, request: Request, template: str, **context: Any) -> HTMLResponse:
        """A whole page."""
        visitor: Visitor = request.state.visitor
        now = datetime.now(UTC)
        common = {
            "csrf": self.sessions.form_token(visitor.session),
            "who": visitor.who,
            "path": request.url.path,
            "hidden": self.veil.is_down,
            "now": now,
            "said": self.said.pop(visitor.session, None),
            "when": lambda stamp: units.when(stamp, now) if stamp else "",
        }
        return HTMLResponse(self.templates.get_template(template).render(common | context))

    def say(self, request: Request, words: str, tone: str = "good") -> None:
        """Have the next page of this session say how something went."""
        self.said[request.state.visitor.session] = (tone, words)
        while len(self.said) > 1000:  # of sessions that never came back
            self.said.pop(next(iter(self.said)))

    def check_form(self, request: Request, token: str) -> None:
        """Raises `RefusedError` for a form that this session was not given."""
        visitor: Visitor = request.state.visitor
        if not self.sessions.is_form_token(visitor.session, token):
            raise RefusedError(403, "This form is too old.", "Load the page again and do it there.")


def static(site: Site, name: str) -> Response:
    """One of our own files. Raises `RefusedError`."""
    content = site.static.get(name)
    kind = TYPES.get(name[name.rfind(".") :])
    if content is None or kind is None:
        raise no_such_page()
    return Response(content, media_type=kind, headers={"cache-control": "no-cache"})


def number(request: Request, name: str = "id") -> int:
    """A number in an address. Raises `RefusedError` for one that nothing can have."""
    value = int(request.path_params[name])
    if value > LARGEST_ID:
        raise no_such_page()
    return value


def no_such_page() -> RefusedError:
    return RefusedError(404, "There is no such page.", "Look in the history: each job has a page of its own.")


def kept(path: Path, kind: str) -> FileResponse:
    """A picture that was made for the page and never changes."""
    return FileResponse(path, media_type=kind, headers={"cache-control": "private, max-age=3600"})


def attachment(name: str) -> str:
    """The header that has a browser save an answer under this name, whatever is in it."""
    plain = "".join(char if char.isascii() and (char.isalnum() or char in "-_.") else "_" for char in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"
