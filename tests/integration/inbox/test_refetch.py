"""A scan whose copy is lost: what has its hash is the scan, wherever it lies, and nothing else is."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from tests.integration.store.helpers import MODEL, NOW, start_run
from watcherd.config import build
from watcherd.inbox.archive import archived_names
from watcherd.inbox.spool import Spool
from watcherd.intake.refetch import Refetch
from watcherd.job import Options
from watcherd.store import Database, NewArrival, PathSignature, arrivals

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = b"the bytes of a scan"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATH = b"ward/a.png"


class Place:
    """Inbox, archive, spool and a history in which job 1 is for `CONTENT`, dropped as `PATH`."""

    def __init__(self, folder: Path) -> None:
        self.config = build({}, base=folder)
        self.inbox, self.archive = self.config.inbox.path, self.config.inbox.archive_path
        for root in (self.inbox / "ward", self.archive / "ward", self.archive / "failed" / "ward"):
            root.mkdir(parents=True)
        self.config.state.path.mkdir()
        self.spool = Spool(self.config.state.spool)
        self.spool.prepare()
        self.database = Database.open(self.config.state.database)
        new = NewArrival(
            signature=PathSignature(PATH, len(CONTENT), 1, 1, 1),
            sha256=SHA256,
            spool_name=SHA256,
            options=Options(),
            seen_at=NOW,
        )
        self.database.write(lambda c: arrivals.enqueue(c, [new], model=MODEL, run_id=start_run(c), now=NOW))

    def bring_back(self) -> bool:
        return Refetch(self.config, self.database, self.spool).bring_back(1)

    def copy(self) -> bytes:
        return self.spool.path(SHA256).read_bytes()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.database.close()


def test_it_is_nowhere(place: Place) -> None:
    assert not place.bring_back()


def test_what_lies_in_the_inbox_still(place: Place) -> None:
    (place.inbox / "ward/a.png").write_bytes(CONTENT)
    assert place.bring_back()
    assert CONTENT == place.copy()


@pytest.mark.parametrize("name", list(archived_names(PATH, SHA256)))
def test_what_lies_in_the_archive_under_any_name_that_it_may_have_got(place: Place, name: bytes) -> None:
    """Also where the history does not know that it went there."""
    (place.archive / os.fsdecode(name)).write_bytes(CONTENT)
    assert place.bring_back()
    assert CONTENT == place.copy()


@pytest.mark.parametrize("other", [CONTENT[::-1], CONTENT + b"!", b""], ids=["as long", "longer", "empty"])
def test_other_bytes_under_its_name_are_not_taken(place: Place, other: bytes) -> None:
    (place.inbox / "ward/a.png").write_bytes(other)
    (place.archive / "ward/a.png").write_bytes(other)
    assert not place.bring_back()
    assert not place.spool.path(SHA256).exists()
    assert [] == list((place.spool.root / "tmp").iterdir())


def test_a_link_is_not_followed(place: Place, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(CONTENT)
    (place.inbox / "ward/a.png").symlink_to(tmp_path / "elsewhere")
    assert not place.bring_back()


def test_a_damaged_copy_gives_way_to_a_good_one(place: Place) -> None:
    copy = place.spool.path(SHA256)
    copy.parent.mkdir()
    copy.write_bytes(CONTENT[::-1])
    (place.archive / "ward/a.png").write_bytes(CONTENT)
    assert place.bring_back()
    assert CONTENT == place.copy()


def test_a_copy_that_is_good_is_left(place: Place) -> None:
    copy = place.spool.path(SHA256)
    copy.parent.mkdir()
    copy.write_bytes(CONTENT)
    before = copy.stat()
    assert place.bring_back()
    assert before == copy.stat()
