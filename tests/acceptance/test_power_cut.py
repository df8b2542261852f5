"""A power cut: the disk as it is at that moment, without anything that was in memory only.

A disk is an image behind a loop device. Its copy, taken while it is mounted, has what had reached the disk; mounting
the copy replays its journal as the next start of the machine would.

What is cut has a disk of its own here: on one disk with all the rest, ext4 brings a source, or a result, to the disk
together with the database's next sync, whether or not anybody asks for that.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.service import Service, png

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FEW, MANY = 2, 12
"""Scans in a batch: so few are synced one by one, more by one call."""


def run(*command: str | Path) -> None:
    """Run a program; the test is skipped with its complaint when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(f"no disk can be made here: {error}")
    if done.returncode:
        pytest.skip(f"no disk can be made here: {done.stderr.strip()}")


@contextlib.contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    """The file system in ``image``. It commits by itself so seldom that only what is synced counts."""
    at.mkdir(exist_ok=True)
    run("mount", "-o", "loop,commit=300", image, at)
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", at], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """An empty ext4 file system in a file."""
    if os.geteuid() != 0:
        pytest.skip("no disk can be made here: needs root")
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    run("mkfs.ext4", "-q", image)
    return image


def bytes_in(folder: Path) -> set[str]:
    """The hashes of all files below a folder."""
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def drop(service: Service, count: int) -> None:
    for number in range(count):
        service.drop(f"new/folder/{number}.png", png(number))


@pytest.mark.parametrize("count", [FEW, MANY])
def test_what_is_in_the_history_is_on_the_disk_of_the_inbox(tmp_path: Path, disk: Path, count: int) -> None:
    """The inbox has a disk of its own. Cut when the jobs are committed: spool and history are elsewhere, and safe."""
    with mounted(disk, tmp_path / "inbox") as inbox:
        service = Service(tmp_path, limits={"min_free_mib": 0})
        assert service.inbox == inbox
        drop(service, count)
        service.start(crash_at="enqueue.committed")
        assert service.ended() == -signal.SIGKILL
        shutil.copyfile(disk, tmp_path / "cut")
    taken = {sha256 for (sha256,) in service.rows("SELECT sha256 FROM scan")}
    assert len(taken) == count
    with mounted(tmp_path / "cut", tmp_path / "after") as after:
        assert taken <= bytes_in(after)


@pytest.mark.parametrize("whose", ["jobs", "names"])
def test_results_are_durable_before_the_history_promises_them(tmp_path: Path, disk: Path, whose: str) -> None:
    """The outbox has a disk of its own. Cut when the names are committed: the next start can keep every promise."""
    with mounted(disk, tmp_path / "outbox") as outbox:
        service = Service(tmp_path, limits={"min_free_mib": 0})
        assert service.outbox == outbox
        drop(service, FEW)
        if whose == "names":
            assert service.once() == 0, service.tail()
            for number in range(FEW):
                service.drop(f"again/{number}.png", png(number))
        service.start(crash_at="deliver.intended")
        assert service.ended() == -signal.SIGKILL
        shutil.copyfile(disk, tmp_path / "cut")
    promised = dict(service.rows("SELECT CAST(staged_path AS TEXT), sha256 FROM output WHERE state = 'intended'"))
    assert promised
    with mounted(tmp_path / "cut", tmp_path / "after") as after:
        there = {path: after / os.path.relpath(path, outbox) for path in promised}
        assert set(promised) == {path for path, place in there.items() if place.is_file()}
        assert promised == {path: hashlib.sha256(place.read_bytes()).hexdigest() for path, place in there.items()}
