"""A source leaves the inbox only while it is the same file, and is never lost on the way (invariants 14 and 19)."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests import fuse_like
from tests.tree import python_path
from watcherd import files
from watcherd.crash_points import VARIABLE
from watcherd.inbox import archive as archiving
from watcherd.inbox.archive import Source, dispose
from watcherd.inbox.values import signature_of

OTHER_DISK = Path("/dev/shm")  # noqa: S108 - a second file system, where there is one


@pytest.fixture
def inbox(tmp_path):
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture(params=["same disk", "other disk"])
def archive(request, tmp_path):
    """An archive on the inbox's file system, and one to which nothing can be renamed."""
    if request.param == "same disk":
        yield tmp_path / "archive"
        return
    if not OTHER_DISK.is_dir() or OTHER_DISK.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(dir=OTHER_DISK) as folder:
        yield Path(folder) / "archive"


def source(inbox: Path, name: str, content: bytes | None = None, *, how="archive", failed=False) -> Source:
    path = inbox / name
    if content is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return Source(
        path=os.fsencode(name),
        signature=signature_of(path.lstat()),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        ctime_ns=path.lstat().st_ctime_ns,
        how=how,
        failed=failed,
    )


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def one(wanted: Source, inbox: Path, archive: Path):
    (disposal,) = dispose([wanted], inbox=inbox, archive=archive)
    return disposal


def test_scans_go_to_the_archive_under_their_own_names_and_failed_ones_apart(inbox, archive):
    wanted = [
        source(inbox, "a.png", b"a"),
        source(inbox, "heart/b.png", b"b"),
        source(inbox, "heart/c.png", b"c", failed=True),
    ]
    disposals = dispose(wanted, inbox=inbox, archive=archive)
    assert [("archived", name) for name in (b"a.png", b"heart/b.png", b"failed/heart/c.png")] == [
        (disposal.result, disposal.archived_as) for disposal in disposals
    ]
    assert tree(archive) == {"a.png": b"a", "heart/b.png": b"b", "failed/heart/c.png": b"c"}
    assert tree(inbox) == {}


def test_a_name_of_any_bytes_goes_to_the_archive(inbox, archive):
    for name in (b"M\xfcller.png", b"two\nlines.png", b"-rf.png", b"x" * 251 + b".png"):
        disposal = one(source(inbox, os.fsdecode(name), name), inbox, archive)
        assert ("archived", name) == (disposal.result, disposal.archived_as)


def test_the_times_of_a_file_are_kept(inbox, archive):
    wanted = source(inbox, "a.png", b"a")
    os.utime(inbox / "a.png", ns=(10**18, 10**18))
    one(replace(wanted, signature=signature_of((inbox / "a.png").stat())), inbox, archive)
    assert (archive / "a.png").stat().st_mtime_ns == 10**18


def test_nothing_in_the_archive_is_overwritten(inbox, archive):
    """Another scan has the name: the hash tells them apart, and then a number."""
    names = [one(source(inbox, "a.png", content), inbox, archive).archived_as for content in (b"first", b"second")]
    digits = hashlib.sha256(b"second").hexdigest()[:8]
    assert [b"a.png", f"a-{digits}.png".encode()] == names
    third = source(inbox, "a.png", b"third")
    (archive / f"a-{third.sha256[:8]}.png").write_bytes(b"in the way")
    assert f"a-{third.sha256[:8]}-2.png".encode() == one(third, inbox, archive).archived_as
    assert {b"first", b"second", b"third", b"in the way"} == set(tree(archive).values())


def test_a_long_name_that_clashes_still_fits(inbox, archive):
    name = "x" * 251 + ".png"
    for content in (b"first", b"second"):
        assert one(source(inbox, name, content), inbox, archive).result == "archived"
    assert {b"first", b"second"} == set(tree(archive).values())


def test_the_same_bytes_in_the_archive_already_serve_for_both(inbox, archive):
    for _ in range(2):
        disposal = one(source(inbox, "a.png", b"same"), inbox, archive)
        assert (disposal.result, disposal.archived_as) == ("archived", b"a.png")
    assert (tree(inbox), tree(archive)) == ({}, {"a.png": b"same"})


