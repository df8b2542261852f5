"""Every file is found, however it comes (invariants 1, 2, 3, 19 and 20)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time

import pytest

ODD_NAMES = [
    b"M\xfcller.png",
    "Müller.png".encode(),
    "Mu\u0308ller.png".encode(),
    b"two\nlines.png",
    b"-rf.png",
    b"x" * 251 + b".png",
    b"\xed\xa0\x80 surrogate.png",
    b"CASE.png",
    b"case.png",
    b"back\\slash.png",
    b"  spaces  .png",
]


def test_a_file_written_slowly_is_taken_once_and_whole(intake):
    """A quiet moment within the settle time does not end the waiting; the copy has every byte."""
    path = intake.inbox / "slow.png"

    def write():
        with path.open("wb") as file:
            for _ in range(8):
                file.write(b"x" * 1000)
                file.flush()
                time.sleep(0.03)

    writer = threading.Thread(target=write)
    writer.start()
    intake.run(lambda: intake.taken)
    writer.join()
    assert [ingested.size_bytes for ingested in intake.taken] == [8000]
    assert intake.spool.path(intake.taken[0].sha256).read_bytes() == b"x" * 8000


def test_a_scanner_that_closes_between_pages_is_waited_for(intake):
    """Closing the file is a hint only: the quiet time starts again with every page."""
    path = intake.inbox / "pages.raw"

    def write():
        for _ in range(6):
            with path.open("ab") as file:
                file.write(b"page")
            time.sleep(0.03)

    writer = threading.Thread(target=write)
    writer.start()
    intake.run(lambda: intake.taken)
    writer.join()
    assert [ingested.size_bytes for ingested in intake.taken] == [24]


def test_a_folder_moved_in_with_200_files_is_found_whole(intake, tmp_path):
    """No event tells of files that were in a folder before it came."""
    outside = tmp_path / "outside"
    (outside / "deeper").mkdir(parents=True)
    for number in range(200):
        (outside / ("deeper" if number % 2 else ".") / f"{number}.raw").write_bytes(b"%d" % number)
    intake.settle_down()
    outside.rename(intake.inbox / "moved")
    intake.run(lambda: len(intake.taken) >= 200)
    assert len(set(intake.paths)) == 200
    assert intake.full_sweeps == 1, "found by the event, not by the next sweep"


def test_files_written_at_once_into_new_folders_are_found(intake):
    """mkdir -p a/b/c and a write in the same moment, 100 times, four files each: no watch can be that quick."""
    intake.settle_down()

    def write():
        for number in range(100):
            folder = intake.inbox / f"a{number}" / "b" / "c"
            folder.mkdir(parents=True)
            for place in (folder, folder.parent, folder.parent.parent, intake.inbox):
                (place / f"{number}.raw").write_bytes(b"x")

    writer = threading.Thread(target=write)
    writer.start()
    intake.run(lambda: len(intake.taken) >= 400)
    writer.join()
    assert len(set(intake.paths)) == 400


def test_a_renamed_folder_is_followed(intake):
    """Files that come into a folder after it was renamed are hinted at under its new name."""
    (intake.inbox / "old" / "sub").mkdir(parents=True)
    intake.settle_down()
    (intake.inbox / "old").rename(intake.inbox / "new")
    intake.turn()
    (intake.inbox / "new" / "sub" / "scan.raw").write_bytes(b"x")
    intake.run(lambda: intake.taken)
    assert intake.paths == [b"new/sub/scan.raw"]
    assert intake.full_sweeps == 1


def test_a_folder_that_takes_anothers_name_is_watched(intake, tmp_path):
    """The watch under that name belongs to the folder that was moved away."""
    (intake.inbox / "today").mkdir()
    intake.settle_down()
    (intake.inbox / "today").rename(tmp_path / "yesterday")
    (intake.inbox / "today").mkdir()
    (intake.inbox / "today" / "first.raw").write_bytes(b"1")
    intake.run(lambda: intake.taken)
    (intake.inbox / "today" / "second.raw").write_bytes(b"2")
    intake.run(lambda: len(intake.taken) >= 2)
    assert intake.full_sweeps == 1


def test_more_files_than_the_kernel_keeps_events_for_are_all_found(make_intake):
    """20,000 files while nobody reads the events (the queue holds 16,384): one sweep finds them all."""
    intake = make_intake(settle=0.0)
    intake.settle_down()
    reader = intake.events._reader
    with reader._lock, intake.events._lock:  # the reader's thread stands still
        for number in range(20_000):
            os.close(os.open(intake.inbox / f"{number}.raw", os.O_CREAT | os.O_WRONLY))
    found: set[bytes] = set()
    intake.settler.observe = lambda candidate, now, hinted=False: found.add(candidate.path) or True
    intake.run(lambda: len(found) >= 20_000)
    assert len(found) == 20_000


def test_a_full_settler_makes_the_sweep_wait_and_loses_nothing(make_intake):
    """A backlog larger than what is waited for at a time goes through in portions."""
    intake = make_intake(capacity=1000, events=False, settle=0.0)
    for number in range(3000):
        (intake.inbox / f"{number}.raw").write_bytes(b"%d" % number)
    most = 0

    def done():
        nonlocal most
        most = max(most, len(intake.settler))
        return len(intake.taken) >= 3000

    intake.run(done)
    assert len(set(intake.paths)) == 3000
    assert most <= 1000


def test_without_events_the_sweep_finds_everything(make_intake):
    """Events switched off: one interval is enough."""
    intake = make_intake(events=False, sweep_every=0.2)
    intake.settle_down()
    (intake.inbox / "sub").mkdir()
    (intake.inbox / "sub" / "late.raw").write_bytes(b"x")
    intake.run(lambda: intake.taken)
    assert intake.paths == [b"sub/late.raw"]


@pytest.mark.parametrize("events", [True, False])
def test_no_name_hides_a_file(make_intake, events):
    """Names that are not UTF-8, with line breaks, of 255 bytes, twins in form and case: each is taken."""
    intake = make_intake(events=events, sweep_every=0.2)
    intake.settle_down()
    for number, name in enumerate(ODD_NAMES):
        (intake.inbox / os.fsdecode(name)).write_bytes(b"%d" % number)
    intake.run(lambda: len(intake.taken) >= len(ODD_NAMES))
    assert sorted(ODD_NAMES) == sorted(intake.paths)


def test_a_temporary_name_is_left_alone_until_it_is_renamed(intake):
    """rsync and browsers write under another name first."""
    intake.settle_down()
    for name in (".scan.raw.Xy12", "scan.raw.part", "scan.raw.crdownload", "~$scan.raw"):
        (intake.inbox / name).write_bytes(b"half")
    (intake.inbox / "other.raw").write_bytes(b"x")
    intake.run(lambda: intake.taken)
    (intake.inbox / "scan.raw.part").rename(intake.inbox / "scan.raw")
    intake.run(lambda: len(intake.taken) >= 2)
    assert intake.paths == [b"other.raw", b"scan.raw"]


def test_what_is_no_file_is_recorded_and_the_next_file_taken(intake, tmp_path):
    """A FIFO, a socket, a link out of the inbox, a folder named like a picture: each has its reason."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    os.mkfifo(intake.inbox / "pipe.png")
    (intake.inbox / "link.png").symlink_to(secret)
    (intake.inbox / "linked").symlink_to(tmp_path)
    (intake.inbox / "folder.png").mkdir()
    (intake.inbox / "folder.png" / "inside.raw").write_bytes(b"x")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(intake.inbox / "s.png"))
        intake.settle_down()
    assert intake.paths == [b"folder.png/inside.raw"]
    reasons = {path: ignored.reason for path, ignored in intake.ignored.items()}
    assert {b"pipe.png", b"link.png", b"linked", b"folder.png", b"s.png"} == reasons.keys()
    assert "named pipe" in reasons[b"pipe.png"]
    assert "symbolic link" in reasons[b"link.png"]
    assert "folder" in reasons[b"folder.png"]
    assert "socket" in reasons[b"s.png"]


