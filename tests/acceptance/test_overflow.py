"""The kernel's queue of file events overflows: every file is found all the same."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.service import Service, png

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = 30_000


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.end()


@pytest.mark.slow_soak
@pytest.mark.timeout(900)
def test_30000_files_created_while_it_is_stopped_are_all_found(service: Service) -> None:
    """SIGSTOP, 30,000 new files, SIGCONT: all are queued by one sweep that the overflow asks for."""
    queue = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    assert 2 * FILES > queue, "the kernel's queue would not overflow here"
    service.start()
    service.ready()
    assert service.command("pause").returncode == 0
    service.signal(signal.SIGSTOP)
    content = png(1)
    for number in range(FILES):
        (service.inbox / f"scan {number:05}.png").write_bytes(content + number.to_bytes(4, "big"))
    service.signal(signal.SIGCONT)
    began = time.monotonic()
    service.wait(lambda: service.count_done() >= FILES, "all files to be queued", seconds=600)
    print(f"{FILES} files queued {time.monotonic() - began:.1f} s after SIGCONT")
    assert service.rows("SELECT count(*), count(DISTINCT path) FROM arrival WHERE fate = 'queued'") == [(FILES, FILES)]
    assert service.states() == {"queued": FILES}
    assert service.stop() == 0


@pytest.mark.slow
def test_files_are_found_without_any_events(tmp_path: Path) -> None:
    """With events switched off the sweep finds every file within its interval, in new and in moved folders too."""
    service = Service(tmp_path, inbox={"events": False, "sweep_seconds": 1})
    try:
        service.start()
        service.ready()
        service.drop("first.png", png(1))
        service.drop("a/b/c/deep.png", png(2))
        outside = tmp_path / "outside"
        (outside / "folder").mkdir(parents=True)
        (outside / "folder" / "inside.png").write_bytes(png(3))
        (outside / "folder").rename(service.inbox / "folder")
        service.finished(3)
        assert service.live()["inbox"]["events"] is False
        assert service.stop() == 0
    finally:
        service.end()


@pytest.mark.slow
def test_an_inbox_that_goes_away_is_offline_and_comes_back(service: Service) -> None:
    """As with an unmounted share: nothing is forgotten or deleted, `status` says so, and work goes on by itself."""
    service.start()
    service.ready()
    service.drop("before.png", png(1))
    service.finished(1)
    away = service.folder / "away"
    service.inbox.rename(away)
    service.wait(lambda: service.log("inbox_offline"), "the inbox to be offline")
    service.wait(lambda: not service.live()["inbox"]["online"], "the status to say so")
    (away / "meanwhile.png").write_bytes(png(2))
    service.remember("meanwhile.png", png(2))
    assert service.rows("SELECT count(*) FROM arrival WHERE disposal = 'gone' OR reason NOT NULL") == [(0,)]
    away.rename(service.inbox)
    service.finished(2)
    assert len(service.log("inbox_offline")) == 1
    assert service.stop() == 0
    assert service.states() == {"succeeded": 2}
