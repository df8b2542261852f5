"""How many imaging workers a machine gets; what is wired together is in tests/acceptance."""

from __future__ import annotations

import pytest

from watcherd.service.assembly import _workers


@pytest.mark.parametrize(
    ("cores", "workers"), [(1, 2), (2, 2), (16, 16), (20, 16), (24, 18), (32, 24), (64, 48), (256, 64)]
)
def test_workers_are_as_many_as_cores_and_leave_some_of_many(cores: int, workers: int) -> None:
    """To the replicas and the main process. A number that somebody has set stands."""
    assert workers == _workers("auto", cores)
    assert 3 == _workers(3, cores)
