"""The report: what `watcherd report` says of some days, on a page of this service's own look."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from starlette.responses import Response

from watcherd.report.figures import figures, full_hour, gather
from watcherd.report.page import sections
from watcherd.report.style import PARTS, SERIES
from watcherd.store import reader, summary
from watcherd.store.summary import Period
from watcherd.web.past import DAYS, one_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from watcherd.web.site import Site

KEPT_SECONDS = 60.0
"""Seconds for which a report is shown again: it takes some for a million jobs."""
STYLE = f":root {{ --rule: var(--line); --axis: var(--edge); }}\n{PARTS}{SERIES}"


class Report:
    """Makes one report at a time, and keeps the last of each length."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._lock = threading.Lock()
        self._made: dict[int, tuple[float, str]] = {}

    def page(self, request: Request) -> Response:
        """The last days, as many as the address says."""
        days = one_of(request.query_params.get("days", "7"), DAYS)
        return self._site.page(request, "report.html", title="Report", days=days, every=DAYS, body=self._body(days))

    def style(self, _request: Request) -> Response:
        """Of its sections and charts."""
        return Response(STYLE, media_type="text/css", headers={"cache-control": "no-cache"})

    def _body(self, days: int) -> str:
        with self._lock:
            at, body = self._made.get(days, (float("-inf"), ""))
            if time.monotonic() - at > KEPT_SECONDS:
                body = self._make(days)
                self._made[days] = time.monotonic(), body
            return body

    def _make(self, days: int) -> str:
        now = datetime.now(UTC)
        begun = full_hour(now - timedelta(days=days))
        with reader(self._site.settings.state.database) as connection:
            found = gather(connection, Period(since=max(begun, summary.begun_at(connection) or begun), until=now))
        return sections(figures(found, hide_names=self._site.veil.is_down), made_at=now.astimezone())
