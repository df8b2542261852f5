"""The recipe: children apart, losses that mean what they say, exports that do not change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from training.answers import VIEWS, keep, kept, logits_of
from training.augment import CROP, Batch, Mix, Source
from training.crossval import choose, mask_of
from training.crossval import dice as dice_of_masks
from training.data import FIELD, TEST, TRAINING, VALIDATION, VESSEL, Angiogram, angiograms, label_of, training_part
from training.evaluate import Case, Judged, calibrate, dice, reliability
from training.export import configuration, write
from training.synth import make
from training.train import NETWORK, Plan, follow, loss_of, network, train
from watcherd.inference.segmenters.vessel.recipe import CONFIG, WEIGHTS, Recipe

SMALL = NETWORK | {"widths": [8, 8, 8, 8, 8]}


def source(*, colour: bool = False, is_xray: bool = True) -> Source:
    scenes = [make("xray", seed, size=64, style="plain") for seed in range(2)]
    images = torch.from_numpy(np.stack([scene.image for scene in scenes]))
    labels = torch.from_numpy(np.stack([label_of(scene, "xray") for scene in scenes]))
    images = torch.stack([images] * 3, dim=-1) if colour else images
    return Source(images=images, labels=labels, is_xray=is_xray, scale=(1.0, 4.0), share=1.0)


def mix(seed: int) -> Mix:
    sources = [source(), source(colour=True, is_xray=False)]
    return Mix(sources, batch=4, generator=torch.Generator().manual_seed(seed))


def test_no_child_is_in_two_parts() -> None:
    assert 14 == len({*TRAINING, *VALIDATION, *TEST}) == len(TRAINING) + len(VALIDATION) + len(TEST)
    assert set(range(11, 15)) == set(TEST)


def test_a_seed_fixes_the_batches() -> None:
    one, again, other = mix(1).draw(), mix(1).draw(), mix(2).draw()
    assert (4, 1, CROP, CROP) == tuple(one.target.shape)
    torch.testing.assert_close(one.inputs, again.inputs)
    assert not torch.allclose(one.inputs, other.inputs)


def test_a_perfect_answer_costs_nothing_and_ignored_pixels_do_not_count() -> None:
    batch = mix(1).draw()
    right = (batch.target * 2 - 1) * 30
    assert float(loss_of(right, batch)) == pytest.approx(0, abs=1e-3)
    wrong_where_ignored = torch.where(batch.weight > 0, right, -right)
    assert float(loss_of(wrong_where_ignored, batch)) == pytest.approx(0, abs=1e-3)
    assert float(loss_of(-right, batch)) > 1


def test_the_average_follows_the_weights() -> None:
    old, new = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    old.weight.data.fill_(0)
    new.weight.data.fill_(1)
    follow(old, new, decay=0.9)
    assert old.weight.item() == pytest.approx(0.1)


def test_training_and_export_give_the_same_bytes_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.train.NETWORK", SMALL)
    monkeypatch.setattr("training.train.SETTLING", 1)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        plan = Plan(kind="xray", use="both", seed=3, steps=2, seconds=600, batch=4, rate=1e-3, device="cpu")
        train(plan, mix(3), folder / "run.safetensors")
        write(folder, [folder / "run.safetensors"], configuration(SMALL, {"fundus": [0], "xray": [0]}))
    one, two = ((folder / WEIGHTS).read_bytes() for folder in folders)
    assert one == two
    assert torch.int8 == load_file(folders[0] / WEIGHTS)["0.stem.weight"].dtype
    assert 1 == Recipe.read(folders[0]).members
    assert (folders[0] / CONFIG).read_text() == (folders[1] / CONFIG).read_text()


def test_a_label_holds_the_field_as_inference_finds_it() -> None:
    scene = make("xray", 2_000_003, size=128, style="border")
    label = label_of(scene, "xray")
    np.testing.assert_array_equal(scene.mask, (label & VESSEL) > 0)
    found = (label & FIELD) > 0
    assert 0.9 < (found & scene.field).sum() / (found | scene.field).sum() < 1


def test_scenes_are_kept_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("training.data").data.SIDES, "xray", 48)
    part = training_part("xray", 3)
    part.write(tmp_path, workers=1)
    images, labels = part.read(tmp_path)
    assert (3, 48, 48) == images.shape == labels.shape
    np.testing.assert_array_equal(make("xray", 2, size=48).image, images[2])


def judged(probability: np.ndarray, truth: np.ndarray) -> Judged:
    case = Case(name="", kind="xray", pixels=np.zeros(truth.shape, np.uint8), mask=truth, counted=np.ones_like(truth))
    return Judged(case=case, probability=probability.astype(np.float32), mask=probability > 0.5)


def test_calibrated_values_are_frequencies() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, 20_000).astype(np.float32)
    truth = generator.random(20_000) < 1 / (1 + np.exp(-0.5 * (logits - 1)))
    slope, shift = calibrate(logits, truth)
    assert slope == pytest.approx(0.5, rel=0.1)
    assert shift == pytest.approx(1, abs=0.15)


def real_angiograms(folder: Path, count: int = 10) -> list[Angiogram]:
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for number in range(count):
        scene = make("xray", number, size=48, style="plain")
        Image.fromarray(scene.image).save(folder / "images" / f"{number:02d}.png")
        Image.fromarray(scene.mask * np.uint8(255)).save(folder / "masks" / f"{number:02d}.png")
    return angiograms(folder)


def test_blocks_are_of_neighbours_and_hold_every_frame_once(tmp_path: Path) -> None:
    frames = real_angiograms(tmp_path)
    assert [0, 0, 1, 1, 2, 2, 3, 3, 4, 4] == [frame.block for frame in frames]


def test_what_is_scored_has_no_say_in_its_operating_point(tmp_path: Path) -> None:
    """The border that is chosen is that of the other frames' answers."""
    frames = [frame for frame in real_angiograms(tmp_path) if frame.block]
    answers = {
        frame.name: np.stack([np.where(frame.mask, 1.0, 0.2).astype(np.float32)] * len(VIEWS)) for frame in frames
    }
    point = choose(frames, answers)
    assert 0.55 <= point.threshold < 0.75
    assert 1 == dice_of_masks(mask_of(frames[0], answers[frames[0].name], point), frames[0].mask)


def test_answers_are_kept_to_a_quarter_of_a_logit(tmp_path: Path) -> None:
    frames = real_angiograms(tmp_path, 5)[:1]
    [net] = [network(folded=True)]
    keep(tmp_path / "one.npz", frames, [logits_of(net, frames[0].image, device="cpu")])
    assert (len(VIEWS), 48, 48) == kept(tmp_path / "one.npz")[frames[0].name].shape


def test_dice_of_two_empty_masks_is_one() -> None:
    empty, full = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    assert 1.0 == dice(empty, empty, full)
    assert 0.0 == dice(full, empty, full)
    assert 1.0 == dice(full, empty, empty)


def test_reliability_counts_every_pixel_once() -> None:
    truth = np.tile([True, False], (10, 10))
    rows = reliability([judged(np.full((10, 20), 0.55), truth)])
    assert [{"mean": 0.55, "vessel": 0.5, "pixels": 200}] == rows


def test_batches_weigh_only_what_is_in_the_field() -> None:
    batch: Batch = mix(5).draw()
    assert {0.0, 1.0} >= set(batch.weight.unique().tolist())
    assert 0 == float((batch.target * (batch.inputs[:, 2:3] == 0)).sum())
