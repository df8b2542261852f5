"""The queue of batches: who gets the next one, who gets none ahead, and its end."""

from __future__ import annotations

import queue
import select
from pathlib import Path

import pytest

from watcherd.inference.messages import WorkItem
from watcherd.inference.pool.batches import Batches, Taker
from watcherd.job import Options


def item(job: int) -> WorkItem:
    return WorkItem(job_id=job, decoded=Path("a"), frames=1, options=Options(), target=Path("b"))


def rings(taker: Taker) -> bool:
    return bool(select.select([taker.bell], [], [], 0)[0])


def test_batches_are_taken_in_their_order_and_every_replica_is_told() -> None:
    """Whoever is free first takes the oldest."""
    batches = Batches()
    one, other = batches.taker(), batches.taker()
    with pytest.raises(queue.Empty):
        one.take()
    assert not rings(one)
    batches.put([item(1), item(2)])
    batches.put([item(3)])
    assert rings(one)
    assert rings(other)
    taken = [one.take(), other.take()]
    assert [[1, 2], [3]] == [list(batch.waiting) for batch in taken if batch]


def test_nothing_is_taken_ahead_while_another_replica_is_free() -> None:
    """It would be done sooner there."""
    batches = Batches()
    busy, free = batches.taker(), batches.taker()
    free.note(free=True)
    batches.put([item(1)])
    assert busy.take_ahead() is None
    free.note(free=False)
    assert busy.take_ahead() is not None
    assert busy.take_ahead() is None


def test_there_is_room_for_as_many_batches_as_replicas_live() -> None:
    """And for none when the queue is closed."""
    batches = Batches()
    assert batches.has_room(1)
    assert not batches.has_room(0)
    batches.put([item(1)])
    assert not batches.has_room(1)
    batches.hand_back()
    assert not batches.has_room(1)


def test_a_closed_queue_gives_back_what_nobody_took_and_tells_every_replica() -> None:
    """Each of them finds its end, however many there are."""
    batches = Batches()
    takers = [batches.taker() for _ in range(3)]
    batches.put([item(1)])
    assert [[1]] == [list(batch.waiting) for batch in batches.hand_back()]
    for taker in takers:
        assert rings(taker)
        assert taker.take() is None
        assert taker.take_ahead() is None
