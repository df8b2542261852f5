"""A DICOM run, a NIfTI volume and a report go through the whole service; no patient's name leaves a file."""

from __future__ import annotations

import gzip
import json
import shutil
from typing import TYPE_CHECKING

import nibabel
import numpy as np
import pydicom
import pytest

from tests.acceptance.invariants import check_invariants
from tests.acceptance.service import Service
from tests.unit.imaging.dicoms import NAME, PATIENT, cine, dicom, report

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AFFINE = np.array([[-0.5, 0, 0, 40], [0, 0, 2.0, -30], [0, 0.5, 0, -12], [0, 0, 0, 1.0]])
"""Coronal slices, stored from the patient's left."""


def volume(folder: Path) -> bytes:
    """A volume with free text in its header."""
    values = np.random.default_rng(0).integers(0, 900, (24, 32, 5), np.int16)
    image = nibabel.Nifti1Image(values, AFFINE)
    image.header["descrip"] = NAME
    image.to_filename(folder / "volume.nii")
    return gzip.compress((folder / "volume.nii").read_bytes())


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """What a hospital drops, and one run over it."""
    folder = tmp_path_factory.mktemp("formats")
    made = Service(
        folder,
        model={"segmenter": "vesselness"},
        outbox={"outputs": ["mask", "overlay", "dicom-seg"]},
        privacy={"dicom_tags": ["StudyInstanceUID", "Modality", "StationName"]},
    )
    made.drop("IM000001", dicom(cine(6), FrameTime="66.7", ImagerPixelSpacing=[0.3, 0.3]))
    made.drop("ward/head.nii.gz", volume(folder))
    index = report().replace(b"1.2.840.10008.5.1.4.1.1.88.11", b"1.2.840.10008.1.3.10".ljust(29, b"\0"))
    (made.inbox / "SR000001").write_bytes(report())  # these will have no result
    (made.inbox / "DICOMDIR").write_bytes(index)
    assert made.once() == 0, made.tail()
    yield made
    made.end()


def test_scans_succeed_and_objects_without_pictures_are_ignored(service: Service) -> None:
    """With the reason, and without a job."""
    assert {"succeeded": 2} == service.states()
    reasons = dict(service.rows("SELECT path_text, reason FROM arrival WHERE fate = 'ignored'"))
    assert "is DICOM without a picture: a report" == reasons["SR000001"]
    assert "index of other files" in reasons["DICOMDIR"]
    assert [] == check_invariants(service)


def test_a_run_has_its_masks_and_a_segmentation_that_refers_to_it(service: Service) -> None:
    seg = pydicom.dcmread(service.outbox / "dicom-seg" / "IM000001.dcm")
    instance = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
    assert ("1.2.3.4.5", "1.2.3.4") == (instance.ReferencedSOPInstanceUID, seg.StudyInstanceUID)
    assert (service.outbox / "masks" / "IM000001.tif").exists()


def test_a_volume_has_its_mask_in_its_own_geometry(service: Service) -> None:
    mask = nibabel.load(service.outbox / "masks" / "ward" / "head.nii.gz")
    assert ((24, 32, 5), True) == (mask.shape, np.array_equal(AFFINE, mask.affine))


def test_results_say_what_the_source_says_of_itself(service: Service) -> None:
    found = json.loads((service.outbox / "results" / "IM000001.json").read_text())
    assert ([0.3, 0.3], 66.7) == (found["spacing_mm"], found["frame_ms"])
    assert {"StudyInstanceUID": "1.2.3.4", "Modality": "XA"} == found["dicom"]
    assert "DICOM" == found["format"]
    assert [('{"Modality":"XA","StudyInstanceUID":"1.2.3.4"}',)] == service.rows(
        "SELECT dicom FROM jobs WHERE source = 'IM000001'"
    )


def test_a_patients_name_is_nowhere_but_in_scans_and_their_segmentations(service: Service) -> None:
    """Not in results, pictures, names, logs or the history."""
    allowed = {service.outbox / "dicom-seg" / "IM000001.dcm", service.folder / "volume.nii"}
    held = []
    for path in service.folder.rglob("*"):
        scans = service.inbox in path.parents or service.archive in path.parents or "spool" in path.parts
        if path.is_file() and path not in allowed and not scans:
            held += [str(path) for word in (NAME.encode(), PATIENT.encode()) if word in unpacked(path)]
    assert [] == held
    assert NAME.encode() in (service.outbox / "dicom-seg" / "IM000001.dcm").read_bytes()


def unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content


def test_a_run_that_is_cut_off_waits_and_is_taken_once_it_is_whole(tmp_path: Path) -> None:
    data = dicom(cine(6), StudyDate="20260203")
    service = Service(tmp_path)
    service.inbox.mkdir(exist_ok=True)
    (service.inbox / "slow").write_bytes(data[: len(data) // 2])
    service.start()
    try:
        service.ready()
        service.wait(
            lambda: service.rows("SELECT reason FROM arrival WHERE fate = 'settling'"), "the file to be waited for"
        )
        assert "ends inside an element" in service.rows("SELECT reason FROM arrival")[0][0]
        (tmp_path / "whole").write_bytes(data)
        shutil.copyfile(tmp_path / "whole", service.inbox / "slow")
        service.wait(lambda: service.states() == {"succeeded": 1}, "the run to be segmented")
    finally:
        service.end()
