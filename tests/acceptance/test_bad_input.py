"""Whatever lies in the inbox gets its fate and a reason, and the next file is processed as if nothing had happened."""

from __future__ import annotations

import os
import re
import shutil
import socket
import struct
import zlib
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.invariants import check_invariants, documents, notes
from tests.acceptance.service import Service, png

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOMEBODY = 65534


def huge_png() -> bytes:
    """30,000 x 30,000 pixels in a few hundred bytes: a header that is true, and too few pixels behind it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One run over an inbox full of things that are no scans, with a good scan before, between and after them."""
    # Files that look unfinished are waited for a minute even when nobody writes; here they are taken soon.
    service = Service(tmp_path_factory.mktemp("bad"), inbox={"settle_limit_seconds": 0.5})
    service.drop("1 good.png", png(1))
    service.drop("empty.png", b"")
    service.drop("truncated.png", png(2, 300, 200)[:-500])
    service.drop("truncated.jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + bytes(200))
    service.drop("text.png", b"Dear colleague, the picture is in the other mail.\n")
    service.drop("huge.png", huge_png())
    service.drop(b"M\xfcller.png", png(3))
    (service.inbox / "folder.png").mkdir()
    service.drop("folder.png/inside.png", png(4))
    os.mkfifo(service.inbox / "pipe.png")
    secret = service.folder / "secret.png"
    secret.write_bytes(png(5))
    (service.inbox / "link.png").symlink_to(secret)
    (service.inbox / "dangling.png").symlink_to(service.folder / "nowhere.png")
    (service.inbox / "loop").symlink_to(service.inbox)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(service.inbox / "socket.png"))
    service.drop("z good.png", png(6))
    assert service.once() == 0, service.tail()
    yield service
    service.end()


def fate(service: Service, name: str) -> tuple[str, str | None]:
    """What became of a name: its arrival's fate with the reason, or its job's state with the error."""
    rows = service.rows(
        "SELECT coalesce(job.state, fate), coalesce(job.error, arrival.reason) FROM arrival "
        "LEFT JOIN job ON job.id = arrival.job_id WHERE path_text = ?",
        name,
    )
    assert len(rows) == 1, f"{name}: {rows}"
    return rows[0]


@pytest.mark.parametrize("name", ["1 good.png", "z good.png", "folder.png/inside.png", "M\\\\xfcller.png"])
def test_good_scans_among_bad_ones_have_their_results(service: Service, name: str) -> None:
    """Also in a folder that is called like a scan, and under a name that is not UTF-8."""
    assert fate(service, name.replace("\\\\", "\\"))[0] == "succeeded"
    assert sum(document["source"] == name.replace("\\\\", "\\") for _, document in documents(service)) == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty.png", "empty"),
        ("truncated.png", "truncated|ends|broken|incomplete"),
        ("truncated.jpg", "truncated|ends|broken|incomplete|cannot"),
        ("text.png", "no picture|not a picture|text|format|not an image"),
        ("huge.png", "too large: 30000 x 30000 pixels, more than 200,000,000 in all"),
    ],
)
def test_a_bad_file_fails_once_and_says_why(service: Service, name: str, reason: str) -> None:
    """Failed as bad input after one attempt, with a note in the outbox and the file in the archive's own folder."""
    state, error = fate(service, name)
    assert state == "failed"
    assert re.search(reason, str(error)), error
    rows = service.rows("SELECT error_class, attempts, advice FROM job WHERE source = ?", name)
    assert rows[0][:2] == ("input", 1)
    assert rows[0][2], "nothing is said about what to do"
    assert notes(service).count(name) == 1
    assert (service.archive / "failed" / name).is_file()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("folder.png", "folder"),
        ("pipe.png", "named pipe"),
        ("link.png", "symbolic link"),
        ("dangling.png", "symbolic link"),
        ("loop", "symbolic link"),
        ("socket.png", "socket"),
    ],
)
def test_what_is_no_file_is_ignored_with_its_reason(service: Service, name: str, reason: str) -> None:
    """And it is left where it lies."""
    state, why = fate(service, name)
    assert state == "ignored"
    assert reason in str(why)
    if name != "folder.png":  # the folder was emptied, and goes when it has long been empty
        assert os.path.lexists(service.inbox / name)


def test_a_link_gives_nothing_of_what_it_points_to(service: Service) -> None:
    """The file outside of the inbox was neither read into the spool nor moved."""
    assert (service.folder / "secret.png").read_bytes() == png(5)
    assert len(service.rows("SELECT 1 FROM scan")) == len(service.dropped)


def test_all_of_it_adds_up(service: Service) -> None:
    """Every arrival has a fate, every dropped name one visible result or note."""
    assert check_invariants(service) == []


def test_ignored_things_are_recorded_once(service: Service) -> None:
    """Another run over the same inbox adds no rows."""
    before = service.rows("SELECT count(*) FROM arrival")
    assert service.once() == 0
    assert service.rows("SELECT count(*) FROM arrival") == before


def without_privileges() -> list[str]:
    """What starts a program that may read only what its user may: root with its powers over files taken away."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv, to take from root the right to read everything")
    powers = "-dac_override,-dac_read_search"
    return ["setpriv", f"--inh-caps={powers}", f"--bounding-set={powers}", "--"]


def test_a_file_that_may_not_be_read_is_ignored_until_it_may(tmp_path: Path) -> None:
    """Without read permission: the reason names the user that lacks it; once it may be read it is a scan."""
    service = Service(tmp_path)
    service.prefix = without_privileges()
    private = service.inbox / "private.png"
    service.drop("private.png", png(1))
    service.drop("public.png", png(2))
    private.chmod(0)
    if os.geteuid() == 0:
        os.chown(private, SOMEBODY, SOMEBODY)
    try:
        service.start()
        service.wait(lambda: service.states().get("succeeded") == 1, "the other scan")
        reason = service.wait(
            lambda: service.rows("SELECT reason FROM arrival WHERE path_text = 'private.png' AND fate = 'ignored'"),
            "the fate of the private one",
        )
        assert f"uid {os.geteuid()}" in str(reason)
        assert "read permission" in str(reason)
        private.chmod(0o644)
        service.finished(2)
        assert service.stop() == 0
        assert service.states() == {"succeeded": 2}
        assert check_invariants(service) == []
    finally:
        service.end()
