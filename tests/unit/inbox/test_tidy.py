"""Only folders that came while we watched are taken away, long after they were emptied."""

from __future__ import annotations

import os

from watcherd.inbox.tidy import EmptyFolders, remove_if_empty


def test_a_folder_that_came_goes_when_it_has_been_empty_for_long():
    folders = EmptyFolders([], seconds=100.0)
    folders.came(b"study")
    folders.came(b"study/series")
    folders.emptied(b"study/series", 10.0)
    folders.emptied(b"study/series", 50.0)
    assert folders.due(149.0) == []
    assert folders.due(150.0) == [b"study/series", b"study"]


def test_a_folder_that_was_always_there_and_a_profiles_stay():
    folders = EmptyFolders([b"heart/coronary"], seconds=100.0)
    for folder in (b"heart", b"heart/coronary"):
        folders.came(folder)
    for folder in (b"heart/coronary", b"scanner"):
        folders.emptied(folder, 0.0)
    assert folders.due(1000.0) == []


def test_a_folder_with_something_in_it_is_not_removed(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    root_fd = os.open(tmp_path, os.O_RDONLY)
    removed = [remove_if_empty(root_fd, name) for name in (b"full", b"link", b"empty", b"gone")]
    os.close(root_fd)
    assert removed == [False, False, True, False]
    assert (tmp_path / "full" / "x").exists()
