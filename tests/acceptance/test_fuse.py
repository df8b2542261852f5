"""Inbox, archive and outbox on real FUSE file systems: every scan leaves the inbox once, and every result arrives.

None of these knows RENAME_NOREPLACE. With hard links sshfs and mergerfs show another inode, rclone has none.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.invariants import check_invariants
from tests.acceptance.service import Service, broken, png

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.slow]

SFTP_SERVER = Path("/usr/lib/openssh/sftp-server")
PATIENCE = 30.0
"""Seconds that a mount may take."""


def _sshfs(behind: Path, at: Path, *options: str) -> list[subprocess.Popen[bytes]]:
    """sshfs talks on its standard input and output; a pair of sockets joins it to a server, without any network."""
    here, there = socket.socketpair()
    with here, there:
        server = subprocess.Popen([SFTP_SERVER], stdin=there, stdout=there, cwd=behind)
        command = ["sshfs", "-f", "-o", ",".join(("passive", *options)), f":{behind}", at]
        return [subprocess.Popen(command, stdin=here, stdout=here), server]


def _sshfs_without_links(behind: Path, at: Path) -> list[subprocess.Popen[bytes]]:
    return _sshfs(behind, at, "disable_hardlink")


def _mergerfs(behind: Path, at: Path) -> list[subprocess.Popen[bytes]]:
    disks = [behind / "disk-1", behind / "disk-2"]
    for disk in disks:
        disk.mkdir()
    return [subprocess.Popen(["mergerfs", "-f", ":".join(map(str, disks)), at])]


def _rclone(behind: Path, at: Path) -> list[subprocess.Popen[bytes]]:
    command = ["rclone", "mount", "--config", os.devnull, "--vfs-cache-mode", "writes", "--cache-dir", f"{at}.cache"]
    return [subprocess.Popen([*command, f":local:{behind}", at], stderr=subprocess.DEVNULL)]


MOUNTS: dict[str, Callable[[Path, Path], list[subprocess.Popen[bytes]]]] = {
    "sshfs": _sshfs,
    "sshfs without links": _sshfs_without_links,
    "mergerfs": _mergerfs,
    "rclone": _rclone,
}


def why_not(kind: str) -> str | None:
    """Why such a file system cannot be mounted here; None: it can be tried."""
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "needs root and /dev/fuse"
    program = kind.partition(" ")[0]
    if shutil.which(program) is None:
        return f"{program} is not installed"
    if program == "sshfs" and not SFTP_SERVER.exists():
        return f"{SFTP_SERVER} is not installed"
    return None


@contextlib.contextmanager
def mounted(kind: str, folder: Path) -> Iterator[Path]:
    """A mount of its own below ``folder``; skips the test with the reason where that is not possible."""
    if reason := why_not(kind):
        pytest.skip(f"{kind} cannot be tried here: {reason}")
    behind, at = folder / "behind", folder / "mount"
    behind.mkdir()
    at.mkdir()
    programs = MOUNTS[kind](behind, at)
    try:
        _wait_for(at, kind, programs[0])
        yield at
    finally:
        subprocess.run(["umount", "-l", at], capture_output=True)
        for program in programs:
            program.terminate()
            program.wait(PATIENCE)


def _wait_for(at: Path, kind: str, program: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not at.is_mount():
        if program.poll() is not None or time.monotonic() > deadline:
            pytest.skip(f"{kind} cannot be mounted here: it ended with {program.poll()}")
        time.sleep(0.05)


@contextlib.contextmanager
def service_on(mount: Path, folder: Path, **sections: dict[str, object]) -> Iterator[Service]:
    """A daemon whose inbox, archive and outbox lie on ``mount``; its state does not, which is refused there."""
    inbox = {"path": f"{mount}/inbox", "archive_path": f"{mount}/archive", "settle_seconds": 0.1}
    sections["inbox"] = inbox | sections.get("inbox", {})
    sections["outbox"] = {"path": f"{mount}/outbox"} | sections.get("outbox", {})
    (mount / "inbox").mkdir()
    service = Service(folder / "service", **sections)
    service.inbox, service.outbox, service.archive = (mount / name for name in ("inbox", "outbox", "archive"))
    try:
        yield service
    finally:
        service.end()


@pytest.mark.parametrize("kind", MOUNTS)
def test_every_scan_leaves_the_inbox_once_and_every_result_arrives(kind: str, tmp_path: Path) -> None:
    """Copies under other names, one that is no picture, sub-folders, and a name that is dropped again."""
    with mounted(kind, tmp_path) as mount, service_on(mount, tmp_path) as service:
        service.drop("a.png", png(1))
        service.drop("heart/b.png", png(2))
        service.drop("heart/again.png", png(2))
        service.drop("heart/text.png", broken(3))
        service.start()
        service.finished(4)
        service.wait(lambda: not list(service.inbox.rglob("*.png")), "the inbox to be empty")
        service.drop("a.png", png(4))
        service.finished(5)
        service.wait(lambda: not list(service.inbox.rglob("*.png")), "the inbox to be empty")
        assert service.stop() == 0
        assert [] == check_invariants(service)
        assert [(5,)] == service.rows("SELECT count(*) FROM arrival")
        assert {"archived": 5} == dict(service.rows("SELECT disposal, count(*) FROM arrival GROUP BY disposal"))
        assert [] == service.log("source_not_disposed")
        assert [] == service.log("intake_paused")


@pytest.mark.parametrize("kind", MOUNTS)
def test_sources_are_deleted_and_a_folder_for_each_scan_appears(kind: str, tmp_path: Path) -> None:
    """With ``on_success = "delete"``: set aside, looked at, removed. A folder cannot be linked anywhere."""
    sections = {"inbox": {"on_success": "delete"}, "outbox": {"layout": "per-scan", "outputs": ["mask"]}}
    with mounted(kind, tmp_path) as mount, service_on(mount, tmp_path, **sections) as service:
        for number in range(3):
            service.drop(f"{number}.png", png(number))
        assert service.once() == 0
        files = {str(path.relative_to(service.outbox)) for path in service.outbox.rglob("[!.]*.*") if path.is_file()}
        assert {f"{number}/{name}" for number in range(3) for name in ("mask.png", "result.json")} == files
        assert {"deleted": 3} == dict(service.rows("SELECT disposal, count(*) FROM arrival GROUP BY disposal"))
        assert [] == [path for path in service.inbox.rglob("*") if path.is_file()]
