"""Other people's readers of DICOM segmentations: each of ours must open in them, with the same pixels."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import highdicom
import numpy as np
import pydicom

if TYPE_CHECKING:
    from pathlib import Path


def check_seg(path: Path) -> None:
    """Open it in highdicom, and in GDCM through SimpleITK; let dciodvfy judge it (Debian's dicom3tools) where that is
    installed."""
    plain = pydicom.dcmread(path)
    expected = np.atleast_3d(plain.pixel_array.T).T > 0
    opened = highdicom.seg.segread(path)
    assert np.array_equal(expected, np.atleast_3d(opened.pixel_array.T).T > 0)
    _check_in_simpleitk(path, plain, expected)
    if verifier := shutil.which("dciodvfy"):
        judged = subprocess.run([verifier, path], capture_output=True, text=True, check=False)
        lines = (judged.stdout + judged.stderr).splitlines()
        assert [] == [line for line in lines if line.startswith("Error")]


def _check_in_simpleitk(path: Path, plain: pydicom.Dataset, expected: np.ndarray) -> None:
    try:
        import SimpleITK
    except ImportError:  # there may be no wheel for this Python yet
        return
    image = SimpleITK.ReadImage(str(path))
    whole = expected.size // 8 * 8  # bits that fill no byte are left as they were in memory, by GDCM 3
    assert np.array_equal(expected.ravel()[:whole], SimpleITK.GetArrayFromImage(image).ravel()[:whole] > 0)
    shared = plain.SharedFunctionalGroupsSequence[0]
    measures = shared.get("PixelMeasuresSequence")
    height, width = map(float, measures[0].PixelSpacing) if measures else (1.0, 1.0)
    assert (width, height) == image.GetSpacing()[:2]
    place = plain.PerFrameFunctionalGroupsSequence[0].get("PlanePositionSequence")
    if place:
        assert tuple(map(float, place[0].ImagePositionPatient)) == image.GetOrigin()
