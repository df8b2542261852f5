"""How much is under way at a time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, cast

from watcherd.config import Config
from watcherd.pipeline import BATCHES_UNDER_WAY, Pipeline

CAPACITY = 4


class OneReplica:
    """Takes whatever comes, at once: a model that is faster than the disk."""

    def has_room(self) -> bool:
        return True

    def capacity(self) -> int:
        return CAPACITY

    def status(self) -> list[Any]:
        return [None]


def pipeline() -> Pipeline:
    nothing = cast("Any", None)
    return Pipeline(
        Config(),
        nothing,
        nothing,
        lambda: cast("Any", OneReplica()),
        nothing,
        nothing,
        run_id=1,
        scratch=Path("/nowhere"),
        spool_path=Path,
        stopping=threading.Event(),
    )


def test_a_fast_model_does_not_fill_the_run_folder() -> None:
    """Nothing more is claimed while so many scans are between claim and record, whatever the replicas would take."""
    line = pipeline()
    most = (BATCHES_UNDER_WAY + 2) * CAPACITY
    line._flights = {number: cast("Any", None) for number in range(most - 1)}
    assert line._has_room()
    line._flights[most] = cast("Any", None)
    assert not line._has_room()
