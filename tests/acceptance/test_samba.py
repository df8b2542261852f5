"""Scans that come through Samba: a real smbd serves the inbox as docs/operations.md says, a real smbclient uploads."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.conftest import Box

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("box")]

MANUAL = Path(__file__).parents[2] / "docs" / "operations.md"
PROGRAM = "/opt/watcherd/bin/watcherd"
CONFIG = "/etc/watcherd/config.toml"
INBOX = Path("/srv/watcherd/inbox")
OUTBOX = Path("/srv/watcherd/outbox")
SETTLE = 1.0
"""inbox.settle_seconds here: an upload that pauses for longer must be told from one that is done."""


@pytest.fixture(scope="module")
def share(box: Box, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """The box with the service installed and the inbox shared, as the manual says."""
    if reason := why_no_samba(box, tmp_path_factory.mktemp("packages")):
        pytest.skip(f"Samba cannot be tried here: {reason}")
    box.run(PROGRAM, "install-service")
    config = box.path(CONFIG)
    text = config.read_text().replace("settle_seconds = 2.0", f"settle_seconds = {SETTLE}")
    text = text.replace("settle_limit_seconds = 3600.0", "settle_limit_seconds = 8.0")
    config.write_text(text.replace('segmenter = "vessel"', 'segmenter = "vesselness"'))
    box.run("systemctl", "restart", "watcherd")
    box.path("/etc/samba").mkdir(exist_ok=True)
    # smbd writes what it has received as a whole: smaller pieces let an upload stop half-way.
    shares = snippet("# /etc/samba/smb.conf").replace("[global]\n", "[global]\n    smb2 max write = 65536\n")
    box.path("/etc/samba/smb.conf").write_text(shares)
    box.run("useradd", "--groups", "watcherd", "anna")
    box.run("smbpasswd", "-s", "-a", "anna", text="secret\nsecret\n")
    box.run("systemctl", "restart", "smbd")
    box.wait(lambda: smbclient(box, "ls", check=False).returncode == 0, "smbd to answer")
    yield box
    box.run("systemctl", "stop", "smbd", check=False)


def snippet(first_line: str) -> str:
    """The block of the manual that begins with this line."""
    found = re.search(rf"^```\w*\n({re.escape(first_line)}\n.*?)^```", MANUAL.read_text(), re.MULTILINE | re.DOTALL)
    assert found, first_line
    return found[1]


def why_no_samba(box: Box, folder: Path) -> str | None:
    """Why there is no smbd in the box; None: there is, from this machine or put into the box alone."""
    if shutil.which("smbd") and shutil.which("smbclient"):
        return None
    if not shutil.which("apt-get"):
        return "smbd and smbclient are not installed"
    (folder / "partial").mkdir()
    fetch = ["apt-get", "-y", "--no-install-recommends", "--download-only", "-o", f"Dir::Cache::archives={folder}"]
    fetched = subprocess.run([*fetch, "install", "samba", "smbclient"], capture_output=True, text=True)
    if fetched.returncode != 0:
        return f"apt-get cannot fetch samba and smbclient: {fetched.stderr.strip().splitlines()[-1]}"
    shutil.copytree(folder, box.shared / "packages", dirs_exist_ok=True)
    put = box.run("sh", "-c", "DEBIAN_FRONTEND=noninteractive dpkg -i /mnt/test/packages/*.deb", check=False)
    return None if put.returncode == 0 else f"dpkg cannot install samba: {put.stderr.strip().splitlines()[-1]}"


def smbclient(box: Box, commands: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return box.run("smbclient", "//127.0.0.1/scans", "-U", "anna%secret", "-c", commands, check=check)


def a_scan(seed: int, side: int = 96) -> bytes:
    """A grey PNG, another one for each seed; noise keeps it as large as its pixels."""
    noise = np.random.default_rng(seed).normal(150, 8, (side, side))
    noise[side // 3 : side // 3 + 3, 10:-10] -= 70
    buffer = io.BytesIO()
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(buffer, format="png")
    return buffer.getvalue()


def lend(box: Box, name: str, data: bytes) -> str:
    """A file for smbclient to upload."""
    (box.shared / name).write_bytes(data)
    return f"/mnt/test/{name}"


def jobs(box: Box, source: str) -> list[dict[str, Any]]:
    answer = box.output("runuser", "-u", "watcherd", "--", PROGRAM, "jobs", "--json", "--config", CONFIG)
    return [job for job in json.loads(answer) if job["source"] == source]


def succeeded(box: Box, source: str) -> bool:
    """Whether ``source`` led to exactly one job, which succeeded, and to its mask."""
    box.wait(lambda: [job["state"] for job in jobs(box, source)] == ["succeeded"], f"{source} to succeed")
    return box.path(OUTBOX / "masks" / source).exists()


STALLING_NETWORK = """
import socket, sys, threading
bytes_before_the_stall = int(sys.argv[1])
listener = socket.create_server(("127.0.0.1", 4450))
client, server = listener.accept()[0], socket.create_connection(("127.0.0.1", 445))
def answers():
    while data := server.recv(65536):
        client.sendall(data)
