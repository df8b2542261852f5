"""Values that siblings share."""

from __future__ import annotations

from watcherd.store.tables import metadata
from watcherd.values import DEVICE_COLUMNS, DeviceUse, FrameMeasure


def test_what_is_measured_of_a_device_are_the_columns_of_its_table() -> None:
    columns = metadata.tables["attempt_device"].columns.keys()
    assert {"attempt_id", *DEVICE_COLUMNS} == set(columns) - {"id"}
    assert {"device": "cuda:0", "name": "Card"}.items() <= DeviceUse(device="cuda:0", name="Card").columns().items()


def test_what_is_measured_of_a_frame_are_columns_of_its_table() -> None:
    columns = metadata.tables["measure"].columns.keys()
    assert set(FrameMeasure(frame=1, unit="px", area_fraction=0.5).columns()) <= set(columns)
