"""The first page: what the service does at this moment, live for everybody who looks."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sse_starlette.sse import EventSourceResponse

from watcherd.errors import WatcherdError
from watcherd.status import units, words
from watcherd.status.document import gather
from watcherd.store import history, overview, reader, summary
from watcherd.store.summary import Period
from watcherd.web.pictures import has_picture

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.responses import Response

    from watcherd.web.site import Site

RECENT = 24
"""Results that are shown."""
NEXT = 8
"""Waiting jobs that are named."""
PARTS = ("head", "figures", "machines", "work", "results")
"""Parts of the page that change by themselves, each a template."""


class Now:
    """The page, and its event stream."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def page(self, request: Request) -> Response:
        return self._site.page(request, "now.html", parts=self.parts(), title="Now")

    async def events(self, _request: Request) -> Response:
        """Parts that have changed, as they change."""
        poller = self._site.poller
        assert poller is not None

        async def told() -> AsyncIterator[dict[str, str]]:
            async for text in poller.watch():
                yield {"data": text}

        return EventSourceResponse(told(), headers={"cache-control": "no-store"}, ping=20)

    def look(self) -> str:
        """The parts as text, for the poller."""
        return json.dumps(self.parts())

    def parts(self) -> dict[str, str]:
        """HTML of each part. What cannot be read is said in the first."""
        try:
            context = self._context()
        except WatcherdError as error:
            context = {"trouble": error}
        return {part: self._site.templates.get_template(f"now_{part}.html").render(context) for part in PARTS}

    def _context(self) -> dict[str, Any]:
        now = datetime.now(UTC)
        settings, veil = self._site.settings, self._site.veil
        answer = veil.moment(gather(settings, now=now, count_today=False))
        with reader(settings.state.database) as connection:
            active = overview.active_jobs(connection)
            following = overview.next_jobs(connection, NEXT)
            recent = overview.recent_jobs(connection, RECENT)
            hours = summary.hours(connection, Period(since=_a_day_before(now), until=now))
            records = history.records(connection, [job["id"] for job in recent])
        found = [records[job["id"]] | {"since": job["since"]} for job in recent if job["id"] in records]
        daemon = answer["daemon"]
        return {
            "trouble": None,
            "day": {name: sum(hour[name] for hour in hours) for name in ("succeeded", "failed")},
            "headline": words.headline(answer, now),
            "notices": words.notices(answer),
            "facts": words.facts(answer, now),
            "answer": answer,
            "held": bool(daemon.get("held") if daemon else answer["paused_since"]),
            "replicas": words.replicas(daemon),
            "gauges": words.gauges(daemon),
            "active": [veil.job(job) for job in active],
            "following": [veil.job(job) for job in following],
            "results": [veil.job(job) | {"pictured": has_picture(job)} for job in found],
            "when": lambda stamp: units.when(stamp, now) if stamp else "",
        }


def _a_day_before(now: datetime) -> datetime:
    """The full hour: what ended is added up by the hour, so that it costs the same however much that was."""
    return (now - timedelta(days=1)).replace(minute=0, second=0, microsecond=0)