threading.Thread(target=answers, daemon=True).start()
passed = 0
while data := client.recv(16384):
    server.sendall(data)
    passed += len(data)
    if passed - len(data) < bytes_before_the_stall <= passed:
        sys.stdin.read()
"""
"""What stands between smbclient and smbd: it lets some bytes pass, then waits until its standard input is closed."""


def begin_upload(box: Box, name: str, data: bytes) -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]:
    """Start an upload, and come back when about half of it is in the inbox and nothing more comes: client, network."""
    network = box.popen("/usr/bin/python3", "-c", STALLING_NETWORK, str(len(data) // 2))
    box.wait(lambda: ":4450 " in box.output("ss", "-ltn"), "the network")
    put = f"put {lend(box, name, data)} {name}"
    client = box.popen("smbclient", "-p", "4450", "//127.0.0.1/scans", "-U", "anna%secret", "-c", put)
    path = box.path(INBOX / name)
    box.wait(lambda: path.exists() and path.stat().st_size > len(data) // 4, "the beginning to arrive")
    return client, network


# --------------------------------------------------------------------------------------------------------- uploads


def test_a_whole_upload_becomes_a_mask(share: Box) -> None:
    """Put in one go, as a file manager does; the scan goes on to the archive."""
    path = lend(share, "whole.png", a_scan(1))
    smbclient(share, f"put {path} whole.png")
    assert succeeded(share, "whole.png")
    share.wait(lambda: not share.path(INBOX / "whole.png").exists(), "the inbox to be clean")


def test_a_slow_upload_is_taken_when_it_is_done(share: Box) -> None:
    """While it pauses, longer than files take to settle, smbd holds the file open: it is left alone."""
    data = a_scan(2, side=1024)
    client, network = begin_upload(share, "slow.png", data)
    time.sleep(4 * SETTLE)
    assert [] == jobs(share, "slow.png")
    assert share.path(INBOX / "slow.png").stat().st_size < len(data)
    network.stdin.close()
    assert 0 == client.wait(30)
    assert succeeded(share, "slow.png")


def test_an_aborted_upload_fails_with_its_reason_and_gives_no_mask(share: Box) -> None:
    """The client is killed half-way: what came is no whole picture. The same scan put again is done."""
    data = a_scan(3, side=1024)
    for process in begin_upload(share, "aborted.png", data):
        share.kill(process)
    share.wait(lambda: [job["state"] for job in jobs(share, "aborted.png")] == ["failed"], "the piece to fail")
    assert "input" == jobs(share, "aborted.png")[0]["error_class"]
    assert not share.path(OUTBOX / "masks" / "aborted.png").exists()
    assert share.path(OUTBOX / "failed" / "aborted.txt").read_text()
    path = lend(share, "again.png", data)
    smbclient(share, f"put {path} aborted.png")
    share.wait(
        lambda: ["failed", "succeeded"] == sorted(job["state"] for job in jobs(share, "aborted.png")), "the whole scan"
    )
    assert share.path(OUTBOX / "masks" / "aborted.png").exists()


def test_an_upload_under_a_temporary_name_is_taken_after_its_rename(share: Box) -> None:
    """What careful programs do: nothing happens to the temporary name."""
    path = lend(share, "renamed.png", a_scan(4))
    smbclient(share, f"put {path} renamed.png.part")
    time.sleep(3 * SETTLE)
    assert [] == jobs(share, "renamed.png.part")
    smbclient(share, "rename renamed.png.part renamed.png")
    assert succeeded(share, "renamed.png")


def test_scans_in_new_folders_are_taken_and_archived(share: Box) -> None:
    """A folder that a member of the group makes over Samba is the group's, so the scan in it can be taken away."""
    path = lend(share, "deep.png", a_scan(5))
    smbclient(share, f"mkdir run; put {path} run/deep.png")
    assert succeeded(share, "run/deep.png")
    share.wait(lambda: not share.path(INBOX / "run" / "deep.png").exists(), "the inbox to be clean")


def test_results_are_read_over_samba_and_not_written(share: Box) -> None:
    """The second share of the manual's smb.conf."""
    path = lend(share, "for-reading.png", a_scan(6))
    smbclient(share, f"put {path} for-reading.png")
    assert succeeded(share, "for-reading.png")
    results = ("smbclient", "//127.0.0.1/results", "-U", "anna%secret", "-c")
    share.run(*results, "get masks/for-reading.png /mnt/test/mask.png")
    with Image.open(share.shared / "mask.png") as mask:
        assert (96, 96) == mask.size
    assert "NT_STATUS_ACCESS_DENIED" in share.run(*results, "del masks/for-reading.png", check=False).stdout
    assert share.path(OUTBOX / "masks" / "for-reading.png").exists()
