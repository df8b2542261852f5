"""The default model: what it finds out by itself, what it keeps to, what it refuses."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from training.synth import make
from watcherd.config import Model
from watcherd.errors import InputError, UnavailableError
from watcherd.inference.base import Frame, Placement
from watcherd.inference.segmenters.vessel import create, picture
from watcherd.inference.segmenters.vessel.network import CHANNELS, build, inputs
from watcherd.inference.segmenters.vessel.recipe import CONFIG, WEIGHTS, Recipe
from watcherd.inference.segmenters.vessel.segmenter import PACKAGED, VesselSegmenter, cleaned
from watcherd.job import Options
from watcherd.testing import SegmenterContract


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


def frame(pixels: np.ndarray, **options: object) -> Frame:
    return Frame(pixels=pixels, options=Options(**options))  # type: ignore[arg-type]


def resized(pixels: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def photograph(side: int = 200) -> np.ndarray:
    """An orange disc on black."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    disc = (x**2 + y**2 < 0.45**2).astype(np.uint8)
    return np.stack([200 * disc, 100 * disc, 40 * disc], axis=2)


@pytest.fixture(scope="module")
def segmenter() -> VesselSegmenter:
    loaded = VesselSegmenter(PACKAGED)
    loaded.load(Placement(), lambda _stage, _done: None)
    return loaded


def mask_of(segmenter: VesselSegmenter, pixels: np.ndarray, **options: object) -> np.ndarray:
    [prediction] = segmenter.predict([frame(pixels, **options)])
    assert prediction.mask is not None
    return prediction.mask > 0


class TestContract(SegmenterContract):
    """The packaged model keeps every promise of a segmenter."""

    def create(self) -> VesselSegmenter:
        made = create(Model(segmenter="vessel"))
        assert isinstance(made, VesselSegmenter)
        return made


def test_the_package_holds_the_weights_and_the_card_names_their_hash() -> None:
    weights = (PACKAGED / WEIGHTS).read_bytes()
    assert len(weights) < 10_000_000
    assert hashlib.sha256(weights).hexdigest() in (PACKAGED / "README.md").read_text()


def test_it_finds_the_vessels_of_an_angiogram_it_never_saw(segmenter: VesselSegmenter) -> None:
    scene = make("xray", 2_000_001, size=300, style="plain")
    # Real readers, whom the model follows, leave out thin branches that the made-up truth has.
    assert dice(mask_of(segmenter, scene.image), scene.mask) > 0.78


def test_the_golden_picture_gives_its_mask(segmenter: VesselSegmenter) -> None:
    golden = segmenter.golden()
    assert golden is not None
    [prediction] = segmenter.predict([golden.frame])
    assert prediction.mask is not None
    assert dice(prediction.mask > 0, golden.mask > 0) >= golden.min_dice


def test_the_number_of_pixels_does_not_matter(segmenter: VesselSegmenter) -> None:
    """300 and 1500 pixels a side of the same picture give the same vessels."""
    scene = make("xray", 2_000_001, size=300, style="plain")
    small, large = mask_of(segmenter, scene.image), mask_of(segmenter, resized(scene.image, 1500))
    assert dice(small, resized(large.astype(np.uint8) * 255, 300) > 127) > 0.93


def test_bright_vessels_are_found_by_turning_the_picture_over(segmenter: VesselSegmenter) -> None:
    scene = make("xray", 2_000_001, size=300, style="plain")
    [prediction] = segmenter.predict([frame(255 - scene.image)])
    assert prediction.mask is not None
    assert dice(prediction.mask > 0, mask_of(segmenter, scene.image)) > 0.9
    assert "brighter" in str(prediction.note)


def test_a_batch_gives_what_its_frames_give_alone(segmenter: VesselSegmenter) -> None:
    frames = [frame(make("xray", seed, size=128, style="plain").image) for seed in (2_000_001, 2_000_002)]
    alone = [segmenter.predict([each])[0].probability for each in frames]
    for one, together in zip(alone, segmenter.predict(frames), strict=True):
        np.testing.assert_allclose(together.probability, one, atol=1e-4)


def test_a_users_threshold_has_its_effect(segmenter: VesselSegmenter) -> None:
    pixels = make("xray", 2_000_002, size=200, style="plain").image
    sure, careful, generous = (mask_of(segmenter, pixels, threshold=t) for t in (0.9, 0.5, 0.1))
    assert sure.sum() < careful.sum() < generous.sum()
    assert not (sure & ~generous).any()


def test_nothing_is_found_outside_the_field(segmenter: VesselSegmenter) -> None:
    scene = make("xray", 2_000_003, size=300, style="border")
    [prediction] = segmenter.predict([frame(scene.image)])
    assert prediction.mask is not None
    shut = ~np.asarray(Image.fromarray(picture.field_of(scene.image, "xray")).resize((300, 300)))
    assert 0 == prediction.mask[shut].sum()


