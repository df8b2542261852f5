"""Tiny models that nnunetv2 has trained: watcherd's labels are those of its own command, voxel for voxel.

Needs the extra nnunet, and trains for a few minutes once for all tests.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from watcherd.config import Model, Nnunet
from watcherd.errors import InputError
from watcherd.formats.npy_frames import FrameFile
from watcherd.imaging.decode import DecodeLimits, decode
from watcherd.imaging.encode import RenderRequest, render
from watcherd.inference import checks, segmenters
from watcherd.inference.base import Placement, Volume
from watcherd.inference.messages import WorkItem
from watcherd.inference.replica import volumes
from watcherd.job import Options
from watcherd.testing import SegmenterContract

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watcherd.imaging.values import Decoded
    from watcherd.inference.base import Prediction, Segmenter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.heavy,
    pytest.mark.timeout(900),
    pytest.mark.skipif(importlib.util.find_spec("nnunetv2") is None, reason="nnunetv2 (extra nnunet) is not installed"),
]

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1"}
COMMAND = "from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder as main; main()"
KINDS: dict[str, tuple[list[str], list[str]]] = {
    "3d": (["--folds", "2"], []),
    "2d": (["--configuration", "2d"], []),
    "regions": (["--channels", "2", "--regions"], ["--channels", "2"]),
    "pictures": (["--configuration", "2d", "--ending", ".png"], ["--ending", ".png", "--cases", "5"]),
}
"""What the model is made with, and its scans."""


def python(*arguments: str) -> None:
    folders = dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), os.devnull)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | folders | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert 0 == done.returncode, done.stdout[-2000:] + done.stderr[-3000:]


class Kit:
    """A model of nnU-Net's with its scans, loaded, and what its own command says of them."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.model, self.scans, self.folder = folder / "model", folder / "scans", folder
        how, which = KINDS[kind]
        python("-m", "tests.nnunet_tiny", "model", str(self.model), *how)
        python("-m", "tests.nnunet_tiny", "scans", str(self.scans), *which)
        self.folds = [path.name[-1] for path in sorted(self.model.glob("fold_*"))]
        self.segmenter: Any = segmenters.create(Model(segmenter="nnunet", path=self.model))
        self.segmenter.load(Placement(), lambda *_: None)

    def commanded(self, *, mirrored: bool) -> Path:
        out = self.folder / f"out-{mirrored}"
        if not out.exists():
            more = [] if mirrored else ["--disable_tta"]
            names = ["-i", self.scans, "-o", out, "-m", self.model, "-f", *self.folds, "-device", "cpu"]
            python("-c", COMMAND, *map(str, names), "-npp", "1", "-nps", "1", *more)
        return out

    def cases(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in sorted(self.scans.iterdir()):
            found.setdefault(path.name[:7], []).append(path)
        return found

    def decoded(self, files: Sequence[Path]) -> list[Decoded]:
        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        return [
            decode(path, work / f"{path.name}.npy", DecodeLimits(), (), work / f"{path.name}-volume.npy")
            for path in files
        ]

    def predicted(self, scans: Sequence[Decoded], **options: Any) -> list[Prediction]:
        items = [
            WorkItem(
                job_id=channel,
                decoded=scan.path,
                frames=scan.frames,
                options=Options(**options),
                target=self.folder / "result",
                volume=scan.volume,
                channel=channel,
            )
            for channel, scan in enumerate(scans)
        ]
        return list(volumes.predictions(self.segmenter, items, lambda *_: None))


@pytest.fixture(scope="session", params=list(KINDS))
def kit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return Kit(tmp_path_factory.mktemp("nnunet"), request.param)


def labels(path: Path) -> Any:
    if path.suffix == ".png":
        from PIL import Image

        return np.asarray(Image.open(path))[np.newaxis]
    import SimpleITK

    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


@pytest.mark.parametrize("mirrored", [True, False])
def test_labels_are_those_of_its_own_command(kit: Kit, mirrored: bool) -> None:
    """In the whole way from the file: anisotropic and oblique scans, cropped ones, smaller than a tile, pictures; folds
    averaged, two channels, regions."""
    different = voxels = found = 0
    for name, files in kit.cases().items():
        scans = kit.decoded(files)
        [expected] = kit.commanded(mirrored=mirrored).glob(f"{name}.[np]*")
        theirs = labels(expected)
        masks = np.stack([frame.mask for frame in kit.predicted(scans, tta=mirrored)])
        turn = scans[0].volume.turn if scans[0].volume else None
        assert turn is not None
        ours = np.stack([turn.stored(mask).swapaxes(0, 1) for mask in masks])
        different += int((ours != theirs).sum())
        voxels += theirs.size
        found += int((theirs > 0).sum())
    assert 5 <= len(kit.cases())
    assert found > 0
    assert (0, voxels) == (different, voxels)


def test_masks_lie_on_the_scan_for_other_programs(kit: Kit) -> None:
    """Equal geometry in SimpleITK and nibabel, and the same label values as in the command's own file."""
    import nibabel
    import SimpleITK

    if not next(kit.scans.iterdir()).name.endswith(".nii.gz"):
        pytest.skip("pictures have no geometry")
    for name, files in kit.cases().items():
        scans = kit.decoded(files)
        frames = [frame.mask for frame in kit.predicted(scans, tta=True)]
        np.save(kit.folder / "mask.npy", np.stack(frames))
        request = RenderRequest(
            pixels=scans[0].path,
            mask=kit.folder / "mask.npy",
            folder=kit.folder,
            stem=name,
            kinds=("mask",),
            classes=2,
            source=files[0],
            scan=scans[0],
        )
        [file] = render(request).files
        scan, mask = (SimpleITK.ReadImage(str(path)) for path in (files[0], file.path))
        assert (scan.GetSize(), scan.GetSpacing()) == (mask.GetSize(), mask.GetSpacing())
        assert scan.GetOrigin() == pytest.approx(mask.GetOrigin(), abs=1e-5)
        assert scan.GetDirection() == pytest.approx(mask.GetDirection(), abs=1e-6)
        theirs = labels(kit.commanded(mirrored=True) / f"{name}.nii.gz")
        assert np.array_equal(theirs, SimpleITK.GetArrayFromImage(mask))
        one, other = (nibabel.load(path) for path in (files[0], file.path))
        assert np.array_equal(one.affine, other.affine)
        assert np.array_equal(theirs.transpose(2, 1, 0), np.asarray(other.dataobj))


def test_it_says_what_its_labels_are_called_and_how_likely_they_are(kit: Kit) -> None:
    scans = kit.decoded(next(iter(kit.cases().values())))
    quiet = kit.predicted(scans)
    asked = kit.predicted(scans, outputs=("mask", "probability"))
    names = ("whole", "core") if "whole" in quiet[0].labels else ("shell", "core")
    assert {names} == {frame.labels for frame in quiet}
    for one, other in zip(quiet, asked, strict=True):
        assert np.array_equal(one.mask if one.mask is not None else (), other.mask)
        assert one.probability is None
        assert other.probability is not None
        assert 0 <= float(other.probability.min()) <= float(other.probability.max()) <= 1


def test_its_golden_answer_is_remembered_and_compared(kit: Kit, tmp_path: Path) -> None:
    checks.golden(kit.segmenter, tmp_path)
    [remembered] = tmp_path.glob("golden-*.npy")
    checks.golden(kit.segmenter, tmp_path)
    np.save(remembered, 1 - np.load(remembered))
    with pytest.raises(Exception, match="is not the one it gave at first"):
        checks.golden(kit.segmenter, tmp_path)


def test_it_keeps_the_promises_of_a_segmenter(kit: Kit) -> None:
    class Contract(SegmenterContract):
        def create(self) -> Segmenter:
            return segmenters.create(Model(segmenter="nnunet", path=kit.model))

    Contract.run(lambda: segmenters.create(Model(segmenter="nnunet", path=kit.model)))


def test_an_error_inside_leaves_a_thread_and_asks_for_another_process(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What watcherd restarts for: where this fails nnunetv2 has mended it."""
    engine = kit.segmenter._predictor
    scans = kit.decoded(next(iter(kit.cases().values())))
    kit.predicted(scans)
    assert "" == kit.segmenter.worn()
    calls: list[int] = []
    whole = engine._predictor._internal_maybe_mirror_and_predict

    def broken(tile: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("CUDA out of memory (asked for by a test)")
        return whole(tile)

    monkeypatch.setattr(engine._predictor, "_internal_maybe_mirror_and_predict", broken)
    monkeypatch.setattr(engine._predictor, "perform_everything_on_device", True)
    kit.predicted(scans)
    assert len(calls) > 1
    assert "left there" in kit.segmenter.worn()


def test_a_scan_that_is_not_a_number_somewhere_is_refused(kit: Kit) -> None:
    volume = kit.segmenter.probe_volume()
    first = np.array(volume.channels[0], np.float32)
    first[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="1 of the scan's values are no finite numbers"):
        kit.segmenter.predict_volume(replace(volume, channels=(first, *volume.channels[1:])), lambda *_: None)


def test_weights_of_another_network_are_refused(kit: Kit, tmp_path: Path) -> None:
    import json

    shutil.copytree(kit.model, tmp_path / "model")
    plans = json.loads((tmp_path / "model/plans.json").read_text())
    for chosen in plans["configurations"].values():
        chosen.get("architecture", {}).get("arch_kwargs", {})["features_per_stage"] = [6, 8, 8]
    (tmp_path / "model/plans.json").write_text(json.dumps(plans))
    made = segmenters.create(Model(segmenter="nnunet", path=tmp_path / "model"))
    with pytest.raises(Exception, match="are not those of the network in plans"):
        made.load(Placement(), lambda *_: None)


def test_folds_are_chosen_by_their_numbers(kit: Kit) -> None:
    """One of two gives other masks, and another revision."""
    if len(kit.folds) < 2:
        pytest.skip("the model has one fold")
    one = segmenters.create(Model(segmenter="nnunet", path=kit.model, nnunet=Nnunet(folds=(1,))))
    one.load(Placement(), lambda *_: None)
    assert one.info().revision != kit.segmenter.info().revision
    volume: Volume = kit.segmenter.probe_volume()
    asking = replace(volume, options=Options(outputs=("probability",)))
    both, single = (each.predict_volume(asking, lambda *_: None) for each in (kit.segmenter, one))
    assert not np.array_equal(both.probability, single.probability)


def test_the_trainers_that_are_known_are_those_that_it_ships() -> None:
    """Without those that build a network of their own."""
    import pkgutil
    import warnings

    import nnunetv2.training
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from watcherd.inference.segmenters.nnunet.trainers import KNOWN

    found = {"nnUNetTrainer"}
    for module in pkgutil.walk_packages(nnunetv2.training.__path__, "nnunetv2.training."):
        if ".nnUNetTrainer" not in module.name:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                loaded = importlib.import_module(module.name)
            except (ImportError, RuntimeError):  # Primus, where torchvision does not fit
                continue
        for value in vars(loaded).values():
            if isinstance(value, type) and issubclass(value, nnUNetTrainer):
                own = value.build_network_architecture is not nnUNetTrainer.build_network_architecture
                found |= set() if own else {value.__name__}
    assert found <= KNOWN
    assert not any(name in KNOWN for name in ("nnUNetTrainerBN", "nnUNet_Primus_S_Trainer", "AbstractPrimus"))


def test_frames_on_disk_are_the_pictures_of_the_volume(kit: Kit) -> None:
    scans = kit.decoded(next(iter(kit.cases().values())))
    assert len(FrameFile(scans[0].path)) == scans[0].frames
