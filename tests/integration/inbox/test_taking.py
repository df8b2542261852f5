"""Files are copied whole or not at all (invariants 3, 4, 5, 6, 16 and 19)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import resource
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.tree import python_path
from watcherd.crash_points import VARIABLE
from watcherd.errors import TransientError
from watcherd.inbox import durable, ingest
from watcherd.inbox import spool as spool_module
from watcherd.inbox.ingest import NOBODY_WRITES, UNFILLED, take
from watcherd.inbox.settle import Settled
from watcherd.inbox.spool import Spool
from watcherd.inbox.sweep import IgnoreList, look, sweep
from watcherd.inbox.values import Candidate, Gone, Ignored, Ingested, NotYet

if TYPE_CHECKING:
    from collections.abc import Iterator

NOTHING = IgnoreList([])


@pytest.fixture
def inbox(tmp_path):
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def root_fd(inbox):
    descriptor = os.open(inbox, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def spool(tmp_path):
    made = Spool(tmp_path / "spool")
    made.prepare()
    return made


def settled(root_fd, *paths, overdue=False):
    looked = [look(root_fd, NOTHING, path) for path in paths]
    assert all(isinstance(seen, Candidate) for seen in looked)
    return [Settled(candidate=seen, overdue=overdue) for seen in looked]


def files_in(spool: Spool) -> set[str]:
    return {path.name for path in spool.root.rglob("*") if path.is_file()}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def descriptors_left(root_fd: int, number: int) -> Iterator[None]:
    """So many more files can be opened."""
    lowest = os.dup(root_fd)
    os.close(lowest)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_when_descriptors_run_out_nothing_is_taken_and_no_file_is_blamed(inbox, root_fd, spool):
    """It neither waits as one that cannot be opened, nor is it ignored: the service has to wait, and tries it again."""
    (inbox / "a.raw").write_bytes(b"a scan")
    found, reasons = settled(root_fd, b"a.raw"), []
    for number in range(9):
        with descriptors_left(root_fd, number):
            try:
                (outcome,) = take(found, root_fd, spool)
            except TransientError as error:
                reasons.append(error.message)
            else:
                assert isinstance(outcome, Ingested)
    assert "Files of the inbox cannot be opened: Too many open files." in reasons
    assert len(reasons) < 9


def test_copies_lie_under_their_hash_with_all_their_bytes(inbox, root_fd, spool):
    contents = {b"%d.raw" % number: os.urandom(1000 * number) for number in range(1, 8)}
    contents[b"large.raw"] = os.urandom(3 << 20)
    for name, content in contents.items():
        (inbox / os.fsdecode(name)).write_bytes(content)
    outcomes = take(settled(root_fd, *contents), root_fd, spool)
    assert {name: sha256(content) for name, content in contents.items()} == {o.path: o.sha256 for o in outcomes}
    assert all(
        contents[o.path] == spool.path(o.sha256).read_bytes() and o.size_bytes == len(contents[o.path])
        for o in outcomes
    )
    assert {sha256(content) for content in contents.values()} == files_in(spool)


def test_the_same_bytes_twice_are_kept_once(inbox, root_fd, spool):
    for name in ("a.raw", "b.raw"):
        (inbox / name).write_bytes(b"same")
    outcomes = take(settled(root_fd, b"a.raw", b"b.raw"), root_fd, spool)
    assert [sha256(b"same")] * 2 == [outcome.sha256 for outcome in outcomes]
    assert {sha256(b"same")} == files_in(spool)


@pytest.mark.parametrize("leftover", [b"", b"samX", b"other size"])
def test_a_leftover_under_the_hash_that_does_not_have_it_is_replaced(inbox, root_fd, spool, leftover):
    """A power cut between rename and sync may leave a name with too few bytes."""
    (inbox / "a.raw").write_bytes(b"same")
    path = spool.path(sha256(b"same"))
    path.parent.mkdir()
    path.write_bytes(leftover)
    take(settled(root_fd, b"a.raw"), root_fd, spool)
    assert path.read_bytes() == b"same"


def test_a_copy_that_is_right_is_not_touched(inbox, root_fd, spool):
    (inbox / "a.raw").write_bytes(b"same")
    (first,) = take(settled(root_fd, b"a.raw"), root_fd, spool)
    inode = spool.path(first.sha256).stat().st_ino
    take(settled(root_fd, b"a.raw"), root_fd, spool)
    assert inode == spool.path(first.sha256).stat().st_ino


def test_what_happens_to_the_source_afterwards_does_not_change_the_copy(inbox, root_fd, spool):
    (inbox / "a.raw").write_bytes(b"first")
    (outcome,) = take(settled(root_fd, b"a.raw"), root_fd, spool)
    (inbox / "a.raw").write_bytes(b"later")
    assert spool.path(outcome.sha256).read_bytes() == b"first"
    (inbox / "a.raw").unlink()
    assert spool.path(outcome.sha256).read_bytes() == b"first"


def test_a_file_that_changed_since_the_look_is_not_taken(inbox, root_fd, spool):
    (inbox / "a.raw").write_bytes(b"first")
    before = settled(root_fd, b"a.raw")
    (inbox / "a.raw").write_bytes(b"longer than before")
    (outcome,) = take(before, root_fd, spool)
    assert isinstance(outcome, NotYet)
    assert outcome.seen.signature.size == 18
    assert set() == files_in(spool)


@pytest.mark.parametrize("change", ["grows", "same size", "shrinks", "endless"])
def test_a_file_that_changes_under_the_copy_is_not_taken(inbox, root_fd, spool, monkeypatch, change):
    path = inbox / "a.raw"
    path.write_bytes(b"x" * 5_000_000)
    before = settled(root_fd, b"a.raw")
    read = os.read
    reads = 0

    def changing(descriptor, count):
        nonlocal reads
        reads += 1
        if change == "endless" or reads == 2:
            with path.open("r+b") as file:
                if change in ("grows", "endless"):
                    file.seek(0, 2)
                    file.write(b"y" * count)
                elif change == "same size":
                    file.seek(-1, 2)
                    file.write(b"y")
                else:
                    file.truncate(1000)
        return read(descriptor, count)

    monkeypatch.setattr(os, "read", changing)
    (outcome,) = take(before, root_fd, spool)
    monkeypatch.undo()
    assert isinstance(outcome, NotYet)
    assert reads < 20
    assert set() == files_in(spool)


def test_a_link_a_pipe_and_a_folder_put_in_the_files_place_are_not_read(inbox, root_fd, spool, tmp_path):
    """Between the look and the opening; nothing waits for a pipe's writer."""
    (tmp_path / "secret").write_bytes(b"secret")
    for name in ("link", "pipe", "folder", "socket", "gone"):
        (inbox / name).write_bytes(b"secret")
    before = settled(root_fd, b"link", b"pipe", b"folder", b"socket", b"gone")
    for name in ("link", "pipe", "folder", "socket", "gone"):
        (inbox / name).unlink()
    (inbox / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(inbox / "pipe")
    (inbox / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(inbox / "socket"))
        outcomes = take(before, root_fd, spool)
    assert [Gone, Ignored, Gone, Gone, Gone] == [type(outcome) for outcome in outcomes]
    assert set() == files_in(spool)


def test_a_folder_replaced_by_a_link_after_the_look_is_not_followed(inbox, root_fd, spool, tmp_path):
    (inbox / "sub").mkdir()
    (inbox / "sub" / "a.raw").write_bytes(b"mine")
    before = settled(root_fd, b"sub/a.raw")
    (inbox / "sub").rename(tmp_path / "outside")
    (inbox / "sub").symlink_to(tmp_path / "outside")
    assert [Gone(path=b"sub/a.raw")] == take(before, root_fd, spool)


def test_a_file_without_permission_is_ignored_with_what_to_do(inbox, root_fd, spool):
    """As another user than the file's; once it may be read, its ctime says that it is to be looked at again."""
    (inbox / "a.raw").write_bytes(b"x")
    (inbox / "a.raw").chmod(0)
    before = settled(root_fd, b"a.raw")
    uid = os.geteuid()
    if not uid:
        os.seteuid(65534)
    try:
        outcomes = take(before, root_fd, spool)
    finally:
        if not uid:
            os.seteuid(0)
    assert [Ignored] == [type(outcome) for outcome in outcomes]
    assert "permission" in outcomes[0].reason
    (inbox / "a.raw").chmod(0o644)
    assert outcomes[0].ctime_ns != look(root_fd, NOTHING, b"a.raw").ctime_ns


def test_a_file_open_for_writing_is_waited_for(inbox, root_fd, spool):
    with (inbox / "a.raw").open("wb") as writer:
        writer.write(b"half")
        writer.flush()
        (outcome,) = take(settled(root_fd, b"a.raw"), root_fd, spool)
        assert (outcome.reason, outcome.patience) == ("is open for writing", None)
        (unknown,) = take(settled(root_fd, b"a.raw"), root_fd, spool, leases=False)
        assert isinstance(unknown, Ingested), "where leases say nothing the settle time has to do"
    assert isinstance(take(settled(root_fd, b"a.raw"), root_fd, spool)[0], Ingested)


def test_a_reader_is_not_in_the_way_and_a_writer_that_comes_kills_nobody(inbox, root_fd, spool):
    (inbox / "a.raw").write_bytes(b"x")
    with (inbox / "a.raw").open("rb") as reader:
        assert isinstance(take(settled(root_fd, b"a.raw"), root_fd, spool)[0], Ingested)
        fcntl.fcntl(reader, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(reader, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        code = f"import os; os.open({str(inbox / 'a.raw')!r}, os.O_WRONLY | os.O_NONBLOCK)"
        assert b"BlockingIOError" in subprocess.run([sys.executable, "-c", code], capture_output=True).stderr
        fcntl.fcntl(reader, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def test_a_file_whose_lease_nobody_may_take_is_unknown(inbox, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "no")

    (inbox / "a.raw").write_bytes(b"x")
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with (inbox / "a.raw").open("rb") as file:
        assert ingest.open_for_writing(file.fileno()) is None


@pytest.mark.parametrize("how", ["truncate", "fallocate"])
def test_room_that_is_not_filled_is_waited_for_and_then_taken(inbox, root_fd, spool, how):
    """20 MB with a stalled writer that closed it: quiet for ever, and not finished."""
    with (inbox / "a.raw").open("wb") as file:
        if how == "truncate":
            file.truncate(20 << 20)
        else:
            os.posix_fallocate(file.fileno(), 0, 20 << 20)
    (outcome,) = take(settled(root_fd, b"a.raw"), root_fd, spool)
    assert (outcome.reason, outcome.patience) == ("has room that is not filled yet", NOBODY_WRITES)
    (outcome,) = take(settled(root_fd, b"a.raw"), root_fd, spool, leases=False)
    assert outcome.patience == UNFILLED
    (outcome,) = take(settled(root_fd, b"a.raw", overdue=True), root_fd, spool)
    assert outcome.note == "has room that is not filled yet"


def test_a_picture_that_ends_early_is_waited_for_and_then_taken_with_the_reason(inbox, root_fd, spool):
    (inbox / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\4ab\xff\xda\0\4ab" + b"x" * 1000)
    (outcome,) = take(settled(root_fd, b"a.jpg"), root_fd, spool, leases=False)
    assert (outcome.reason, outcome.patience) == ("looks unfinished: a JPEG without its end", None)
    (outcome,) = take(settled(root_fd, b"a.jpg"), root_fd, spool)
    assert outcome.patience == NOBODY_WRITES
    (outcome,) = take(settled(root_fd, b"a.jpg", overdue=True), root_fd, spool)
    assert outcome.note == "looks unfinished: a JPEG without its end"


def test_an_empty_file_is_waited_for_and_then_taken(inbox, root_fd, spool):
    (inbox / "a.raw").touch()
    assert take(settled(root_fd, b"a.raw"), root_fd, spool)[0].reason == "is empty"
    assert isinstance(take(settled(root_fd, b"a.raw", overdue=True), root_fd, spool)[0], Ingested)


def failing(number, name, monkeypatch, *, after=0, below=Path("/")):
    """Make os.<name> fail with an errno, after some calls that succeed; os.fsync only for what is ``below``."""
    real = getattr(os, name)
    calls = 0

    def fail(*args, **options):
        nonlocal calls
        if name == "fsync" and not Path(f"/proc/self/fd/{args[0]}").readlink().is_relative_to(below):
            return real(*args)
        calls += 1
        if calls > after:
            raise OSError(number, os.strerror(number))
        return real(*args, **options)

    monkeypatch.setattr(os, name, fail)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize(
    ("call", "after"), [("write", 0), ("write", 2), ("rename", 0), ("rename", 1), ("fsync", 0), ("fsync", 2)]
)
def test_a_spool_that_fails_raises_with_the_reason_and_keeps_nothing(
    inbox, root_fd, spool, monkeypatch, number, call, after
):
    for name in ("a.raw", "b.raw", "c.raw"):
        (inbox / name).write_bytes(name.encode())
    before = settled(root_fd, b"a.raw", b"b.raw", b"c.raw")
    failing(number, call, monkeypatch, after=after, below=spool.root)
    with pytest.raises(TransientError) as caught:
        take(before, root_fd, spool)
    monkeypatch.undo()
    assert str(spool.root) in str(caught.value)
    assert os.strerror(number) in str(caught.value)
    assert set() == files_in(spool)
    assert len(take(before, root_fd, spool)) == 3, "it goes on by itself"


def test_a_name_is_durable_with_the_folders_above_it(inbox, root_fd, spool, monkeypatch):
    """The spool's own folder is synced when one was made in it, also when that was not come to the last time."""
    synced = []

    def sync(folder):
        synced.append(os.path.relpath(folder, spool.root))
        if synced[-1] in fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def taken(content, spool=spool):
        (inbox / "a.raw").write_bytes(content)
        synced.clear()
        take(settled(root_fd, b"a.raw"), root_fd, spool)
        return synced

    contents = [b"%d" % number for number in range(1000)]
    first = contents[0]
    beside = next(content for content in contents[1:] if sha256(content)[:2] == sha256(first)[:2])
    apart = next(content for content in contents if sha256(content)[:2] != sha256(first)[:2])
    monkeypatch.setattr(spool_module, "sync_folder", sync)
    fails = []
    assert [sha256(first)[:2], "."] == taken(first)
    assert [sha256(first)[:2]] == taken(beside)
    for folder in (sha256(apart)[:2], "."):
        fails = [folder]
        with pytest.raises(TransientError):
            taken(apart)
    fails = []
    assert [sha256(apart)[:2], "."] == taken(apart)
    assert [sha256(first)[:2], "."] == taken(first, Spool(spool.root)), "an earlier run may have made the folder"


def test_a_failing_sync_of_a_large_batch_keeps_nothing(inbox, root_fd, spool, monkeypatch):
    for number in range(8):
        (inbox / f"{number}.raw").write_bytes(b"%d" % number)
    before = settled(root_fd, *(b"%d.raw" % number for number in range(8)))

    def fail(folder):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(spool_module, "sync_filesystem", fail)
    with pytest.raises(TransientError, match="Input/output error"):
        take(before, root_fd, spool)
    assert set() == files_in(spool)


@pytest.fixture
def synced(monkeypatch):
    """What is synced, in order: paths of files and folders, and "all of" the folder that stands for a file system."""
    calls = []

    def fsync(descriptor):
        calls.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(spool_module, "sync_filesystem", lambda folder: calls.append(f"all of {folder}"))
    monkeypatch.setattr(durable, "sync_open_filesystem", lambda _: calls.append("all of the inbox"))
    return calls


def test_copies_are_synced_under_their_final_names_before_they_are_taken(inbox, root_fd, spool, synced, monkeypatch):
    """Few one by one, then the folders of their names, then the one of those; many by one call."""
    rename = os.rename

    def renamed(old, new):
        rename(old, new)
        synced.append("renamed")

    monkeypatch.setattr(os, "rename", renamed)
    contents = [b"%d" % number for number in range(9)]
    for number, content in enumerate(contents):
        (inbox / f"{number}.raw").write_bytes(content)
    few, many = [settled(root_fd, *(b"%d.raw" % number for number in some)) for some in (range(3), range(3, 9))]
    names = [str(spool.path(sha256(content))) for content in contents[:3]]
    folders = sorted({str(spool.path(sha256(content)).parent) for content in contents[:3]})
    take(few, root_fd, spool)
    of_copies = [call for call in synced if not call.startswith(str(inbox))]
    assert ["renamed"] * 3 + names == of_copies[:6]
    assert folders == sorted(of_copies[6:-1])
    assert str(spool.root) == of_copies[-1]
    synced.clear()
    take(many, root_fd, spool)
    assert ["renamed"] * 6 + [f"all of {spool.root}"] == synced


def scans(inbox, count):
    (inbox / "heart").mkdir()
    for number in range(count):
        (inbox / "heart" / f"{number}.raw").write_bytes(b"%d" % number)
    return [b"heart/%d.raw" % number for number in range(count)]


@pytest.mark.parametrize(("count", "sync_each"), [(2, False), (6, True)])
def test_sources_are_synced_one_by_one_with_their_folders(inbox, root_fd, spool, synced, count, sync_each):
    """A few; or all, where the file system passes on nothing else. Before the batch is taken as durable."""
    paths = scans(inbox, count)
    assert count == len(take(settled(root_fd, *paths), root_fd, spool, sync_each=sync_each))
    own = [call for call in synced if call.startswith(str(inbox))]
    assert [*(str(inbox / os.fsdecode(path)) for path in paths), str(inbox), str(inbox / "heart")] == own
    assert "all of the inbox" not in synced


def test_sources_on_another_disk_are_synced_by_one_call(inbox, root_fd, spool, synced, monkeypatch):
    """After they were copied, so that what was copied is what is synced."""
    monkeypatch.setattr(durable.Durable, "_is_covered", lambda *_: False)
    take(settled(root_fd, *scans(inbox, 6)), root_fd, spool)
    assert [f"all of {spool.root}", "all of the inbox"] == synced


def test_one_call_serves_the_copies_and_the_sources_of_one_disk(inbox, root_fd, spool, synced):
    """If there was such a call: copies of which there are few are synced one by one."""
    paths = scans(inbox, 6)
    take(settled(root_fd, *paths), root_fd, spool)
    assert [f"all of {spool.root}"] == synced
    synced.clear()
    before = settled(root_fd, *paths)
    for path in paths[:3]:
        (inbox / os.fsdecode(path)).write_bytes(b"changed since")
    take(before, root_fd, spool)
    assert "all of the inbox" == synced[-1]


@pytest.mark.parametrize("number", sorted(durable.NOT_KNOWN))
def test_a_file_system_that_knows_no_sync_is_served(inbox, root_fd, spool, monkeypatch, number):
    """There is nothing more that could be done."""
    failing(number, "fsync", monkeypatch, below=inbox)
    assert [Ingested] == [type(outcome) for outcome in take(settled(root_fd, *scans(inbox, 1)), root_fd, spool)]


def test_a_source_that_cannot_be_made_durable_waits_alone(inbox, root_fd, spool, monkeypatch):
    """Its bytes are not on the disk, and its copy is not kept; the others are taken."""
    before = settled(root_fd, *scans(inbox, 2))
    failing(errno.EIO, "fsync", monkeypatch, below=inbox / "heart" / "0.raw")
    refused, taken = take(before, root_fd, spool)
    assert "cannot be made durable: Input/output error" == refused.reason
    assert {taken.sha256} == files_in(spool)


def test_an_inbox_that_cannot_be_synced_is_said_and_nothing_is_taken(inbox, root_fd, spool, monkeypatch):
    """The copies go too; all is found again by the next sweep."""

    def fail(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    before = settled(root_fd, *scans(inbox, 6))
    monkeypatch.setattr(durable.Durable, "_is_covered", lambda *_: False)
    monkeypatch.setattr(durable, "sync_open_filesystem", fail)
    with pytest.raises(TransientError, match="scans in the inbox cannot be made durable: Input/output error"):
        take(before, root_fd, spool)
    assert set() == files_in(spool)


def test_a_disk_that_is_really_full_keeps_nothing(inbox, root_fd, tmp_path):
    """A file system of 64 kB, mounted in a namespace of our own where that is allowed."""
    small = tmp_path / "small"
    small.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(small), b"tmpfs", 0, b"size=64k") != 0:
        pytest.skip("mounting is not allowed here")
    try:
        spool = Spool(small / "spool")
        spool.prepare()
        (inbox / "a.raw").write_bytes(b"x" * 100_000)
        (inbox / "b.raw").write_bytes(b"x" * 1000)
        with pytest.raises(TransientError, match="No space left"):
            take(settled(root_fd, b"b.raw", b"a.raw"), root_fd, spool)
        assert set() == files_in(spool)
        assert isinstance(take(settled(root_fd, b"b.raw"), root_fd, spool)[0], Ingested)
    finally:
        libc.umount2(os.fsencode(small), 2)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_source_that_cannot_be_read_is_tried_again_and_the_others_are_taken(
    inbox, root_fd, spool, monkeypatch, number
):
    for name in ("a.raw", "b.raw"):
        (inbox / name).write_bytes(name.encode())
    before = settled(root_fd, b"a.raw", b"b.raw")
    bad = before[0].candidate.signature.inode
    read = os.read

    def fail(descriptor, count):
        if os.fstat(descriptor).st_ino == bad:
            raise OSError(number, os.strerror(number))
        return read(descriptor, count)

    monkeypatch.setattr(os, "read", fail)
    outcomes = take(before, root_fd, spool)
    monkeypatch.undo()
    assert [NotYet, Ingested] == [type(outcome) for outcome in outcomes]
    assert os.strerror(number) in outcomes[0].reason
    assert {sha256(b"b.raw")} == files_in(spool)


KILLED = """
import os, sys
from pathlib import Path
from watcherd.inbox.ingest import take
from watcherd.inbox.settle import Settled
from watcherd.inbox.spool import Spool
from watcherd.inbox.sweep import IgnoreList, sweep
root_fd = os.open(sys.argv[1], os.O_RDONLY)
spool = Spool(Path(sys.argv[2]))
found = [seen for chunk in sweep(root_fd, IgnoreList([])) for seen in chunk.candidates]
take([Settled(candidate=seen, overdue=False) for seen in found], root_fd, spool)
print("survived")
"""


@pytest.mark.parametrize("files", [3, 12])
@pytest.mark.parametrize("point", ["ingest.begun", "ingest.copied:2", "ingest.renamed:2", "ingest.synced"])
def test_killed_anywhere_in_the_batch_a_second_run_has_each_file_once(inbox, root_fd, spool, point, files):
    """What a kill leaves is a temporary, or a whole copy that no row knows; both are swept at the start."""
    for number in range(files):
        (inbox / f"{number}.raw").write_bytes(b"%d" % number)
    died = subprocess.run(
        [sys.executable, "-c", KILLED, str(inbox), str(spool.root)],
        env={VARIABLE: point, "PYTHONPATH": python_path()},
        capture_output=True,
    )
    assert (died.returncode, died.stdout) == (-signal.SIGKILL, b"")
    for path in spool.root.rglob("??/*"):
        assert path.name == sha256(path.read_bytes())
    spool.clean(lambda hashes: [])
    assert set() == files_in(spool)
    found = [Settled(candidate=seen, overdue=False) for chunk in sweep(root_fd, NOTHING) for seen in chunk.candidates]
    take(found, root_fd, spool)
    assert {sha256(b"%d" % number) for number in range(files)} == files_in(spool)


def test_cleaning_removes_temporaries_and_what_nobody_knows_and_nothing_else(inbox, root_fd, spool):
    for name in ("a.raw", "b.raw"):
        (inbox / name).write_bytes(name.encode())
    take(settled(root_fd, b"a.raw", b"b.raw"), root_fd, spool)
    (spool.root / "tmp" / "1-1").write_bytes(b"half")
    cleaned = spool.clean(lambda hashes: {sha256(b"a.raw")} & set(hashes))
    assert (cleaned.temporaries, cleaned.orphans, cleaned.size_bytes) == (1, 1, 9)
    assert {sha256(b"a.raw")} == files_in(spool)


def test_removing_a_copy_twice_is_no_error(inbox, root_fd, spool):
    (inbox / "a.raw").write_bytes(b"x")
    take(settled(root_fd, b"a.raw"), root_fd, spool)
    spool.remove(sha256(b"x"))
    spool.remove(sha256(b"x"))
    assert set() == files_in(spool)


def test_a_spool_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TransientError, match=r"The spool .* cannot be written"):
        Spool(Path(tmp_path / "file" / "spool")).prepare()


def test_more_folders_than_may_be_open_at_a_time_are_no_trouble(inbox, root_fd, spool):
    paths = []
    for number in range(150):
        (inbox / str(number)).mkdir()
        (inbox / str(number) / "a.raw").write_bytes(b"%d" % number)
        paths.append(b"%d/a.raw" % number)
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert sum(isinstance(outcome, Ingested) for outcome in take(settled(root_fd, *paths), root_fd, spool)) == 150
    assert before == len(list(Path("/proc/self/fd").iterdir()))


def test_an_empty_probe_of_an_editor_is_ignored_and_a_scan_of_that_name_is_taken(inbox, root_fd, spool):
    """Whether vim may write to the folder is tried with a file called 4913; a DICOM file may have that name too."""
    (inbox / "4913").touch()
    (ignored,) = take(settled(root_fd, b"4913"), root_fd, spool)
    assert (Ignored, "is empty") == (type(ignored), ignored.reason[:8])
    (inbox / "4913").write_bytes(b"some scan")
    assert isinstance(take(settled(root_fd, b"4913"), root_fd, spool)[0], Ingested)