def test_deleting_deletes_and_keeping_keeps(inbox, archive):
    wanted = [source(inbox, "a.png", b"a", how="delete"), source(inbox, "b.png", b"b", how="keep")]
    assert [disposal.result for disposal in dispose(wanted, inbox=inbox, archive=archive)] == ["deleted", "kept"]
    assert tree(inbox) == {"b.png": b"b"}


@pytest.mark.parametrize("how", ["archive", "delete"])
@pytest.mark.parametrize("change", ["rewritten", "replaced", "touched", "linked", "folder"])
def test_another_file_under_the_name_is_left_alone(inbox, archive, how, change, tmp_path):
    wanted = source(inbox, "a.png", b"first", how=how)
    path = inbox / "a.png"
    if change == "rewritten":
        path.write_bytes(b"later")
    elif change == "touched":
        os.utime(path, ns=(1, 1))
    else:
        path.rename(tmp_path / "elsewhere")
        if change == "replaced":
            path.write_bytes(b"first")
            os.utime(path, ns=(1, 1))
        elif change == "linked":
            path.symlink_to(tmp_path / "elsewhere")
        else:
            path.mkdir()
    assert one(wanted, inbox, archive).result == "changed"
    assert path.exists()


@pytest.mark.parametrize("how", ["archive", "delete"])
def test_a_file_that_somebody_else_removed_is_gone(inbox, archive, how):
    wanted = source(inbox, "sub/a.png", b"a", how=how)
    (inbox / "sub" / "a.png").unlink()
    assert one(wanted, inbox, archive).result == "gone"
    (inbox / "sub").rmdir()
    assert one(wanted, inbox, archive).result == "gone"


@pytest.mark.parametrize("how", ["archive", "delete"])
def test_a_file_swapped_in_between_look_and_rename_is_put_back(inbox, archive, how, monkeypatch):
    """The window is a few microseconds, so it is opened by hand."""
    wanted = source(inbox, "a.png", b"first", how=how)
    rename = files.rename_new
    swapped = False

    def swapping(*args, **options):
        nonlocal swapped
        if not swapped:
            swapped = True
            (inbox / "new").write_bytes(b"somebody's only copy")
            (inbox / "new").replace(inbox / "a.png")
        return rename(*args, **options)

    monkeypatch.setattr(archiving, "rename_new", swapping)
    disposal = one(wanted, inbox, archive)
    assert (disposal.result, tree(inbox)) == ("changed", {"a.png": b"somebody's only copy"})


def test_a_folder_replaced_by_a_link_is_not_followed(inbox, archive, tmp_path):
    wanted = source(inbox, "sub/a.png", b"a", how="delete")
    (inbox / "sub").rename(tmp_path / "outside")
    (inbox / "sub").symlink_to(tmp_path / "outside")
    assert one(wanted, inbox, archive).result == "gone"
    assert tree(tmp_path / "outside") == {"a.png": b"a"}


def test_a_link_in_the_archive_is_not_followed(inbox, archive, tmp_path):
    archive.mkdir()
    (tmp_path / "outside").mkdir()
    (archive / "sub").symlink_to(tmp_path / "outside")
    disposal = one(source(inbox, "sub/a.png", b"a"), inbox, archive)
    assert (disposal.result, tree(tmp_path / "outside")) == ("failed", {})
    assert tree(inbox) == {"sub/a.png": b"a"}


def test_a_path_that_leads_out_of_the_inbox_is_refused(inbox, archive, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    wanted = replace(source(tmp_path, "secret.png"), path=b"../secret.png")
    assert one(wanted, inbox, archive).result == "failed"
    assert (tmp_path / "secret.png").exists()


def test_after_a_remount_the_bytes_decide(inbox, archive):
    """The device has another number now; the file is the same, or it is not."""
    wanted = source(inbox, "a.png", b"a")
    wanted = replace(wanted, signature=replace(wanted.signature, device=99_999))
    assert one(replace(wanted, sha256="0" * 64), inbox, archive).result == "changed"
    assert one(wanted, inbox, archive).result == "archived"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EIO])
