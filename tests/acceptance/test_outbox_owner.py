"""An outbox has one owner: a second service is refused with both named, whatever the first does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.acceptance.service import Service, png


@pytest.fixture
def both(tmp_path: Path) -> tuple[Service, Service]:
    """Two services with one outbox."""
    outbox = {"path": str(tmp_path / "outbox")}
    first, second = (Service(tmp_path / name, outbox=outbox) for name in ("first", "second"))
    first.outbox = second.outbox = tmp_path / "outbox"
    return first, second


def is_refused(service: Service, other: Service) -> bool:
    """Whether a start ends with exit code 75, and both state folders named."""
    service.start("--once")
    return 75 == service.ended() and all(str(each.state) in service.tail() for each in (service, other))


def test_a_second_service_is_refused_and_an_outbox_without_its_owner_is_taken_over(
    both: tuple[Service, Service],
) -> None:
    """Also while the owner does not run, for it may be started; a command that says what it does gives it away."""
    first, second = both
    first.drop("a.png", png(1))
    second.drop("b.png", png(2))
    first.start()
    first.finished(1)
    assert is_refused(second, first)
    refused = second.command("outbox", "take-over")
    assert 75 == refused.returncode
    assert str(first.state) in refused.stderr
    assert 0 == first.stop()
    assert is_refused(second, first)
    assert str(first.state) in second.command("outbox", "owner").stdout
    left = second.outbox / ".staging" / f"{(first.state / 'id').read_text()[:8]}-1-1"
    left.mkdir()
    taken = second.command("outbox", "take-over").stdout
    assert all(word in taken for word in (str(first.state), str(second.state), "1 half-finished"))
    assert not left.exists()
    assert 0 == second.once(), second.tail()
    assert {"a.png", "b.png"} == {path.name for path in (second.outbox / "masks").iterdir()}
    assert is_refused(first, second)
    assert 70 == first.command("doctor").returncode
    assert str(second.state) in first.command("doctor").stdout


def test_an_outbox_without_a_marker_is_its_first_services(both: tuple[Service, Service]) -> None:
    """As all are that earlier versions filled; what these left half-finished goes, what is promised stays."""
    first, second = both
    first.drop("a.png", png(1))
    first.start(crash_at="deliver.intended")
    assert -9 == first.ended()
    (first.outbox / ".watcherd-owner").unlink()
    for name in ("7-1", "3--5", "probe"):
        (first.outbox / ".staging" / name).mkdir()
    (first.outbox / ".staging" / "somebody's").mkdir()
    assert 0 == first.once(), first.tail()
    assert {"a.png"} == {path.name for path in (first.outbox / "masks").iterdir()}
    assert [(1,)] == first.rows("SELECT attempts FROM job")
    assert ["somebody's"] == [path.name for path in (first.outbox / ".staging").iterdir()]
    assert is_refused(second, first)


def test_a_state_folder_that_was_moved_or_made_anew_still_owns_its_outbox(tmp_path: Path) -> None:
    """It is known by its own id, or by its place."""
    service = Service(tmp_path)
    service.drop("a.png", png(1))
    assert 0 == service.once()
    service.state.rename(tmp_path / "moved")
    service.configure(state={"path": "moved"})
    service.state = tmp_path / "moved"
    assert 0 == service.once(), service.tail()
    assert str(service.state) == json.loads((service.outbox / ".watcherd-owner").read_text())["state"]
    shutil.rmtree(service.state)
    assert 0 == service.once(), service.tail()
