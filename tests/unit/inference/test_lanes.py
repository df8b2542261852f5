"""How many scans a model's batches have: as its replicas take them, and no more than leaves all of them work."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from watcherd.inference.pool.lanes import Lane


@pytest.mark.parametrize(
    ("seconds", "ready", "expected"),
    [
        (0.0, 1, 4),  # nothing is known of its pace: a batch of its replica
        (0.01, 1, 50),  # half a second of work
        (0.01, 5, 10),  # of all of them together: else four would wait for the fifth at the end
        (0.001, 1, 64),
        (0.001, 100, 5),
        (10.0, 2, 4),
        (0.01, 0, 50),  # they are being started again
    ],
)
def test_a_claim_leaves_no_replica_without_work(seconds: float, ready: int, expected: int) -> None:
    replicas = [SimpleNamespace(ready=object()) for _ in range(ready)] + [SimpleNamespace(ready=None)]
    lane = Lane[Any]("default")
    lane.carried_by(cast("Any", SimpleNamespace(status=lambda: replicas, capacity=lambda: 4)))
    if seconds:
        lane.took(seconds)
    assert expected == lane.batch_limit()