def test_a_long_picture_goes_through_in_windows(segmenter: VesselSegmenter) -> None:
    """Windows that overlap answer as the whole does."""
    pixels = make("xray", 2_000_001, size=300, style="plain").image
    windowed = VesselSegmenter(PACKAGED)
    windowed._recipe = replace(windowed._recipe, window=160, overlap=0.5)
    windowed.load(Placement(), lambda _stage, _done: None)
    assert dice(mask_of(windowed, pixels), mask_of(segmenter, pixels)) > 0.8


def test_flips_are_averaged_when_asked(segmenter: VesselSegmenter) -> None:
    pixels = make("xray", 2_000_001, size=128, style="plain").image
    [plain], [flipped] = segmenter.predict([frame(pixels)]), segmenter.predict([frame(pixels[:, ::-1], tta=True)])
    [mirrored] = segmenter.predict([frame(pixels, tta=True)])
    assert plain.probability is not None
    assert flipped.probability is not None
    assert mirrored.probability is not None
    np.testing.assert_allclose(flipped.probability[:, ::-1], mirrored.probability, atol=1e-3)
    assert not np.allclose(plain.probability, mirrored.probability, atol=1e-3)


def test_a_colour_photograph_is_a_fundus_and_a_grey_frame_an_xray() -> None:
    grey = np.random.default_rng(0).integers(0, 255, (90, 90), np.uint8)
    assert picture.kind_of(photograph()) == "fundus"
    assert picture.kind_of(grey) == "xray"
    assert picture.kind_of(np.stack([grey, grey, grey + (grey < 250) * np.uint8(3)], axis=2)) == "xray"


def test_a_profile_can_say_the_kind(segmenter: VesselSegmenter) -> None:
    [found], [told] = segmenter.predict([frame(photograph())]), segmenter.predict([frame(photograph(), kind="xray")])
    assert "taken as fundus, found out by itself" == found.note
    assert "taken as xray, as its profile says" == told.note


@pytest.mark.parametrize(
    ("modality", "said"),
    [
        ("XA", "taken as xray, as its file says"),
        ("OP", "taken as fundus, as its file says"),
        ("DX", "taken as xray, as its file says; the model was not made for pictures of the modality DX"),
        ("US", "taken as fundus, found out by itself; the model was not made for pictures of the modality US"),
        ("SMITH", "; the model was not made for pictures of the modality that its file names"),
        ("OT", "taken as fundus, found out by itself"),
    ],
)
def test_a_file_can_say_the_kind(segmenter: VesselSegmenter, modality: str, said: str) -> None:
    """And the note says where the model was not made for it; what is no word of the standard is not repeated."""
    [found] = segmenter.predict([replace(frame(photograph()), modality=modality)])
    assert str(found.note).endswith(said)
    assert "SMITH" not in str(found.note)


def test_a_profile_overrules_what_a_file_says(segmenter: VesselSegmenter) -> None:
    [found] = segmenter.predict([replace(frame(photograph(), kind="xray"), modality="OP")])
    assert "taken as xray, as its profile says" == found.note


def test_a_photographs_field_is_its_disc() -> None:
    pixels = photograph()
    field = picture.field_of(pixels, "fundus")
    assert dice(field, pixels[..., 0] > 0) > 0.98


def test_a_frame_without_borders_is_all_field() -> None:
    pixels = np.random.default_rng(0).integers(60, 200, (300, 200), np.uint8)
    assert picture.field_of(pixels, "xray").all()


def test_black_and_white_surrounds_are_not_field() -> None:
    for shut in (0, 255):
        pixels = np.full((240, 240), shut, np.uint8)
        pixels[40:200, 40:200] = np.random.default_rng(0).integers(60, 180, (160, 160))
        truth = np.zeros((240, 240), bool)
        truth[40:200, 40:200] = True
        assert dice(picture.field_of(pixels, "xray"), truth) > 0.95


def test_small_parts_and_what_is_outside_are_dropped() -> None:
    mask = np.zeros((100, 100), bool)
    mask[10:12, 10:60] = True
    mask[50, 50] = True
    mask[90:95, 10:60] = True
    field = np.ones((100, 100), bool)
    field[80:] = False
    kept = cleaned(mask, field, smallest=0.001)
    assert 100 == kept.sum()
    assert kept[10:12, 10:60].all()


def test_brightness_and_contrast_do_not_matter_to_the_network() -> None:
    grey = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    field, kind = torch.ones_like(grey), torch.ones(1)
    given = inputs(grey, field, kind)
    assert (1, CHANNELS, 64, 64) == tuple(given.shape)
    torch.testing.assert_close(inputs(0.3 * grey + 0.2, field, kind), given, atol=1e-3, rtol=1e-3)


def test_what_is_outside_the_field_does_not_reach_the_network() -> None:
    grey, field = torch.rand(1, 1, 64, 64), torch.zeros(1, 1, 64, 64)
    field[..., 8:56, 8:56] = 1
    painted = torch.where(field > 0, grey, 0.9)
    torch.testing.assert_close(inputs(painted, field, torch.ones(1)), inputs(grey * field, field, torch.ones(1)))


