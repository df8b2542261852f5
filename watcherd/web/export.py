"""Reviews for other programs: CSV and JSON."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from watcherd.status.units import for_spreadsheets
from watcherd.store import reader, reviews
from watcherd.web.site import attachment

if TYPE_CHECKING:
    from starlette.requests import Request

    from watcherd.web.site import Site


class Export:
    def __init__(self, site: Site) -> None:
        self._site = site

    def json(self, _request: Request) -> Response:
        return JSONResponse(self._reviews(), headers={"content-disposition": attachment("reviews.json")})

    def csv(self, _request: Request) -> Response:
        rows, text = self._reviews(), io.StringIO()
        writer = csv.DictWriter(text, reviews.FIELDS)
        writer.writeheader()
        writer.writerows({name: for_spreadsheets(value) for name, value in row.items()} for row in rows)
        return Response(
            text.getvalue(), media_type="text/csv", headers={"content-disposition": attachment("reviews.csv")}
        )

    def _reviews(self) -> list[dict[str, Any]]:
        with reader(self._site.settings.state.database) as connection:
            found = reviews.every(connection)
        if not self._site.veil.is_down:
            return found
        return [row | {"source": f"job {row['job_id']}"} for row in found]