def test_a_folder_replaced_by_a_link_leads_nowhere(intake, tmp_path):
    """The folder was seen, then a link to the outside took its place: nothing behind it is read."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "scan.raw").write_bytes(b"secret")
    (intake.inbox / "sub").mkdir()
    (intake.inbox / "sub" / "scan.raw").write_bytes(b"mine")
    intake.turn()
    shutil.rmtree(intake.inbox / "sub")
    (intake.inbox / "sub").symlink_to(outside)
    intake.sweep_wanted = True
    intake.settle_down()
    assert intake.taken == []
    assert list(intake.ignored) == [b"sub"]


def test_new_bytes_under_a_known_name_are_taken_again(intake):
    """The same path with another signature is a new arrival."""
    path = intake.inbox / "scan.raw"
    path.write_bytes(b"first")
    intake.run(lambda: intake.taken)
    path.write_bytes(b"second")
    intake.run(lambda: len(intake.taken) >= 2)
    assert [intake.spool.path(ingested.sha256).read_bytes() for ingested in intake.taken] == [b"first", b"second"]


def test_watches_that_run_out_give_one_warning_and_sweeps_go_on(make_intake, monkeypatch):
    """ENOSPC from inotify_add_watch, on many folders."""
    from watchdog.observers import inotify_c

    intake = make_intake(sweep_every=0.2)
    monkeypatch.setattr(inotify_c, "inotify_add_watch", lambda *_: -1)
    monkeypatch.setattr(inotify_c.ctypes, "get_errno", lambda: 28)
    for number in range(5):
        (intake.inbox / f"f{number}").mkdir()
        (intake.inbox / f"f{number}" / "scan.raw").write_bytes(b"%d" % number)
    intake.run(lambda: len(intake.taken) >= 5)
    assert len(intake.warnings) == 1
    assert "max_user_watches" in intake.warnings[0]
    assert not intake.events.complete


def test_a_closed_file_is_taken_within_100_ms_of_the_settle_time(intake):
    """Measured from the close to the durable copy, over 20 files one after the other."""
    intake.settle_down()
    late = []
    for number in range(20):
        path = intake.inbox / f"{number}.raw"
        path.write_bytes(b"%d" % number)
        closed = time.monotonic()
        intake.run(lambda expected=number + 1: len(intake.taken) >= expected)
        late.append(intake.at[b"%d.raw" % number] - closed - 0.05)
    assert sorted(late)[len(late) // 2] < 0.1


def test_a_writer_in_another_process_is_seen(intake):
    """The lease is refused while any process has the file open for writing, however quiet it is."""
    code = "import sys; f = open(sys.argv[1], 'wb'); f.write(b'half'); f.flush(); print('ready', flush=True); input()"
    path = intake.inbox / "open.raw"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        writer.stdout.readline()
        intake.run(lambda: intake.not_yet)
        assert intake.taken == []
        assert "open for writing" in intake.not_yet[0].reason
        writer.communicate(b"\n")
    intake.run(lambda: intake.taken)
    assert intake.paths == [b"open.raw"]
