"""The comparison of readers over folders of files: what counts as the same picture, and that no file is left out."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.imaging.dicoms import dicom
from tools.compare_readers import rows, verdict

RAMP = np.tile(np.arange(64, dtype=np.uint8), (48, 1))
BENT = (np.arange(48)[:, None] ** 2 // 12 + np.arange(64)).astype(np.uint8)
"""A picture that is another one however it is turned, mirrored or inverted."""


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (BENT, "equal"),
        (np.repeat(BENT[..., None], 3, axis=2), "equal"),
        (BENT.astype(np.float32) * 2.5 - 1000, "alike"),
        (np.dstack([BENT, BENT, BENT, np.where(BENT < 40, 0, 255)]), "equal"),
        (BENT[:, ::-1], "turned"),
        (BENT.T, "turned"),
        (255 - BENT, "inverted"),
        (BENT[:, :60], "another size"),
        (RAMP, "differs"),
    ],
)
def test_pictures_are_compared_by_what_they_show(other, expected):
    assert expected == verdict(BENT, other)


def test_each_file_is_tried_once_and_told_what_came_of_it(tmp_path):
    for name, content in {"a.dcm": dicom(RAMP), "b.dcm": dicom(RAMP), "c.txt": b"no picture", "d": b""}.items():
        (tmp_path / name).write_bytes(content)
    found = {row.path.name: (row.format, row.ours) for row in rows([tmp_path])}
    assert {
        "a.dcm": ("DICOM", "opened"),
        "c.txt": ("none of ours", "no scan: is text"),
        "d": ("none of ours", "no scan: is empty"),
    } == found
