"""When a file counts as finished: judged by our own looks at it, and by nothing else."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from watcherd.inbox.expected import Expected
from watcherd.inbox.settle import Settler
from watcherd.inbox.values import Candidate, NotYet
from watcherd.values import Signature


def file(path: bytes = b"scan", *, size: int = 1, ctime_ns: int = 0, mtime_ns: int = 0) -> Candidate:
    signature = Signature(size=size, mtime_ns=mtime_ns, device=1, inode=1)
    return Candidate(path=path, signature=signature, ctime_ns=ctime_ns, blocks=8)


def settler(**changed) -> Settler:
    return Settler(**({"settle_seconds": 2.0, "limit_seconds": 60.0} | changed))


def look(watched: Settler, now: float, shows: Candidate) -> list[bytes]:
    """What a turn of the loop does: look at what is due; the paths that are settled then."""
    for _ in watched.due(now):
        watched.observe(shows, now)
    return [item.candidate.path for item in watched.settled(now)]


def test_a_file_that_stays_as_it_is_settles_after_the_settle_time():
    watched = settler()
    watched.observe(file(), 10.0)
    assert look(watched, 11.9, file()) == []
    assert look(watched, 12.0, file()) == [b"scan"]


def test_a_file_is_expected_until_it_was_taken_or_is_gone():
    """By the beginning of its path; being given away does not end it, for it may come back."""
    expected = Expected()
    expected.swept(whole=True)
    watched = settler(expected=expected)
    watched.observe(file(b"x/a_frame_1.png"), 10.0)
    assert [True, False, False] == [expected.may_bring(name) for name in (b"x/a_frame_", b"x/b_frame_", b"a_frame_")]
    assert look(watched, 12.0, file(b"x/a_frame_1.png")) == [b"x/a_frame_1.png"]
    assert expected.may_bring(b"x/a_frame_")
    watched.gone(b"x/a_frame_1.png")
    assert not expected.may_bring(b"x/a_frame_")


@pytest.mark.parametrize("changed", [{"size": 2}, {"mtime_ns": 5}, {"ctime_ns": 5}])
def test_every_change_starts_the_quiet_time_again(changed):
    watched = settler()
    watched.observe(file(), 10.0)
    watched.observe(file(**changed), 11.5)
    assert look(watched, 12.0, file(**changed)) == []
    assert look(watched, 13.5, file(**changed)) == [b"scan"]


def test_a_change_that_no_event_told_of_is_seen_by_the_last_look():
    watched = settler()
    watched.observe(file(), 10.0)
    assert look(watched, 12.0, file(size=2)) == []
    assert look(watched, 14.0, file(size=2)) == [b"scan"]


def test_an_event_starts_the_quiet_time_again_even_if_the_file_looks_the_same():
    watched = settler()
    watched.observe(file(), 10.0)
    watched.observe(file(), 11.0, hinted=True)
    assert look(watched, 12.5, file()) == []
    assert look(watched, 13.0, file()) == [b"scan"]


def test_a_sweep_that_sees_the_file_again_changes_nothing():
    watched = settler()
    watched.observe(file(), 10.0)
    watched.observe(file(), 11.0)
    assert look(watched, 12.0, file()) == [b"scan"]


def test_the_files_own_times_do_not_matter():
    """An old mtime does not hasten it, one in the future does not hold it back."""
    for mtime_ns in (0, 2**62):
        watched = settler()
        watched.observe(file(mtime_ns=mtime_ns), 10.0)
        assert look(watched, 11.0, file(mtime_ns=mtime_ns)) == []
        assert look(watched, 12.0, file(mtime_ns=mtime_ns)) == [b"scan"]


def settle(watched: Settler, now: float = 10.0) -> float:
    watched.observe(file(), now)
    assert look(watched, now + 2.0, file()) == [b"scan"]
    return now + 2.0


def test_a_file_that_cannot_be_taken_yet_is_looked_at_again_until_the_limit():
    watched = settler()
    now = settle(watched)
    looks = 0
    while True:
        watched.wait(NotYet(path=b"scan", reason="is open for writing"), now)
        now = watched.next_wakeup()
        looks += 1
        (_path,) = watched.due(now)
        watched.observe(file(), now)
        (item,) = watched.settled(now)
        if item.overdue:
            break
    assert now == 10.0 + 60.0
    assert looks < 12, "the pauses grow"


def test_patience_shortens_the_limit():
    watched = settler()
    now = settle(watched)
    watched.wait(NotYet(path=b"scan", reason="is empty", patience=3.0), now)
    for _ in watched.due(13.0):
        watched.observe(file(), 13.0)
    assert [item.overdue for item in watched.settled(13.0)] == [True]


def test_a_change_while_it_waits_starts_everything_again():
    watched = settler()
    now = settle(watched)
    watched.wait(NotYet(path=b"scan", reason="is open for writing"), now)
    watched.observe(file(size=2), 65.0)
    for now in (80.0, 110.0):
        for _ in watched.due(now):
            watched.observe(file(size=2), now)
        assert [item.overdue for item in watched.settled(now)] == [False]
        watched.wait(NotYet(path=b"scan", reason="is open for writing"), now)


def test_an_event_brings_a_waiting_file_forward():
    """It was open for writing for long, so the pauses are long; its closing is not waited for."""
    watched = settler()
    now = settle(watched)
    for _ in range(5):
        watched.wait(NotYet(path=b"scan", reason="is open for writing"), now)
        now = watched.next_wakeup()
        assert watched.due(now)
        watched.observe(file(), now)
        watched.settled(now)
    watched.wait(NotYet(path=b"scan", reason="is open for writing"), now)
    assert watched.next_wakeup() > now + 3.0
    watched.observe(file(), now + 0.1, hinted=True)
    assert look(watched, now + 2.1, file()) == [b"scan"]


def test_a_file_found_to_be_another_one_settles_anew():
    watched = settler()
    now = settle(watched)
    watched.wait(NotYet(path=b"scan", reason="changed", seen=file(size=9)), now)
    assert look(watched, now + 1.9, file(size=9)) == []
    assert look(watched, now + 2.0, file(size=9)) == [b"scan"]


def test_what_is_gone_is_forgotten():
    watched = settler()
    watched.observe(file(), 10.0)
    watched.gone(b"scan")
    assert (watched.due(20.0), watched.settled(20.0), len(watched)) == ([], [], 0)


def test_a_file_is_given_away_once():
    watched = settler()
    settle(watched)
    watched.observe(file(), 13.0)
    assert (watched.due(100.0), watched.settled(100.0)) == ([], [])


def test_a_file_that_changes_while_it_is_ready_is_not_given_away_twice():
    watched = settler()
    watched.observe(file(), 10.0)
    for _ in watched.due(12.0):
        watched.observe(file(), 12.0)
    watched.observe(file(size=2), 12.0)
    for _ in watched.due(14.0):
        watched.observe(file(size=2), 14.0)
    assert [file(size=2)] == [item.candidate for item in watched.settled(14.0)]


def test_a_full_settler_says_so_and_has_room_again():
    watched = settler(capacity=2)
    assert [watched.observe(file(b"%d" % number), 0.0) for number in range(3)] == [True, True, False]
    assert watched.room == 0
    watched.gone(b"0")
    assert watched.observe(file(b"2"), 0.0)


def test_files_that_come_and_go_leave_nothing_behind():
    """The queue is cleared of forgotten files: 100,000 of them take no more memory than the first few."""
    watched = settler(capacity=100)
    for number in range(100_000):
        watched.observe(file(b"%d" % number), 0.0)
        watched.gone(b"%d" % number)
    assert len(watched._queue) < 3000


def test_a_file_that_changes_all_the_time_takes_one_place_in_the_queue():
    watched = settler()
    for number in range(10_000):
        watched.observe(file(size=number), number / 1000)
        watched.due(number / 1000)
    assert len(watched._queue) < 3


class Settling(RuleBasedStateMachine):
    """Any order of changes, events, looks and refusals: nothing is given away too early, nothing is forgotten."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.settler = settler(capacity=3)
        self.real: dict[bytes, Candidate] = {}
        self.changed_at: dict[bytes, float] = {}
        self.seen: dict[bytes, Candidate] = {}

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 2.0, 5.0, 30.0]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(path=st.sampled_from([b"a", b"b", b"c", b"d"]), size=st.integers(0, 3), hinted=st.booleans())
    def something_is_seen(self, path, size, hinted):
        candidate = file(path, size=size)
        new = self.seen.get(path) != candidate
        if self.settler.observe(candidate, self.now, hinted=hinted):
            self.seen[path] = self.real[path] = candidate
            if new or hinted:
                self.changed_at[path] = self.now

    @rule(path=st.sampled_from([b"a", b"b", b"c", b"d"]), size=st.integers(0, 3))
    def something_changes_unseen(self, path, size):
        if path in self.seen:
            self.real[path] = file(path, size=size)

    @rule(refused=st.booleans())
    def turn(self, refused):
        for path in self.settler.due(self.now):
            if self.real[path] != self.seen[path]:
                self.changed_at[path], self.seen[path] = self.now, self.real[path]
            self.settler.observe(self.real[path], self.now)
        for item in self.settler.settled(self.now):
            path = item.candidate.path
            assert self.seen[path] == item.candidate
            assert self.now - self.changed_at[path] >= 2.0
            assert not item.overdue or self.now - self.changed_at[path] >= 60.0
            if refused:
                self.settler.wait(NotYet(path=path, reason="no"), self.now)
            else:
                self.settler.gone(path)
                del self.seen[path]

    @invariant()
    def all_that_is_waited_for_has_its_turn(self):
        assert self.seen.keys() == {path for path, _ in self.settler.waiting()}
        assert not self.seen or (self.settler.next_wakeup() or -math.inf) <= self.now + 61.0
        assert bool(self.seen) <= (self.settler.next_wakeup() is not None)

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def something_goes(self, data):
        path = data.draw(st.sampled_from(sorted(self.seen)))
        self.settler.gone(path)
        del self.seen[path]


TestSettling = Settling.TestCase
TestSettling.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
