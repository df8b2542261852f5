"""Our pixels against those of OpenCV, SimpleITK (ITK) and nibabel, for each kind in `picture_kinds`.

What a file's reader gives is compared, before any window. A reader that is not installed, or that does not open a
kind, is skipped with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.conformance.picture_kinds import KINDS, MEANT
from watcherd.imaging import decode as decoding
from watcherd.imaging.decode import DecodeLimits

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

LOSSY = {"jpg-grey": 1, "jpg-rgb": 2, "jpg-subsampled": 4, "jpg-progressive": 2, "jpg-restarts": 2, "jpg-turned": 1,
         "webp-lossy": 3, "avif": 3, "tif-jpeg": 1, "jp2-lossy": 1,
         "png-rgb-16": 1, "png-rgba": 1, "png-grey-alpha": 1, "pgm-odd-white": 1, "tif-palette": 1,
         "tif-tiles": 1}  # fmt: skip
"""Values by which lossy codes, and what is divided, may come out otherwise in another library, by kind."""

SCALED = {
    ("opencv", "png-rgb-16"): 257,  # of 16 bits of a colour a picture shows the upper 8
    ("simpleitk", "png-rgb-16"): 257,
    ("opencv", "pgm-odd-white"): 1 / 3,  # white is 85 there
    ("simpleitk", "tif-palette"): 256,  # ITK gives a palette's own 16 bits
}
"""By what another reader's values are larger than ours, by reader and kind."""

VOLUMES = [kind for kind in KINDS if kind.startswith("nii")]
PICTURES = [kind for kind in KINDS if kind not in VOLUMES]


@pytest.fixture
def file(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"scan.{kind.partition('-')[0]}"
    path.write_bytes(KINDS[kind]())
    return path


def ours(file: Path) -> NDArray[np.float64]:
    """What our reader gives: (frames, height, width) or with 3 behind."""
    scan = decoding._member(file, DecodeLimits())
    values = np.stack([scan.read(index) for index in range(scan.frames)])
    scan.close()
    return values.astype(np.float64)


def agree(mine: NDArray[np.float64], theirs: NDArray[Any], reader: str, kind: str) -> None:
    """Correlation and largest difference; where a difference is meant, that there is one still."""
    theirs = alike(theirs.astype(np.float64) / SCALED.get((reader, kind), 1), mine)
    most = LOSSY.get(kind, 0)
    same = mine.shape == theirs.shape
    largest = np.abs(mine - theirs).max() if same else np.inf
    if reason := MEANT.get((reader, kind)):
        assert largest > most, f"it is the same by now: {reason}"
        return
    assert mine.shape == theirs.shape
    correlation = np.corrcoef(mine.ravel(), theirs.ravel())[0, 1]
    assert (largest <= most, correlation > 0.999) == (True, True), f"by {largest}, correlation {correlation:.4f}"


def alike(theirs: NDArray[np.float64], mine: NDArray[np.float64]) -> NDArray[np.float64]:
    """A reader's pixels in the form of ours: frames first, laid over black, and grey where its channels are equal."""
    if theirs.shape[:2] == mine.shape[1:3]:
        theirs = theirs[np.newaxis]
    if theirs.ndim == 4 and theirs.shape[-1] == 4:
        alpha = theirs[..., 3:]
        theirs = theirs[..., :3] * alpha / alpha.max()
    if theirs.ndim == 4 and mine.ndim == 3 and np.array_equal(theirs, np.repeat(theirs[..., :1], 3, axis=3)):
        theirs = theirs[..., 0]
    return theirs


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_are_those_of_opencv(file: Path, kind: str) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV has no wheel for this Python")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    upright = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR  # turned by EXIF, without alpha
    as_it_is = kind in ("png-rgba", "png-grey-alpha")
    done, pages = cv2.imreadmulti(str(file), flags=cv2.IMREAD_UNCHANGED if as_it_is else upright)
    if not done or not pages:
        pytest.skip("OpenCV does not open it")
    agree(ours(file), np.stack([colours_first(page) for page in pages]), "opencv", kind)


def colours_first(page: NDArray[Any]) -> NDArray[Any]:
    """Red first, as in ours, where OpenCV has blue first."""
    return page if page.ndim == 2 else np.concatenate([page[..., 2::-1], page[..., 3:]], axis=-1)


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_are_those_of_simpleitk(file: Path, kind: str) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK has no wheel for this Python")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        image = sitk.ReadImage(str(file))
    except RuntimeError:
        pytest.skip("ITK does not open it")
    agree(ours(file), sitk.GetArrayFromImage(image), "simpleitk", kind)


@pytest.mark.parametrize("kind", VOLUMES)
def test_slices_are_those_of_simpleitk(file: Path, kind: str) -> None:
    """Its axes turned to those of a radiological picture: the patient's left to the right, the back below."""
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK has no wheel for this Python")
    image = sitk.DICOMOrient(sitk.ReadImage(str(file)), "LPS")
    agree(ours(file), sitk.GetArrayFromImage(image), "simpleitk", kind)


@pytest.mark.parametrize("kind", VOLUMES)
def test_slices_are_those_of_nibabel(file: Path, kind: str) -> None:
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.as_closest_canonical(nibabel.load(file))  # to the right, to the front, to the head
    agree(ours(file), np.asarray(image.dataobj).T[:, ::-1, ::-1], "nibabel", kind)
