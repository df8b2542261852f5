"""A source that looks changed again and again, though its bytes are the same, is left where it is and said once."""

from __future__ import annotations

from watcherd.inbox import unsteady
from watcherd.inbox.archive import Disposal, Source
from watcherd.inbox.unsteady import Unsteady
from watcherd.values import Signature


def source(mtime: int, sha256: str = "aa", path: bytes = b"a.png") -> Source:
    signature = Signature(size=1, mtime_ns=mtime, device=1, inode=1)
    return Source(path=path, signature=signature, sha256=sha256, how="archive")


def changed(path: bytes = b"a.png") -> Disposal:
    return Disposal(path=path, result="changed")


def test_after_the_second_time_it_is_kept_and_that_is_said_once() -> None:
    """However often it is taken after that."""
    watched = Unsteady()
    assert [False, True] == [watched.noted(source(number), changed()) for number in range(2)]
    for number in range(2, 5):
        spared = watched.spared(source(number))
        assert "keep" == spared.how
        assert not watched.noted(spared, Disposal(path=b"a.png", result="kept"))


def test_other_bytes_begin_anew() -> None:
    """A file that really changes leaves the inbox when it has stopped."""
    watched = Unsteady()
    assert [False] * 4 == [watched.noted(source(number, f"{number}"), changed()) for number in range(4)]
    assert "archive" == watched.spared(source(5, "5")).how


def test_one_that_left_at_last_is_forgotten() -> None:
    """Once is no habit."""
    watched = Unsteady()
    watched.noted(source(1), changed())
    watched.noted(source(2), Disposal(path=b"a.png", result="archived"))
    assert not watched.noted(source(3), changed())
    assert "archive" == watched.spared(source(4)).how


def test_no_more_than_so_many_are_remembered(monkeypatch) -> None:
    """The first ones are forgotten first."""
    monkeypatch.setattr(unsteady, "REMEMBERED", 2)
    watched = Unsteady()
    for path in (b"a", b"b", b"c"):
        for number in range(2):
            watched.noted(source(number, path=path), changed(path))
    assert ["archive", "keep", "keep"] == [watched.spared(source(3, path=path)).how for path in (b"a", b"b", b"c")]