def test_a_source_that_cannot_be_moved_fails_with_the_reason_and_stays(inbox, tmp_path, monkeypatch, number):
    """And costs the others nothing."""
    rename = archiving.rename_new

    def fail(old, new, **folders):
        if old == b"a.png":
            raise OSError(number, os.strerror(number))
        rename(old, new, **folders)

    wanted = [source(inbox, name, name.encode()) for name in ("a.png", "b.png")]
    monkeypatch.setattr(archiving, "rename_new", fail)
    failed, moved = dispose(wanted, inbox=inbox, archive=tmp_path / "archive")
    assert (failed.result, moved.result) == ("failed", "archived")
    assert os.strerror(number) in failed.reason
    assert tree(inbox) == {"a.png": b"a.png"}


def test_an_archive_that_cannot_be_made_fails_with_the_reason(inbox, tmp_path):
    (tmp_path / "file").touch()
    disposal = one(source(inbox, "a.png", b"a"), inbox, tmp_path / "file" / "archive")
    assert (disposal.result, disposal.reason[:15]) == ("failed", "Not a directory")


def test_an_inbox_that_is_away_fails_and_forgets_nothing(inbox, tmp_path):
    wanted = source(inbox, "a.png", b"a")
    inbox.rename(tmp_path / "unmounted")
    assert one(wanted, inbox, tmp_path / "archive").result == "failed"
    (tmp_path / "unmounted").rename(inbox)
    assert one(wanted, inbox, tmp_path / "archive").result == "archived"


@pytest.mark.parametrize("kind", fuse_like.KINDS)
def test_a_file_system_without_such_renames_is_served_too(inbox, tmp_path, monkeypatch, kind):
    """Neither renameat2 nor hard links that are the same file: as vfat, sshfs, mergerfs and other FUSE file systems."""
    fuse_like.put_in_place(monkeypatch, kind)
    archive = tmp_path / "archive"
    for content in (b"first", b"second"):
        assert one(source(inbox, "a.png", content), inbox, archive).result == "archived"
    assert one(source(inbox, "b.png", b"b", how="delete"), inbox, archive).result == "deleted"
    assert ({}, {b"first", b"second"}) == (tree(inbox), set(tree(archive).values()))


@pytest.mark.parametrize("how", ["archive", "delete"])
def test_another_number_or_time_with_the_new_name_is_the_same_file(inbox, tmp_path, monkeypatch, how):
    """As on file systems that make their inodes of the path, or keep no times: the bytes decide."""
    rename = files.rename_new

    def copying(old, new, *, source_fd, target_fd):
        rename(old, new, source_fd=source_fd, target_fd=target_fd)
        content = Path(f"/proc/self/fd/{target_fd}/{os.fsdecode(new)}").read_bytes()
        os.unlink(new, dir_fd=target_fd)
        Path(f"/proc/self/fd/{target_fd}/{os.fsdecode(new)}").write_bytes(content)

    wanted = source(inbox, "a.png", b"a", how=how)
    monkeypatch.setattr(archiving, "rename_new", copying)
    assert {"archive": "archived", "delete": "deleted"}[how] == one(wanted, inbox, tmp_path / "archive").result
    assert tree(inbox) == {}


@pytest.mark.parametrize("how", ["archive", "delete"])
def test_after_the_inode_is_numbered_anew_the_bytes_decide(inbox, archive, how):
    """FUSE file systems do that when the kernel has forgotten a file."""
    wanted = source(inbox, "a.png", b"a", how=how)
    wanted = replace(wanted, signature=replace(wanted.signature, inode=99_999))
    assert one(replace(wanted, sha256="0" * 64), inbox, archive).result == "changed"
    assert {"archive": "archived", "delete": "deleted"}[how] == one(wanted, inbox, archive).result


