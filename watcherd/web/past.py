"""The history: searched and filtered, page by page, and its failures grouped with what to do about them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from watcherd.job import State
from watcherd.store import Filter, history, reader, reviews, summary
from watcherd.store.summary import Period
from watcherd.web.guard import RefusedError
from watcherd.web.pictures import has_picture
from watcherd.web.site import LARGEST_ID
from watcherd.web.veil import WORDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from watcherd.web.site import Site

PAGE = 50
"""Jobs of a page of the history."""
DAYS = (1, 7, 30, 365)
"""Days of failures that can be asked for."""
GROUPS = 100
"""Groups of failures that are shown."""
BY_ADDRESS = ("state", "review")
"""What the address of a history may ask for; the rest, names above all, goes with the form's body."""
LONGEST = 300
"""Characters of what is searched for."""


class Past:
    def __init__(self, site: Site) -> None:
        self._site = site

    def page(self, request: Request) -> Response:
        return self._listed(request, {key: request.query_params.get(key, "") for key in BY_ADDRESS})

    async def search(self, request: Request) -> Response:
        """The same for a form: names do not stand in addresses, which proxies and browsers keep."""
        from starlette.concurrency import run_in_threadpool

        form = await request.form(max_files=0, max_fields=20)
        self._site.check_form(request, str(form.get("csrf", "")))
        return await run_in_threadpool(self._listed, request, {key: str(value) for key, value in form.items()})

    def failures(self, request: Request) -> Response:
        """Failures by class and words."""
        days = one_of(request.query_params.get("days", "7"), DAYS)
        now = datetime.now(UTC)
        since = (now - timedelta(days=days)).replace(minute=0, second=0, microsecond=0)
        with reader(self._site.settings.state.database) as connection:
            groups = summary.failures(connection, Period(since=since, until=now + timedelta(seconds=1)))
        if self._site.veil.is_down:
            groups = [group | {"error": WORDS, "advice": ""} for group in groups]
        return self._site.page(
            request,
            "failures.html",
            title="Failures",
            groups=groups[:GROUPS],
            more=max(0, len(groups) - GROUPS),
            days=days,
            every=DAYS,
        )

    def _listed(self, request: Request, said: Mapping[str, str]) -> Response:
        wanted = self._filter(said)
        with reader(self._site.settings.state.database) as connection:
            found = history.jobs(connection, wanted)
            judged = reviews.of_jobs(connection, [record["id"] for record in found])
        more = len(found) > PAGE
        rows = [
            self._site.veil.job(record) | {"pictured": has_picture(record), "review": judged.get(record["id"])}
            for record in found[:PAGE]
        ]
        config = self._site.settings
        return self._site.page(
            request,
            "history.html",
            title="History",
            jobs=rows,
            said_form={
                key: said.get(key, "") for key in ("name", "state", "profile", "model", "since", "until", "review")
            },
            before=rows[-1]["id"] if more else None,
            first=not said.get("before"),
            states=[state.value for state in State],
            profiles=["default", *config.profiles],
            models=list(config.model_tables),
        )

    def _filter(self, said: Mapping[str, str]) -> Filter:
        """Raises `RefusedError` with words for what cannot be searched for."""
        state, review = said.get("state", ""), said.get("review", "")
        if state and state not in {one.value for one in State}:
            raise RefusedError(400, "There is no such state.", f"There are {', '.join(State)}.")
        if review and review not in reviews.VERDICTS:
            raise RefusedError(400, "There is no such review.", f"There are {', '.join(reviews.VERDICTS)}.")
        name = said.get("name", "").strip()
        if name and self._site.veil.is_down:
            raise RefusedError(400, "Names are hidden.", "Search by state, profile, model or date.")
        if len(name) > LONGEST:
            raise RefusedError(400, "That is too long to search for.", f"At most {LONGEST} characters.")
        return Filter(
            states=(State(state),) if state else (),
            profile=said.get("profile") or None,
            model=said.get("model") or None,
            name=name or None,
            since=_day("since", said.get("since", "")),
            until=_day("until", said.get("until", ""), after=1),
            before=_number(said.get("before", "")),
            verdict=_verdict(review),
            limit=PAGE + 1,
        )


def _verdict(said: str) -> Literal["accepted", "rejected"] | None:
    return said if said in ("accepted", "rejected") else None  # type: ignore[return-value]


def _number(said: str) -> int | None:
    if not said:
        return None
    if not (said.isascii() and said.isdecimal()) or int(said[:30]) > LARGEST_ID:
        raise RefusedError(400, "That is no job's number.", "Begin again at the first page.")
    return int(said)


def one_of(said: str, allowed: tuple[int, ...]) -> int:
    """A number of those that may be asked for. Raises `RefusedError` for another."""
    found: dict[str, int] = {str(one): one for one in allowed}
    if said not in found:
        raise RefusedError(400, "That cannot be asked for.", f"Days: {', '.join(found)}.")
    return found[said]


def _day(key: str, said: str, *, after: int = 0) -> datetime | None:
    """A date of the machine's clock, as browsers send it; ``after``: days to add."""
    if not said:
        return None
    try:
        return (datetime.strptime(said, "%Y-%m-%d") + timedelta(days=after)).astimezone(UTC)  # noqa: DTZ007 - local
    except (ValueError, OverflowError) as error:
        raise RefusedError(400, f"{key} is no date.", "Write 2026-01-31.") from error
