"""What becomes of a scan whose decoding failed."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.runs import a_run
from watcherd.errors import InputError, TransientError
from watcherd.pipeline.belts import Belts
from watcherd.pipeline.feed import Feed


@pytest.mark.parametrize(
    ("error", "room", "given_back"),
    [
        (TransientError("The run folder is full."), False, True),
        (TransientError("The run folder is full."), True, False),
        (InputError("It is no picture."), False, False),
    ],
    ids=["full", "full a moment ago", "bad"],
)
def test_a_full_run_folder_is_no_try_of_the_scans(error: Exception, room: bool, given_back: bool) -> None:
    """It is given back as if it had never been claimed; any other failure is its own."""
    back: list[Any] = []
    nothing = cast("Any", None)
    belts = Belts(bell=nothing)
    claims = cast("Any", SimpleNamespace(run_folder_has_room=lambda: room))
    landing = cast("Any", SimpleNamespace(give_back=back.append))
    feed = Feed(a_run(), nothing, nothing, nothing, nothing, claims, landing, belts)
    decoded: Future[Any] = Future()
    decoded.set_exception(error)
    flight = cast("Any", SimpleNamespace(id=1))
    assert not feed._take_decoded(flight, decoded)
    assert given_back == (back == [flight])
    assert given_back == belts.results.empty()
