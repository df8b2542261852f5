"""A daemon that has nothing to do does little; what shows that a part hangs is looked at all the same."""

from __future__ import annotations

from concurrent.futures import Future
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from watcherd.config import Config
from watcherd.inbox import mounts
from watcherd.inference.pool.lanes import Lanes
from watcherd.notify.systemd import Notifier
from watcherd.service import pulse, status
from watcherd.service.pulse import BEAT_SECONDS, HANG_SECONDS, Pulse
from watcherd.service.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Asked:
    """A database that counts who asks, and answers at once, or never."""

    def __init__(self) -> None:
        self.times = 0
        self.answers = True

    def submit(self, _work: Callable[[Any], Any]) -> Future[None]:
        self.times += 1
        future: Future[None] = Future()
        if self.answers:
            future.set_result(None)
        return future


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The daemon's clock: ``now`` is what it shows."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(pulse, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def resting(clock: SimpleNamespace) -> Any:
    """A daemon whose other parts are well."""
    run: Any = SimpleNamespace(database=Asked(), pauses=SimpleNamespace(reasons={}))
    turning: Any = type("Turning", (), {"turned_at": property(lambda _self: clock.now)})()
    return Pulse(run, turning, SimpleNamespace(progressing=lambda: True))  # type: ignore[arg-type]


def test_the_database_is_asked_now_and_then_whether_it_answers(resting: Any, clock: SimpleNamespace) -> None:
    for _ in range(int(4 * BEAT_SECONDS)):
        assert resting.is_alive()
        clock.now += 1
    assert 4 == resting._run.database.times


def test_a_database_that_answers_no_more_is_noticed(resting: Any, clock: SimpleNamespace) -> None:
    assert resting.is_alive()
    resting._run.database.answers = False
    clock.now += HANG_SECONDS - 1
    assert resting.is_alive()
    clock.now += 1
    assert not resting.is_alive()


def test_what_is_written_about_the_package_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run: Any = SimpleNamespace(config=Config(), began=datetime.now(UTC), pauses=SimpleNamespace(reasons={}))
    fleet: Any = SimpleNamespace(status=list, models=list, cards=(), machines=SimpleNamespace(nodes=(), trouble=""))
    shown = Status(run, Lanes(), fleet, Notifier(), inbox=pytest.fail, held=lambda: False, path=None)
    monkeypatch.setattr(status, "version", lambda _name: pytest.fail("read again"))
    assert shown.values()["version"]


def test_mounts_are_read_anew_and_understood_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = b"22 1 253:0 / / rw - ext4 /dev/vda1 rw\n"
    monkeypatch.setattr(mounts, "MOUNTINFO", tmp_path / "mountinfo")
    mounts.MOUNTINFO.write_bytes(root)
    before = mounts.read_mounts()
    assert before is mounts.read_mounts()
    mounts.MOUNTINFO.write_bytes(root + b"23 22 0:5 / /mnt rw - nfs host:/scans rw\n")
    assert [b"/", b"/mnt"] == [mount.point for mount in mounts.read_mounts()]
