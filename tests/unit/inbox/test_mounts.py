"""What the file system's kind means for the inbox, and when the inbox is away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from watcherd.errors import ConfigError
from watcherd.inbox import mounts
from watcherd.inbox.mounts import Identity, Mount, mount_of, parse_mountinfo, presence

MOUNTINFO = rb"""22 1 253:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:26 / /proc rw,nosuid - proc proc rw
40 22 0:45 / /mnt/share rw,relatime shared:7 master:2 - nfs4 server:/export/scans rw,vers=4.2
41 40 0:46 / /mnt/share/win\040dows\012x rw - cifs //server/scans rw
42 22 253:0 /data/real /mnt/bound rw - ext4 /dev/vda1 rw
43 22 0:50 / /home/me/remote rw - fuse.sshfs me@host:/ rw
44 22 0:51 / /mnt/usb rw - fuseblk /dev/sdb1 rw
45 22 0:52 / /mnt/twice rw - ext4 /dev/a rw
46 22 0:53 / /mnt/twice rw - nfs server:/b rw
nonsense
"""
PARSED = parse_mountinfo(MOUNTINFO)


@pytest.mark.parametrize(
    ("path", "fs_type", "network"),
    [
        (b"/", "ext4", False),
        (b"/mnt/share/in", "nfs4", True),
        (b"/mnt/sharedelse", "ext4", False),
        (b"/mnt/share/win dows\nx/in", "cifs", True),
        (b"/home/me/remote", "fuse.sshfs", True),
        (b"/mnt/usb/in", "fuseblk", False),
        (b"/mnt/twice/in", "nfs", True),
    ],
)
def test_a_folders_mount_is_the_deepest_and_the_latest(path, fs_type, network):
    mount = mount_of(path, PARSED)
    assert (fs_type, network) == (mount.fs_type, mount.is_network)


def test_lines_that_make_no_sense_are_left_out():
    assert len(PARSED) == 9
    assert parse_mountinfo(b"1 2 3\n - \n\xff\xff") == []


def test_this_machines_mounts_can_be_read(tmp_path):
    assert mounts.mount_at(tmp_path) is not None


def test_network_inboxes_are_swept_every_3_seconds_and_settle_longer():
    assert (mounts.sweep_seconds("auto", network=False), mounts.sweep_seconds("auto", network=True)) == (60.0, 3.0)
    assert (mounts.settle_seconds(2.0, network=False), mounts.settle_seconds(2.0, network=True)) == (2.0, 5.0)
    assert mounts.settle_seconds(10.0, network=True) == 10.0
    assert mounts.sweep_seconds(7.0, network=True) == 7.0


def test_without_all_watches_a_local_inbox_is_swept_as_often_as_its_size_allows():
    assert mounts.sweep_seconds("auto", network=False, events_complete=False) == 3.0
    assert mounts.sweep_seconds("auto", network=False, events_complete=False, last_took=1.0) == 20.0


def test_a_state_folder_on_a_network_file_system_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match=r"state\.path = '/mnt/share/state'.*server:/export/scans.*nfs4"):
        mounts.refuse_network_state(Path("/mnt/share/state"), mount_of(b"/mnt/share/state", PARSED))
    mounts.refuse_network_state(Path("/var/lib"), mount_of(b"/var/lib", PARSED))


def test_folders_that_overlap_by_a_bind_mount_are_found(monkeypatch):
    monkeypatch.setattr("os.path.realpath", lambda path: path)
    folders = {"inbox.path": Path("/mnt/bound/in"), "outbox.path": Path("/data/real")}
    assert mounts.overlaps(folders, PARSED) == ["inbox.path = '/mnt/bound/in' lies inside outbox.path = '/data/real'"]
    assert mounts.overlaps({"a": Path("/mnt/bound/in"), "b": Path("/mnt/share/in")}, PARSED) == []


SHARE = Identity(device=5, inode=2, mount_point=b"/mnt/share", fs_type="nfs4", source=b"server:/scans")
LOCAL = Identity(device=1, inode=99, mount_point=b"/", fs_type="ext4", source=b"/dev/vda1")


def test_the_first_look_is_taken_as_it_is():
    first = presence(None, SHARE)
    assert (first.online, first.renewed, first.identity) == (True, True, SHARE)


def test_the_same_folder_stays_online_and_is_not_new():
    assert (presence(SHARE, SHARE).online, presence(SHARE, SHARE).renewed) == (True, False)


def test_an_unmounted_share_is_offline_and_comes_back_by_itself():
    away = presence(SHARE, LOCAL)
    assert (away.online, away.identity) == (False, SHARE)
    assert "server:/scans is no longer mounted" in away.reason
    back = presence(away.identity, replace(SHARE, device=6))
    assert (back.online, back.renewed) == (True, True)


def test_another_share_in_its_place_is_offline_unless_its_marker_is_the_same():
    other = replace(SHARE, source=b"server:/other", device=9)
    assert not presence(SHARE, other).online
    assert "server:/other" in presence(SHARE, other).reason
    marked = replace(SHARE, marker=b"scans")
    assert presence(marked, replace(other, marker=b"scans")).online


def test_a_marker_that_is_missing_or_another_one_is_offline():
    marked = replace(LOCAL, marker=b"scans")
    assert [presence(marked, replace(marked, marker=found)).online for found in (None, b"other")] == [False, False]


def test_a_folder_that_does_not_answer_is_offline_with_the_reason():
    away = presence(SHARE, "/mnt/share cannot be opened: Stale file handle")
    assert (away.online, away.identity, away.reason) == (False, SHARE, "/mnt/share cannot be opened: Stale file handle")


def test_a_folder_made_anew_and_a_share_mounted_over_it_are_online_and_new():
    for seen in (replace(LOCAL, inode=100), replace(SHARE, mount_point=b"/srv/inbox")):
        found = presence(LOCAL, seen)
        assert (found.online, found.renewed) == (True, True)


def test_the_folder_on_the_disk_is_identified_with_its_marker(tmp_path):
    (tmp_path / ".watcherd-inbox").write_bytes(b"mine")
    assert (tmp_path.stat().st_ino, b"mine") == (mounts.identify(tmp_path).inode, mounts.identify(tmp_path).marker)
    assert "cannot be opened" in mounts.identify(tmp_path / "missing")


def test_what_passes_on_no_sync_of_a_whole_file_system_is_known():
    """FUSE, whatever is behind it."""
    kinds = ["fuse", "fuse.sshfs", "fuse.mergerfs", "fuseblk", "ext4", "nfs4", "cifs", "overlay"]
    found = [Mount(device="0:1", root=b"/", point=b"/", fs_type=kind, source=b"x") for kind in kinds]
    assert [True] * 4 + [False] * 4 == [mount.passes_no_syncfs for mount in found]