def test_a_users_folder_of_the_same_format_is_loaded(tmp_path: Path, segmenter: VesselSegmenter) -> None:
    for name in (CONFIG, WEIGHTS):
        shutil.copy(PACKAGED / name, tmp_path / name)
    own = create(Model(segmenter="vessel", path=tmp_path))
    assert str(tmp_path) == own.info().model
    assert segmenter.info().revision == own.info().revision
    assert own.golden() is None


def test_a_changed_configuration_is_another_revision(tmp_path: Path, segmenter: VesselSegmenter) -> None:
    shutil.copy(PACKAGED / WEIGHTS, tmp_path / WEIGHTS)
    values = json.loads((PACKAGED / CONFIG).read_text())
    values["kinds"]["xray"]["shift"] += 0.1
    (tmp_path / CONFIG).write_text(json.dumps(values))
    assert VesselSegmenter(tmp_path).info().revision != segmenter.info().revision


def test_a_folder_without_weights_is_refused_with_what_to_do(tmp_path: Path) -> None:
    shutil.copy(PACKAGED / CONFIG, tmp_path / CONFIG)
    with pytest.raises(UnavailableError, match=r"has no model\.safetensors"):
        create(Model(segmenter="vessel", path=tmp_path))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("format", 9, "format 9"),
        ("architecture", "SegResNet", "Compact"),
        ("kinds", {}, "fundus"),
        ("members", 0, "members"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(tmp_path: Path, key: str, value: object, said: str) -> None:
    values = json.loads((PACKAGED / CONFIG).read_text()) | {key: value}
    (tmp_path / CONFIG).write_text(json.dumps(values))
    (tmp_path / WEIGHTS).touch()
    with pytest.raises(UnavailableError, match=said):
        Recipe.read(tmp_path)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    shutil.copy(PACKAGED / WEIGHTS, tmp_path / WEIGHTS)
    values = json.loads((PACKAGED / CONFIG).read_text())
    values["network"]["widths"][0] = 8
    (tmp_path / CONFIG).write_text(json.dumps(values))
    with pytest.raises(UnavailableError, match="do not fit"):
        VesselSegmenter(tmp_path).load(Placement(), lambda _stage, _done: None)


def test_a_network_that_cannot_be_is_refused_by_name(tmp_path: Path) -> None:
    shutil.copy(PACKAGED / WEIGHTS, tmp_path / WEIGHTS)
    values = json.loads((PACKAGED / CONFIG).read_text())
    values["network"]["init_filters"] = 8
    (tmp_path / CONFIG).write_text(json.dumps(values))
    with pytest.raises(UnavailableError, match="init_filters"):
        VesselSegmenter(tmp_path).load(Placement(), lambda _stage, _done: None)


def test_a_folder_of_format_1_is_loaded(tmp_path: Path) -> None:
    """As `training/export.py` of 0.2.0 wrote it: half precision, no slope."""
    network = {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1], "norm": ["GROUP", {"num_groups": 8}]}
    [net] = build(network, members=1)
    save_file({f"0.{name}": tensor.half() for name, tensor in net.state_dict().items()}, tmp_path / WEIGHTS)
    manner = {"members": [0], "sides": [64, 96], "shift": 0.3, "smallest": 0.0}
    values = {"format": 1, "name": "own", "architecture": "SegResNet", "network": network, "members": 1}
    values |= {"window": 768, "overlap": 0.25, "kinds": {"fundus": manner, "xray": manner}}
    (tmp_path / CONFIG).write_text(json.dumps(values))
    own = VesselSegmenter(tmp_path)
    own.load(Placement(), lambda _stage, _done: None)
    assert (90, 90) == mask_of(own, np.random.default_rng(0).integers(0, 255, (90, 90), np.uint8)).shape


def test_bfloat16_changes_hardly_a_pixel(segmenter: VesselSegmenter) -> None:
    pixels = make("xray", 2_000_001, size=200, style="plain").image
    quick = VesselSegmenter(PACKAGED)
    quick.load(Placement(dtype="bfloat16"), lambda _stage, _done: None)
    assert "bfloat16" == quick.info().dtype
    assert dice(mask_of(quick, pixels), mask_of(segmenter, pixels)) > 0.98


def test_the_card_and_the_notice_carry_the_licence_of_the_real_angiograms() -> None:
    card = (PACKAGED / "README.md").read_text()
    assert "Copyright (c) 2016, fercer" in card
    assert "THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS" in card
    assert "fercer" in (Path(__file__).parents[2] / "NOTICE").read_text()


def test_frames_that_are_no_pictures_are_bad_input(segmenter: VesselSegmenter) -> None:
    for pixels, said in ((np.zeros((64, 64), np.float32), "8-bit"), (np.zeros((64, 8), np.uint8), "only 8 x 64")):
        with pytest.raises(InputError, match=said):
            segmenter.predict([frame(pixels)])


def test_a_blank_frame_has_no_vessels(segmenter: VesselSegmenter) -> None:
    for level in (0, 128, 255):
        assert not mask_of(segmenter, np.full((200, 200), level, np.uint8)).any()
