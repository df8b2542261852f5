"""The wall clock of a running daemon is set, as by the first answer of a time server: no wait becomes another one."""

from __future__ import annotations

import shutil
import struct
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.service import Service, marked_png, png
from watcherd.store import moment

if TYPE_CHECKING:
    from collections.abc import Iterator

SHIM = Path(__file__).with_name("wall_clock.c")
WAIT = timedelta(minutes=2 * 1.2)
"""Before the third attempt, at most (`watcherd.retry`)."""


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """A file that holds by how many seconds the daemon's wall clock is ahead."""
    file = tmp_path / "ahead"
    file.write_bytes(struct.pack("=q", 0))
    return file


def shim(folder: Path) -> Path:
    """wall_clock.c as a library."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    library = folder / "wall_clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SHIM], check=True)
    return library


@pytest.fixture
def service(tmp_path: Path, clock: Path) -> Iterator[Service]:
    """A daemon with wall_clock.c loaded."""
    service = Service(tmp_path / "service", model={"segmenter": "fake"})
    service.environment = {"LD_PRELOAD": str(shim(tmp_path)), "WATCHERD_WALL_CLOCK": str(clock)}
    yield service
    service.end()


def set_ahead(clock: Path, days: int) -> None:
    with clock.open("r+b", buffering=0) as file:
        file.write(struct.pack("=q", days * 86_400))


def waits_until(service: Service) -> datetime | None:
    """When the job that has failed is tried again, by the daemon's wall clock."""
    rows = service.rows("SELECT not_before FROM job WHERE state = 'queued' AND error_class IS NOT NULL")
    return moment(rows[0][0]) if rows and rows[0][0] else None


def is_soon(service: Service, days: int) -> bool:
    """Whether that is within the usual wait, for a clock that is ahead by so many days."""
    at, now = waits_until(service), datetime.now(UTC) + timedelta(days=days)
    return at is not None and now - WAIT <= at <= now + WAIT


def test_a_try_in_half_a_minute_stays_one_whichever_way_the_clock_is_set(service: Service, clock: Path) -> None:
    """Set back by a day it would come in a day; set forward it would be as far away as before, and not at once."""
    service.start()
    service.drop("a.png", marked_png(1, "oom"))
    service.wait(lambda: len(service.log("job_retried")) == 2, "the scan, alone by then, to wait for another try")
    set_ahead(clock, -1)
    service.wait(lambda: is_soon(service, -1), "the wait to be set back")
    set_ahead(clock, 1)
    service.wait(lambda: len(service.log("wall_clock_set")) == 2, "the clock to be looked at")
    service.wait(lambda: is_soon(service, 1), "the wait to be set forward, and the try not to come at once")
    assert [-1, 2] == [round(entry["wait_s"] / 86_400) for entry in service.log("wall_clock_set")]
    service.drop("b.png", png(2))
    service.wait(lambda: service.states().get("succeeded"), "another scan to be done")
