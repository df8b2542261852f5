"""A sweep sees everything, in little memory, and never leaves the inbox."""

from __future__ import annotations

import os
import tracemalloc

import pytest

from watcherd.config import IGNORED_NAMES
from watcherd.inbox.folders import open_below
from watcherd.inbox.sweep import DEEPEST, IgnoreList, look, sweep
from watcherd.inbox.values import Candidate, Folder, Gone, Ignored

IGNORE = IgnoreList(IGNORED_NAMES)


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


def paths(root_fd, **options):
    return sorted(found.path for chunk in sweep(root_fd, IGNORE, **options) for found in chunk.candidates)


def test_files_in_all_folders_are_found_in_chunks(inbox, root_fd):
    for number in range(25):
        folder = inbox / str(number % 3)
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.png").touch()
    chunks = list(sweep(root_fd, IGNORE, chunk=10))
    assert [len(chunk.candidates) for chunk in chunks] == [10, 10, 5]
    assert len(set(paths(root_fd))) == 25


def test_one_folder_can_be_swept_alone_and_one_that_is_gone_gives_nothing(inbox, root_fd):
    (inbox / "a" / "b").mkdir(parents=True)
    (inbox / "a" / "b" / "x.png").touch()
    (inbox / "y.png").touch()
    assert paths(root_fd, folder=b"a") == [b"a/b/x.png"]
    assert paths(root_fd, folder=b"gone") == []


def test_every_folder_is_told_of_before_it_is_read(inbox, root_fd):
    """A file that comes between the watch and the reading is seen by one of them."""
    (inbox / "a" / "b").mkdir(parents=True)

    def entering(folder):
        (inbox / os.fsdecode(folder) / "just.png").touch()

    assert paths(root_fd, entering=entering) == [b"a/b/just.png", b"a/just.png", b"just.png"]


@pytest.mark.parametrize(
    "name",
    [".hidden", "._x.png", "Thumbs.db", "THUMBS.DB", "x.part", "x.PNG.tmp", "~$x.doc", ".syncthing.x.tmp",
     "@eaDir/x.png", "#recycle/x.png", ".Trash-1000/x.png", "~syncthing~x"],
)  # fmt: skip
def test_names_on_the_ignore_list_are_passed_over(inbox, root_fd, name):
    (inbox / name).parent.mkdir(exist_ok=True)
    (inbox / name).touch()
    assert list(sweep(root_fd, IGNORE)) == []
    assert look(root_fd, IGNORE, name.encode()) is None


def test_a_folder_that_may_not_be_entered_is_ignored_with_what_to_do(inbox, root_fd):
    (inbox / "closed").mkdir()
    (inbox / "open.png").touch()
    (inbox / "closed").chmod(0)
    uid = os.geteuid()
    if not uid:
        inbox.chmod(0o755)
        os.seteuid(65534)
    try:
        (chunk,) = sweep(root_fd, IGNORE)
    finally:
        if not uid:
            os.seteuid(0)
        (inbox / "closed").chmod(0o700)
    assert ([c.path for c in chunk.candidates], [i.path for i in chunk.ignored]) == ([b"open.png"], [b"closed"])
    assert "permission" in chunk.ignored[0].reason


def test_folders_that_are_nested_without_end_are_cut_off_and_said(inbox, root_fd):
    descriptor = open_below(root_fd, b"/".join([b"d"] * (DEEPEST + 5)), create=True)
    os.close(os.open("deep.png", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    (chunk,) = sweep(root_fd, IGNORE)
    assert chunk.candidates == []
    assert [f"lies more than {DEEPEST} folders deep"] == [ignored.reason for ignored in chunk.ignored]


def test_memory_does_not_grow_with_the_number_of_files(inbox, root_fd):
    def peak() -> int:
        tracemalloc.start()
        for chunk in sweep(root_fd, IGNORE, chunk=100):
            del chunk
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    for number in range(300):
        (inbox / f"{number}.png").touch()
    few = peak()
    for number in range(300, 2500):
        (inbox / f"{number}.png").touch()
    assert peak() < few * 1.5 + 50_000


def test_a_look_says_what_is_there(inbox, root_fd, tmp_path):
    (inbox / "a").mkdir()
    (inbox / "a" / "x.png").touch()
    (inbox / "link").symlink_to(tmp_path)
    (tmp_path / "secret.png").touch()
    assert isinstance(look(root_fd, IGNORE, b"a/x.png"), Candidate)
    assert Folder(path=b"a") == look(root_fd, IGNORE, b"a")
    assert isinstance(look(root_fd, IGNORE, b"link"), Ignored)
    assert Gone(path=b"link/secret.png") == look(root_fd, IGNORE, b"link/secret.png")
    assert Gone(path=b"a/none.png") == look(root_fd, IGNORE, b"a/none.png")


@pytest.mark.parametrize("path", [b"../secret.png", b"a/../../secret.png", b"/etc/passwd"])
def test_a_path_out_of_the_inbox_is_refused(root_fd, path):
    with pytest.raises(ValueError, match="plain path"):
        look(root_fd, IgnoreList([]), path)


def test_a_sweep_that_is_left_waiting_goes_on_where_it_was(inbox, root_fd):
    for number in range(30):
        (inbox / f"{number}.png").touch()
    running = sweep(root_fd, IGNORE, chunk=10)
    first = next(running)
    for candidate in first.candidates:
        (inbox / os.fsdecode(candidate.path)).unlink()
    rest = [found.path for chunk in running for found in chunk.candidates]
    assert len(rest) == 20
    assert not {found.path for found in first.candidates} & set(rest)
