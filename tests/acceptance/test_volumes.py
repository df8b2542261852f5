"""A model of volumes in the whole service: whole scans, their geometry, cases of two channels, a start anew."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import pytest

from tests.acceptance.invariants import check_invariants
from tests.acceptance.service import Service, png

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

SHAPE = (9, 7, 5)


def affine(turned: float = 0.2) -> NDArray[np.float64]:
    """Oblique and anisotropic, the first axis to the left."""
    cos, sin = np.cos(turned), np.sin(turned)
    matrix = np.eye(4)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    matrix[:3, :3] = turn @ np.diag([-0.8, 0.9, 2.5])
    matrix[:3, 3] = (12, -30, 7)
    return matrix


def values(seed: int) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-100, 1000, SHAPE).astype(np.int16)


def nifti(folder: Path, seed: int) -> bytes:
    path = folder / f"made-{seed}.nii.gz"
    image = nibabel.Nifti1Image(values(seed), affine())
    image.set_qform(affine(), code=1)
    nibabel.save(image, path)
    return path.read_bytes()


def serve(folder: Path, wishes: dict[str, Any]) -> Service:
    service = Service(
        folder,
        inbox={"run_quiet_seconds": 1.0},
        model={"segmenter": "fake"},
        outbox={"outputs": ["mask"]},
    )
    service.environment = {"WATCHERD_FAKE": json.dumps(wishes)}
    service.start()
    service.ready()
    return service


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The first scan fails inside the model."""
    folder = tmp_path_factory.mktemp("volumes")
    service = serve(folder, {"volumes": 1, "fault": "error", "once": str(folder / "failed")})
    try:
        service.drop("first.nii.gz", nifti(folder, 1))
        service.wait((folder / "failed").exists, "the fault")
        service.drop("second.nii.gz", nifti(folder, 2))
        service.drop("photo.png", png(3))
        service.finished(3, seconds=120)
        yield service
    finally:
        service.end()


def mask(service: Service, name: str) -> Any:
    return nibabel.load(service.outbox / "masks" / name)


def test_a_volume_is_seen_whole_and_its_mask_lies_on_its_voxels(single: Service) -> None:
    """The fake's mask is what lies above the mean of all slices, in the file's own numbers."""
    for name, seed in (("first.nii.gz", 1), ("second.nii.gz", 2)):
        found = mask(single, name)
        expected = values(seed) > values(seed).astype(np.float32).mean()
        assert np.array_equal(expected, np.asarray(found.dataobj) == 1)
        assert np.allclose(affine(), found.affine, atol=1e-5)


def test_the_replica_starts_anew_after_an_error_inside(single: Service) -> None:
    """And the scan that met it gets its mask by another try; the others lose none."""
    died = single.log("replica_died")
    assert 1 == len(died)
    assert "starts anew after an error inside its model" in died[0]["reason"]
    attempts = dict(single.rows("SELECT source, attempts FROM job"))
    assert {"first.nii.gz": 2, "second.nii.gz": 1, "photo.png": 1} == attempts


def test_nothing_of_the_numbers_is_left_in_the_run_folder(single: Service) -> None:
    single.wait(lambda: not list(single.folder.glob("**/*-volume.npy")), "the run folder to be cleared")
    check_invariants(single)


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("channels")
    service = serve(folder, {"volumes": 2})
    try:
        service.drop("b_0001.nii.gz", nifti(folder, 4))
        service.drop("b_0000.nii.gz", nifti(folder, 3))
        service.drop("alone.nii.gz", nifti(folder, 5))
        service.finished(3, seconds=120)
        yield service
    finally:
        service.end()


def test_two_channels_are_one_case(paired: Service) -> None:
    """Computed once, of both; each file has the mask under its own name, and its record says which channel it was."""
    both = (values(3).astype(np.float32) + values(4)) / 2
    for number in range(2):
        found = mask(paired, f"b_{number:04}.nii.gz")
        assert np.array_equal(both > both.mean(), np.asarray(found.dataobj) == 1)
        record = json.loads((paired.outbox / "results" / f"b_{number:04}.json").read_text())
        assert f"channel {number:04d} of a case of 2" in record["note"]
    assert (paired.outbox / "failed" / "alone.txt").exists()
    check_invariants(paired)
