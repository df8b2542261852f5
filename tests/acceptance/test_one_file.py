"""One file costs one file: whatever is dropped, the service lives, starts again, and everybody else's results come."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from tests.acceptance.service import Service, png

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
