"""Our pixels against those of GDCM (alone and through SimpleITK) and of DCMTK, for each kind in `dicom_kinds`.

GDCM gives stored values: they are compared with what we decode, before any window. DCMTK's dcm2pnm shows pictures: they
are compared with what the model sees. A reader that is not installed, or that does not open a kind, is skipped with the
reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.conformance.dicom_kinds import KINDS, MEANT
from watcherd.formats.npy_frames import FrameFile
from watcherd.imaging.decode import DecodeLimits, decode
from watcherd.imaging.readers.dicom_scan import DicomScan

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

LEVELS = 1
"""Levels of 255 by which a picture of DCMTK's may differ from ours: it rounds in another way."""

LOSSY = {"jpeg-extended": 2, "jpeg-2000-lossy": 2}
"""Stored values by which lossy codes may come out otherwise in another library, by kind."""

IN_UNITS = {
    "ct-rescaled": lambda values: values * 2.0 - 1000,
    "xa-lin": lambda values: values * 10.0 - 100,
    "monochrome1": lambda values: 4095 - values,
    "one-bit": lambda values: values * 255,
}
"""SimpleITK gives values in the units of the file, with high bright: what it makes of stored ones."""

kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def file(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "scan.dcm"
    path.write_bytes(KINDS[kind]())
    return path


def stored(file: Path) -> NDArray[np.float64]:
    """What we decode: (frames, height, width) or with 3 behind."""
    scan = DicomScan(file, DecodeLimits())
    values = np.stack([scan._decoded(index)[0] for index in range(scan.frames)])
    scan.close()
    return values.astype(np.float64)


def seen(file: Path) -> NDArray[np.float64]:
    """What the model sees."""
    return np.stack(list(FrameFile(decode(file, file.with_suffix(".npy"), DecodeLimits()).path))).astype(np.float64)


def agree(ours: NDArray[np.float64], theirs: NDArray[np.float64], reader: str, kind: str, most: float) -> None:
    """Correlation and largest difference; where a difference is meant, that there is one still."""
    if ours.size == theirs.size:
        theirs = theirs.reshape(ours.shape)
    assert ours.shape == theirs.shape
    largest = np.abs(ours - theirs).max()
    if reason := MEANT.get((reader, kind)):
        assert largest > most, f"it is the same by now: {reason}"
        return
    correlation = np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] if ours.std() and theirs.std() else 1.0
    assert (largest <= most, correlation > 0.999) == (True, True), f"by {largest}, correlation {correlation:.4f}"


@kinds
def test_stored_values_are_those_of_simpleitk(file: Path, kind: str) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK has no wheel for this Python")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    if kind == "palette":
        pytest.skip("SimpleITK gives colours")
    try:
        image = sitk.ReadImage(str(file))
    except RuntimeError:
        pytest.skip("GDCM, through SimpleITK, does not open it")
    ours, theirs = stored(file), sitk.GetArrayFromImage(image).astype(np.float64)
    agree(IN_UNITS.get(kind, np.asarray)(ours), theirs, "simpleitk", kind, LOSSY.get(kind, 0))


@kinds
def test_stored_values_are_those_of_gdcm(file: Path, kind: str) -> None:
    gdcm = pytest.importorskip("gdcm", reason="python-gdcm has no wheel for this Python")
    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()
    reader = gdcm.ImageReader()
    reader.SetFileName(str(file))
    if not reader.Read():
        pytest.skip("GDCM does not open it")
    image = reader.GetImage()
    ours = stored(file)
    layout = image.GetPixelFormat()
    if layout.GetBitsAllocated() == 1 or (len(ours.shape) == 4 and image.GetPlanarConfiguration()):
        pytest.skip("GDCM gives bits and planes as they are in the file")
    kind_of_number = "i" if layout.GetPixelRepresentation() else "u"
    data = image.GetBuffer().encode("utf-8", "surrogateescape")
    theirs = np.frombuffer(data, f"<{kind_of_number}{layout.GetBitsAllocated() // 8}").astype(np.float64)
    agree(ours, theirs, "gdcm", kind, LOSSY.get(kind, 0))


@kinds
def test_pictures_are_those_of_dcmtk(file: Path, kind: str, tmp_path: Path) -> None:
    """With the file's first window, or its first table, as a viewer opens it."""
    if not shutil.which("dcm2pnm"):
        pytest.skip("dcm2pnm (dcmtk) is not installed")
    plain = tmp_path / "plain.dcm"
    decoder = {"jpeg-ls": "dcmdjpls", "jpeg": "dcmdjpeg", "rle": "dcmdrle"}
    family = next((name for name in decoder if name in kind and "2000" not in kind), None)
    source = file
    if family:
        subprocess.run([decoder[family], file, plain], check=True, env=os.environ, capture_output=True)
        source = plain
    ours = seen(file)
    theirs = [_shown(source, index, kind, tmp_path) for index in range(1, len(ours) + 1)]
    agree(ours, np.stack(theirs), "dcmtk", kind, LEVELS)


def _shown(source: Path, frame: int, kind: str, folder: Path) -> NDArray[np.float64]:
    voi = ["+Wl", "1"] if kind.startswith("voi-table") else ["+Wi", "1"]
    if kind in ("8-bits", "rgb", "rgb-16", "rgb-jpeg-ls", "palette"):
        voi = []
    if kind == "one-bit":
        voi = ["+Wm"]  # else its two values become black and grey
    if kind == "sigmoid":
        voi += ["+Wfs"]
    target = folder / f"{frame}.png"
    done = subprocess.run(["dcm2pnm", *voi, "+F", str(frame), "+on", source, target], capture_output=True, text=True)
    if done.returncode or not target.exists():
        pytest.skip("DCMTK does not open it")
    return np.asarray(Image.open(target)).astype(np.float64)
