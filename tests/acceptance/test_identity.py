"""Whose mask it is, and of which bytes: the real daemon over changes of its model, damaged copies and old backups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.acceptance.invariants import check_at_any_moment, check_invariants
from tests.acceptance.service import Service, png
from tests.conformance.dicom_kinds import KINDS
from tests.tree import python_path
from watcherd.store.arrivals import EARLIER

if TYPE_CHECKING:
    from collections.abc import Iterator

NONE, FAKE = {"segmenter": "none"}, {"segmenter": "fake"}

ANOTHER_REVISION = """
from watcherd.inference import fake
from dataclasses import replace

info = fake.Fake.info
fake.Fake.info = lambda self: replace(info(self), revision="2")
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path, model=NONE)
    yield service
    service.end()


def document(service: Service, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((service.outbox / "results" / f"{name}.json").read_text())
    return found


def fraction(service: Service, name: str) -> float:
    """Of the delivered mask itself."""
    with Image.open(service.outbox / "masks" / f"{name}.png") as mask:
        return float((np.asarray(mask) > 0).mean())


def says(service: Service, name: str) -> tuple[str, bool]:
    """The segmenter on the record, and whether the mask shows anything, by record and picture alike."""
    record = document(service, name)
    assert (record["mask_fraction"] > 0) is (fraction(service, name) > 0)
    return record["segmenter"], record["mask_fraction"] > 0


def queue_while_paused(service: Service, *names: str) -> None:
    """Drop scans, each with bytes of its own, and stop when they are in the queue."""
    service.command("pause")
    service.start()
    service.ready()
    for number, name in enumerate(names):
        service.drop(name, png(number))
    service.wait(lambda: service.states() == {"queued": len(names)}, "the scans to be queued")
    service.stop()
    service.command("resume")


def test_a_backlog_is_done_by_the_model_that_is_loaded_and_the_record_says_so(service: Service) -> None:
    queue_while_paused(service, "a.png")
    service.configure(model=FAKE)
    assert 0 == service.once(), service.tail()
    assert ("fake", True) == says(service, "a")
    assert [("fake", "fake")] == service.rows(
        "SELECT job.segmenter, replica.segmenter FROM job JOIN attempt ON attempt.id = job.attempt_id "
        "JOIN replica ON replica.id = attempt.replica_id"
    )
    assert [] == check_invariants(service)


def test_bytes_that_another_model_has_done_are_no_duplicate(service: Service) -> None:
    queue_while_paused(service, "a.png")
    service.configure(model=FAKE)
    assert 0 == service.once(), service.tail()
    service.configure(model=NONE)
    service.drop("c.png", png(0))
    assert 0 == service.once(), service.tail()
    assert ("none", False) == says(service, "c")
    assert "duplicate_of" not in document(service, "c")


def test_a_retry_after_a_change_of_model_names_the_new_one(service: Service) -> None:
    service.drop("d.png", png(0))
    assert 0 == service.once(), service.tail()
    assert ("none", False) == says(service, "d")
    service.configure(model=FAKE)
    assert 0 == service.command("retry", "1").returncode
    assert 0 == service.once(), service.tail()
    assert ("fake", True) == says(service, "d")
    (record,) = service.json("jobs")
    assert ("fake", 2) == (record["segmenter"], record["attempts"])


def test_a_retry_whose_twin_is_done_already_shares_its_result(service: Service) -> None:
    """Its number leads to the other job from then on."""
    service.drop("first.png", png(0))
    assert 0 == service.once(), service.tail()
    service.configure(model=FAKE)
    service.drop("second.png", png(0))
    assert 0 == service.once(), service.tail()
    assert 0 == service.command("retry", "1").returncode
    assert 0 == service.once(), service.tail()
    assert ("fake", True) == says(service, "first")
    assert 2 == document(service, "first")["duplicate_of"] == service.json("show", "1")["id"]
    assert [] == check_at_any_moment(service)


def test_a_profile_that_changed_is_for_what_comes_from_then_on(service: Service) -> None:
    """Of the same model, jobs keep what they were queued with, over a restart and over a reload."""
    service.configure(model=FAKE)
    queue_while_paused(service, "old.png")
    service.configure(model=FAKE | {"threshold": 0.9})
    service.command("pause")
    service.start()
    service.ready()
    service.drop("new.png", png(1))
    service.wait(lambda: service.states() == {"queued": 2}, "both to be queued")
    service.configure(model=FAKE | {"threshold": 0.1})
    assert 0 == service.command("reload").returncode
    service.command("resume")
    service.finished(2)
    assert [0.5, 0.9] == [document(service, name)["threshold"] for name in ("old", "new")]


def test_a_sidecar_is_followed_by_the_new_model_too(service: Service) -> None:
    (service.inbox / "a.png.toml").write_text("threshold = 0.9")
    queue_while_paused(service, "a.png")
    service.configure(model=FAKE | {"threshold": 0.2})
    assert 0 == service.once(), service.tail()
    assert 0.9 == document(service, "a")["threshold"]


def test_an_upgrade_that_changes_the_revision_renews_the_backlog(service: Service) -> None:
    service.configure(model=FAKE)
    queue_while_paused(service, "a.png")
    newer = service.folder / "newer"
    newer.mkdir()
    (newer / "sitecustomize.py").write_text(ANOTHER_REVISION)
    service.environment = {"PYTHONPATH": python_path(newer)}
    assert 0 == service.once(), service.tail()
    assert "2" == document(service, "a")["model_revision"]


# ------------------------------------------------------------------------------------------------------- the bytes


def spool_copy(service: Service) -> Path:
    (copy,) = (service.state / "spool").glob("??/*")
    return copy


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_copy_gives_no_mask_and_says_why(service: Service) -> None:
    """Dropped again, the scan is done: its bytes are there again."""
    service.configure(model=FAKE)
    queue_while_paused(service, "a.png")
    flip_a_byte(spool_copy(service))
    (service.inbox / "a.png").unlink()
    assert 0 == service.once(), service.tail()
    (record,) = service.json("jobs")
    assert ("failed", "lost") == (record["state"], record["error_class"])
    assert "holds other bytes than were dropped" in record["error"]
    assert not (service.outbox / "masks").exists()
    assert "Drop the scan into the inbox again" in (service.outbox / "failed" / "a.txt").read_text()
    service.drop("a.png", png(0))
    assert 0 == service.once(), service.tail()
    assert ("fake", True) == says(service, "a")


@pytest.mark.parametrize("damage", [flip_a_byte, Path.unlink], ids=["flipped", "gone"])
def test_a_damaged_copy_is_fetched_from_the_inbox(service: Service, damage: Any) -> None:
    service.configure(model=FAKE)
    queue_while_paused(service, "a.png")
    damage(spool_copy(service))
    assert 0 == service.once(), service.tail()
    assert ("fake", True) == says(service, "a")
    assert "fetched anew" == service.log("copy_lost")[0]["reason"]
    assert [] == check_invariants(service)


@pytest.mark.parametrize("damage", [flip_a_byte, Path.unlink], ids=["flipped", "gone"])
def test_a_damaged_copy_is_fetched_from_the_archive(service: Service, damage: Any) -> None:
    """A retry under way, whose source left the inbox long ago. The mask is that of the bytes that were dropped."""
    service.configure(model=FAKE)
    service.drop("a.png", png(0))
    assert 0 == service.once(), service.tail()
    mask = (service.outbox / "masks" / "a.png").read_bytes()
    assert 0 == service.command("retry", "1").returncode
    damage(spool_copy(service))
    assert 0 == service.once(), service.tail()
    assert mask == (service.outbox / "masks" / "a.png").read_bytes()
    assert [(2, "succeeded")] == service.rows("SELECT attempts, state FROM job")


def test_after_an_older_backup_was_restored_the_archive_has_the_scans(service: Service) -> None:
    """The backup knows them as queued; their copies are gone, and it does not know where their sources went."""
    names = [f"{number}.png" for number in range(8)]
    service.configure(model=FAKE)
    queue_while_paused(service, *names)
    assert 0 == service.command("db", "backup").returncode
    assert 0 == service.once(), service.tail()
    assert {"succeeded": 8} == service.states()
    (copy,) = (service.state / "backups").glob("watcherd-*.db")
    assert 0 == service.command("db", "restore", str(copy)).returncode
    assert {"queued": 8} == service.states()
    assert 0 == service.once(), service.tail()
    assert {"succeeded": 8} == service.states()


def test_doctor_names_what_the_history_does_not_know_after_it_was_set_aside(service: Service) -> None:
    service.drop("a.png", png(0))
    service.drop("b/c.png", png(1))
    assert 0 == service.once(), service.tail()
    service.database.write_bytes(b"This is no database any more." * 500)
    service.drop("d.png", png(2))
    assert 0 == service.once(), service.tail()
    found = {finding["check"]: finding["text"] for finding in service.json("doctor") if "set aside" in finding["text"]}
    assert "6 files are unknown" in found["outbox"]
    assert "2 files are unknown" in found["archive"]
    assert "b/c.png" in found["archive"]


# ----------------------------------------------------------------------------------------------------- the picture

OLDER_PICTURE = """
from watcherd.formats import sniff
from watcherd.imaging.readers import dicom_display

dicom_display.X_RAY_CLASSES, dicom_display.X_RAY_MODALITIES = frozenset(), ()
sniff.pictures = lambda head: 0
"""
"""A version that shows angiograms through their modality LUT, and knows nothing of versions of pictures."""


def test_a_scan_whose_picture_has_changed_is_done_anew_when_it_is_dropped_again(service: Service) -> None:
    """Once, and its note says so; a retry of the old job is of the new picture too."""
    service.configure(model=FAKE)
    angiogram = KINDS["xa-log"]()
    older = service.folder / "older"
    older.mkdir()
    (older / "sitecustomize.py").write_text(OLDER_PICTURE)
    service.environment = {"PYTHONPATH": python_path(older)}
    service.drop("a.dcm", angiogram)
    assert 0 == service.once(), service.tail()
    assert not document(service, "a")["note"]
    before = fraction(service, "a")

    service.environment = {}
    for name in ("b.dcm", "c.dcm"):
        service.drop(name, angiogram)
        assert 0 == service.once(), service.tail()
    assert {"succeeded": 2} == service.states()
    assert [1, 2, 2] == [document(service, name)["id"] for name in "abc"]
    assert [EARLIER.format(1)] * 2 == [document(service, name)["note"] for name in "bc"]
    assert abs(before - fraction(service, "b")) > 0.1
    assert fraction(service, "b") == fraction(service, "c")
    assert before == fraction(service, "a")
    assert [] == check_invariants(service)

    assert 0 == service.command("retry", "1").returncode
    assert 0 == service.once(), service.tail()
    assert fraction(service, "b") == fraction(service, "a")
