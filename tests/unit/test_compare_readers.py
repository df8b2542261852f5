"""The comparison of readers over folders of files: what counts as the same picture, and that no file is left out."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.imaging.dicoms import dicom
from tools.compare_readers import rows, verdict

RAMP = np.tile(np.arange(64, dtype=np.uint8), (48, 1))


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (RAMP, "equal"),
        (np.repeat(RAMP[..., None], 3, axis=2), "equal"),
        (RAMP.astype(np.float32) * 2.5 - 1000, "alike"),
        (255 - RAMP, "inverted"),
        (RAMP.T, "another size"),
        (np.tile(np.arange(48, dtype=np.uint8)[:, None], (1, 64)), "differs"),
    ],
)
def test_pictures_are_compared_by_what_they_show(other, expected):
    assert expected == verdict(RAMP, other)


def test_each_file_is_tried_once_and_told_what_came_of_it(tmp_path):
    for name, content in {"a.dcm": dicom(RAMP), "b.dcm": dicom(RAMP), "c.txt": b"no picture", "d": b""}.items():
        (tmp_path / name).write_bytes(content)
    found = {row.path.name: (row.format, row.ours) for row in rows([tmp_path])}
    assert {
        "a.dcm": ("DICOM", "opened"),
        "c.txt": ("none of ours", "no scan: is text"),
        "d": ("none of ours", "no scan: is empty"),
    } == found