@pytest.mark.parametrize("how", ["archive", "delete"])
def test_a_file_written_in_place_with_its_time_set_back_is_another_one(inbox, archive, how):
    """What the archive has is what was segmented: size, time and inode are the same, and the bytes are not."""
    wanted = source(inbox, "a.png", b"first", how=how)
    times = (inbox / "a.png").stat()
    with (inbox / "a.png").open("r+b") as file:
        file.write(b"later")
    os.utime(inbox / "a.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert wanted.signature == signature_of((inbox / "a.png").lstat())
    assert one(wanted, inbox, archive).result == "changed"
    assert tree(inbox) == {"a.png": b"later"}


def test_a_copy_on_another_disk_that_has_other_bytes_is_none(inbox, archive, monkeypatch):
    """The source was written to in place while it was copied: it stays, and the archive has nothing of it."""
    copy, rename = archiving._copy, archiving.rename_new

    def written_to(*folders):
        (inbox / "a.png").write_bytes(b"later")
        return copy(*folders)

    def across(old, new, *, source_fd, target_fd):
        if not os.fsencode(old).startswith(archiving.COPYING):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(old, new, source_fd=source_fd, target_fd=target_fd)

    wanted = source(inbox, "a.png", b"first")
    monkeypatch.setattr(archiving, "_copy", written_to)
    monkeypatch.setattr(archiving, "rename_new", across)
    assert "changed" == one(wanted, inbox, archive).result
    assert ({"a.png": b"later"}, {}) == (tree(inbox), tree(archive))


KILLED = """
import sys
from pathlib import Path
from watcherd.inbox.archive import Source, dispose
from watcherd.values import Signature
dispose(eval(sys.argv[1]), inbox=Path(sys.argv[2]), archive=Path(sys.argv[3]))
print("survived")
"""

POINTS = {
    "archive": ["begun", "begun:2", "moved", "moved:2", "copied", "published", "set-aside", "removed", "synced"],
    "delete": ["begun", "set-aside", "set-aside:2", "removed", "removed:2", "synced"],
}
ONLY_TO_ANOTHER_DISK = {"copied", "published", "set-aside", "removed"}


def is_reached(how: str, point: str, inbox: Path, archive: Path) -> bool:
    point = point.partition(":")[0]
    if how == "delete" or point in ("begun", "synced"):
        return True
    crosses = inbox.stat().st_dev != archive.parent.stat().st_dev
    return crosses == (point in ONLY_TO_ANOTHER_DISK)


@pytest.mark.parametrize(("how", "point"), [(how, point) for how, points in POINTS.items() for point in points])
@pytest.mark.parametrize("new_file", [False, True])
def test_killed_anywhere_a_second_run_ends_in_the_same_place(inbox, archive, how, point, new_file):
    """Nothing lost, nothing twice, nothing of ours left; also when somebody drops a new file meanwhile."""
    wanted = [source(inbox, f"sub/{number}.png", b"%d" % number, how=how) for number in range(3)]
    died = subprocess.run(
        [sys.executable, "-c", KILLED, repr(wanted), str(inbox), str(archive)],
        env={VARIABLE: f"dispose.{point}", "PYTHONPATH": python_path()},
        capture_output=True,
    )
    if died.returncode != -signal.SIGKILL:
        assert died.stdout == b"survived\n", died.stderr  # a point of the other kind of archive
    if new_file and not (inbox / "sub" / "0.png").exists():
        (inbox / "sub" / "0.png").write_bytes(b"new")
    expected = {name: b"new" for name in ("sub/0.png",) if tree(inbox).get(name) == b"new"}
    again = dispose(wanted, inbox=inbox, archive=archive)
    assert expected == tree(inbox)
    if how == "archive":
        assert {f"sub/{number}.png": b"%d" % number for number in range(3)} == tree(archive)
        assert all(disposal.result == "archived" for disposal in again[1:])
    else:
        assert (tree(archive) if archive.exists() else {}) == {}


def test_a_thousand_sources_take_one_sync(inbox, tmp_path, monkeypatch):
    """As many as are done at a time, one sync for each file system."""
    synced = []
    monkeypatch.setattr(archiving, "sync_filesystem", synced.append)
    wanted = [source(inbox, f"{number}.png", b"%d" % number) for number in range(100)]
    assert {"archived"} == {done.result for done in dispose(wanted, inbox=inbox, archive=tmp_path / "archive")}
    assert len(synced) == 1
