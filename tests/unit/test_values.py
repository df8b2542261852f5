"""Values that siblings share."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from watcherd.imaging.values import Decoded
from watcherd.imaging.worker import Ended
from watcherd.inference.messages import Marked
from watcherd.store.tables import metadata
from watcherd.values import DEVICE_COLUMNS, DeviceUse, FrameMeasure


def test_what_is_measured_of_a_device_are_the_columns_of_its_table() -> None:
    columns = metadata.tables["attempt_device"].columns.keys()
    assert {"attempt_id", *DEVICE_COLUMNS} == set(columns) - {"id"}
    assert {"device": "cuda:0", "name": "Card"}.items() <= DeviceUse(device="cuda:0", name="Card").columns().items()


def test_what_is_measured_of_a_frame_are_columns_of_its_table() -> None:
    columns = metadata.tables["measure"].columns.keys()
    assert set(FrameMeasure(frame=1, unit="px", area_fraction=0.5).columns()) <= set(columns)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_what_crosses_between_processes_comes_out_as_it_went_in(protocol: int) -> None:
    """With what it holds, and still frozen."""
    decoded = Decoded(
        path=Path("/a.npy"), frames=1, height=2, width=3, colour=False, format="PNG", bit_depth=8, window=None
    )
    for value in (
        decoded,
        Ended((decoded, 7), None, 0.5),
        DeviceUse(device="cpu"),
        Marked(stage="segmenting", jobs=(1,)),
    ):
        made = pickle.loads(pickle.dumps(value, protocol))  # noqa: S301 - our own
        assert value == made
        with pytest.raises(FrozenInstanceError):
            setattr(made, fields(made)[0].name, None)
