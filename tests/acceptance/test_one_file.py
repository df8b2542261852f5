"""One file costs one file: whatever is dropped, the service lives, starts again, and everybody else's results come."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from pathlib import Path

import pytest

from tests.acceptance.invariants import check_invariants, documents
from tests.acceptance.service import Service, png
from tests.acceptance.test_bad_input import without_privileges

DEEP = 6000
"""Bytes of a path that no system call takes as a whole."""


def drop_deep(service: Service, name: str, content: bytes) -> None:
    """Put a scan so deep into the inbox that its path has more than `DEEP` bytes."""
    with contextlib.ExitStack() as stack:
        folder = os.open(service.inbox, os.O_RDONLY)
        stack.callback(os.close, folder)
        for _ in range(DEEP // 200):
            os.mkdir("d" * 200, dir_fd=folder)
            folder = os.open("d" * 200, os.O_RDONLY, dir_fd=folder)
            stack.callback(os.close, folder)
        target = os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=folder)
        stack.callback(os.close, target)
        os.write(target, content)


def digits(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def names(service: Service, folder: str) -> set[str]:
    """What lies in a folder of the outbox, at any depth."""
    top = service.outbox / folder
    return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}


SURROGATE = rb'{"prompt": "Segment \ud800 it."}'
"""JSON that Python reads, into a text that nothing can store and give back."""


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("s.png.json", SURROGATE, "half a surrogate pair"),
        ("s.png.json", rb'{"threshold": 0.5, "\udfff": 1}', "half a surrogate pair"),
        ("s.png.json", b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested too deeply"),
        ("s.png.toml", b".".join([b"a"] * 1500) + b" = 1\n", "nested too deeply"),
        ("_options.toml", b".".join([b"prompt"] * 1500) + b" = 1\n", "nested too deeply"),
    ],
    ids=["prompt", "key", "json", "toml", "folder"],
)
def test_a_sidecar_that_nobody_could_read_back_is_refused(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    """In a short sentence, at the scan that it speaks for; other scans, every command and the next start are fine."""
    service = Service(tmp_path)
    service.drop(f"x/{name}", content)
    service.drop("x/s.png", png(1))
    service.drop("y/t.png", png(2))
    assert 0 == service.once(), service.tail()
    assert {"failed": 1, "succeeded": 1} == service.states()
    ((error,),) = service.rows("SELECT error FROM job WHERE state = 'failed'")
    assert why in error
    assert len(error) < 300
    assert error in (service.outbox / "failed/x/s.txt").read_text()
    assert {"x/s.png", "y/t.png"} == {record["source"] for record in service.json("jobs")}
    assert 0 == service.command("show", "1").returncode
    assert 0 == service.once(), service.tail()


def test_a_row_that_cannot_be_read_costs_that_row(tmp_path: Path) -> None:
    """As earlier versions wrote it, in text, or as no JSON at all. The start, `jobs` and `show` bear it, its scan fails
    with the reason, `doctor` names it and mends it."""
    service = Service(tmp_path)
    for number in range(4):
        service.drop(f"{number}.png", png(number))
    assert 0 == service.once(), service.tail()
    spoil(service, "UPDATE job SET options = ? WHERE id = 1", json.dumps({"prompt": "Segment \ud800 it."}))
    spoil(service, "UPDATE job SET options = ? WHERE id = 2", "{")
    spoil(service, "UPDATE job SET note = cast(? AS TEXT) WHERE id = 3", b"half \xed\xa0\x80 a pair")
    assert 0 == service.command("retry", "1", "2", "3").returncode
    spoil(service, "UPDATE job SET note = cast(? AS TEXT) WHERE id = 3", b"half \xed\xa0\x80 a pair")
    assert 4 == len(service.json("jobs"))
    assert 0 == service.command("show", "1").returncode
    service.drop("other.png", png(9))
    assert 0 == service.once(), service.tail()
    assert {"failed": 2, "succeeded": 3} == service.states()
    done = {source for (source,) in service.rows("SELECT source FROM job WHERE id > 2")}
    assert done == names(service, "masks")
    found = service.command("doctor")
    assert "2 rows of the history cannot be read: job 1 (options); job 2 (options)" in found.stdout
    assert 70 == found.returncode
    repaired = service.command("doctor", "--repair")
    assert "job 1: what it was asked for cannot be read; it is refused when it is tried again" in repaired.stdout
    assert 0 == repaired.returncode, repaired.stdout
    assert "cannot be read" not in service.command("doctor").stdout
    assert [(1, 1), (2, 1)] == service.rows("SELECT id, json_valid(options) FROM job WHERE id < 3")
    assert 5 == len(service.rows("SELECT * FROM jobs"))
    assert [("mended",), ("mended",)] == service.rows("SELECT kind FROM event WHERE kind = 'mended'")


def spoil(service: Service, sql: str, *values: object) -> None:
    """Change a row as a person with the ``sqlite3`` shell, or a version with a fault, can."""
    with contextlib.closing(sqlite3.connect(service.database)) as connection, connection:
        connection.execute(sql, values)


def test_a_history_in_which_all_of_it_has_happened_is_mended(tmp_path: Path) -> None:
    """An unreadable row, a sidecar that ended the service, a result promised a name that cannot be."""
    service = Service(tmp_path)
    service.drop("a.png", png(1))
    service.drop("b.png", png(2))
    service.start(crash_at="deliver.intended")
    assert -9 == service.ended()
    (job, *_), *_ = service.rows("SELECT id FROM job WHERE state = 'delivering'")
    (service.outbox / "masks").write_text("a person's file")
    spoil(service, "UPDATE job SET options = ? WHERE id = 1", json.dumps({"prompt": "Segment \ud800 it."}))
    service.drop("c.png.toml", b".".join([b"a"] * 1500) + b" = 1\n")
    service.drop("c.png", png(3))
    repaired = service.command("doctor", "--repair").stdout
    assert "job 1: what it was asked for cannot be read" in repaired
    assert f"job {job} is computed again: masks/" in repaired
    (service.outbox / "masks").unlink()
    assert 0 == service.once(), service.tail()
    assert {"a.png": "failed", "b.png": "succeeded", "c.png": "failed"} == dict(
        service.rows("SELECT source, state FROM job")
    )
    assert 0 == service.command("doctor").returncode


def test_a_file_from_a_far_future_is_a_file(tmp_path: Path) -> None:
    """Its time in nanoseconds has more than 64 bits; a link and a sidecar of that time end nothing either."""
    service = Service(tmp_path)
    far = 10_400_000_000 * 10**9  # in the year 2299
    for name in ("a.png", "b.png", "b.png.toml"):
        service.drop(name, b"threshold = 0.3\n" if name.endswith("toml") else png(len(name) + ord(name[0])))
    (service.inbox / "link.png").symlink_to("a.png")
    for name in ("a.png", "b.png", "b.png.toml", "link.png"):
        os.utime(service.inbox / name, ns=(far, far), follow_symlinks=False)
    if (service.inbox / "a.png").stat().st_mtime_ns != far:
        pytest.skip("this file system knows no such times")
    assert 0 == service.once(), service.tail()
    assert {"succeeded": 2} == service.states()
    assert [service.inbox / "link.png"] == list(service.inbox.iterdir())
    assert [] == service.json("status")["set_aside"]


def test_a_folder_called_like_a_mask_and_a_path_that_is_too_long(tmp_path: Path) -> None:
    """Their results lie beside the folders that cannot be, and everything else where it belongs."""
    service = Service(tmp_path)
    service.drop("a.png", png(1))
    assert 0 == service.once(), service.tail()
    (service.outbox / "masks/x").write_text("a person's file")
    service.drop("a.png/scan.png", png(2))
    service.drop("x/scan.png", png(3))
    drop_deep(service, "deep.png", png(4))
    service.drop("c.png", png(5))
    assert 0 == service.once(), service.tail()
    scan, other, deep = (digits(png(number)) for number in (2, 3, 4))
    expected = {"a.png", f"scan-{scan}.png", f"scan-{other}.png", f"deep-{deep}.png", "c.png", "x"}
    assert expected == names(service, "masks")
    assert {"succeeded": 5} == service.states()
    assert 0 == service.once(), service.tail()


def test_a_persons_file_where_a_folder_of_ours_belongs(tmp_path: Path) -> None:
    """The scan that needs it fails alone, with the reason; it comes when the file is out of the way."""
    service = Service(tmp_path)
    service.outbox.mkdir()
    (service.outbox / "panels").write_text("a person's file")
    service.drop("p.png.toml", b'outputs = ["mask", "panel"]\n')
    service.drop("p.png", png(1))
    service.drop("q.png", png(2))
    service.start()
    service.wait(lambda: {"queued": 1, "succeeded": 1} == service.states(), "the other scan's results")
    ((error, attempts),) = service.rows("SELECT error, attempts FROM job WHERE state = 'queued'")
    assert "'panels' is no folder there" in error
    assert 1 == attempts
    assert {"q.png"} == names(service, "masks")
    assert 0 == service.stop()


def test_with_a_folder_for_each_scan_one_may_be_called_like_anothers_folder(tmp_path: Path) -> None:
    """The later one has its hash, and no attempt is made twice; done again, each keeps its name."""
    service = Service(tmp_path, outbox={"layout": "per-scan"})
    service.drop("a/b.png", png(1))
    assert 0 == service.once(), service.tail()
    service.drop("a.png", png(2))
    assert 0 == service.once(), service.tail()
    folders = {"a/b", f"a-{digits(png(2))}"}
    assert folders == {str(path.parent.relative_to(service.outbox)) for path in service.outbox.rglob("mask.png")}
    assert [(1,), (1,)] == service.rows("SELECT attempts FROM job")
    assert 0 == service.command("retry", "1", "2").returncode
    assert 0 == service.once(), service.tail()
    assert folders == {str(path.parent.relative_to(service.outbox)) for path in service.outbox.rglob("mask.png")}
    assert [(2,), (2,)] == service.rows("SELECT attempts FROM job")


@pytest.mark.parametrize("layout", ["per-kind", "per-scan"])
@pytest.mark.parametrize("mode", [0o555, 0o000], ids=["read-only", "closed"])
def test_a_folder_of_the_outbox_that_may_not_be_written_costs_what_belongs_there(
    tmp_path: Path, mode: int, layout: str
) -> None:
    """Those results are set aside with the reason; all others come, nothing is paused, and a person ends it."""
    service = Service(tmp_path, outbox={"layout": layout})
    service.prefix = without_privileges()
    place = service.outbox / ("masks/ward" if layout == "per-kind" else "ward")
    place.mkdir(parents=True)
    place.chmod(mode)
    try:
        service.drop("ward/a.png", png(1))
        service.drop("ward/again.png", png(1))
        service.start()
        service.wait(lambda: service.rows("SELECT 1 FROM event WHERE kind = 'set-aside'"), "it to be set aside")
        service.drop("b.png", png(2))
        service.drop("other/c.png", png(3))
        service.wait(lambda: service.states() == {"delivering": 1, "succeeded": 2}, "everybody else's results")
        assert not service.live()["paused"]
        assert [] == service.log("intake_paused")
        (item,) = service.json("status")["set_aside"]
        folder = "masks/ward" if layout == "per-kind" else "ward"
        assert f"folder '{folder}" in item["error"]
        assert "may not be written by uid" in item["error"]
        assert {"b.png", "other/c.png"} == {document["source"] for _, document in documents(service)}
        place.chmod(0o755)
        assert 0 == service.command("retry", str(item["job_id"])).returncode
        service.finished(4)
        assert [] == check_invariants(service)
        assert [(1,)] * 3 == service.rows("SELECT attempts FROM job")
    finally:
        place.chmod(0o755)
        service.end()


def test_a_folder_that_all_share_is_waited_for(tmp_path: Path) -> None:
    """That of all masks: a pause, as with the outbox itself, and nothing is set aside."""
    service = Service(tmp_path)
    service.prefix = without_privileges()
    masks = service.outbox / "masks"
    masks.mkdir(parents=True)
    masks.chmod(0o555)
    try:
        service.drop("ward/a.png", png(1))
        service.start()
        service.wait(lambda: service.live().get("paused"), "the pause")
        assert ["outbox"] == list(service.live()["paused"])
        masks.chmod(0o755)
        service.finished(1)
        assert [] == service.rows("SELECT 1 FROM event WHERE kind = 'set-aside'")
        assert [] == check_invariants(service)
    finally:
        masks.chmod(0o755)
        service.end()
