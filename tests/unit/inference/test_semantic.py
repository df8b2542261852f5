"""Hugging Face segmentation folders: the library's own numbers, tiled, flipped, and as label values."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from tests.unit.inference.semantic_folders import BUILDERS, NAMES, SIDE, build, save, segformer, segformer_backbone
from tests.weights_file import overwrite
from watcherd.config import Model, Semantic
from watcherd.errors import ConfigError, InputError, TransientError, UnavailableError
from watcherd.inference import checks
from watcherd.inference.base import Frame, Placeable, Placement
from watcherd.inference.segmenters import semantic
from watcherd.job import Options
from watcherd.testing import SegmenterContract

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from watcherd.inference.base import Segmenter

MEAN, STD = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.25, 0.3])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: build(kind, root / kind) for kind in BUILDERS}


def loaded(folder: Path, dtype: str = "float32", **settings: Any) -> Segmenter:
    segmenter = semantic.create(Model(segmenter="semantic", path=folder, semantic=Semantic(**settings)))
    segmenter.load(Placement(dtype=dtype), lambda *_: None)
    return segmenter


def picture(*shape: int, seed: int = 0, tta: bool = False) -> Frame:
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Frame(pixels=pixels, options=Options(tta=tta, outputs=("mask", "probability")))


def answer(segmenter: Segmenter, frame: Frame) -> NDArray[np.float32]:
    (prediction,) = segmenter.predict([frame])
    assert prediction.probability is not None
    return prediction.probability


def reference_input(pixels: NDArray[np.uint8]) -> torch.Tensor:
    scaled = (pixels / 255 - MEAN) / STD
    return torch.from_numpy(scaled.transpose(2, 0, 1)[None]).float()


@pytest.mark.parametrize("kind", BUILDERS)
def test_every_kind_of_folder_keeps_a_segmenters_promises(folders: dict[str, Path], kind: str) -> None:
    SegmenterContract.run(lambda: semantic.create(Model(segmenter="semantic", path=folders[kind])))


def test_probabilities_are_those_of_the_librarys_own_model(folders: dict[str, Path]) -> None:
    from transformers import SegformerForSemanticSegmentation

    frame = picture(SIDE, SIDE, 3)
    model = SegformerForSemanticSegmentation.from_pretrained(folders["segformer"]).eval()
    with torch.inference_mode():
        logits = model(reference_input(frame.pixels)).logits
        expected = interpolate(logits, size=(SIDE, SIDE), mode="bilinear").softmax(dim=1)[0]
    (found,) = loaded(folders["segformer"]).predict([frame])
    assert found.probability == pytest.approx(expected[1:].numpy(), abs=1e-5)
    assert found.mask is not None
    assert (found.mask == expected.argmax(dim=0).numpy()).mean() > 0.999
    assert found.labels == ("artery", "vein")


def test_masks_with_classes_become_one_map_per_class(folders: dict[str, Path]) -> None:
    """As in the library's post_process_semantic_segmentation, without the class "nothing"."""
    from transformers import Mask2FormerForUniversalSegmentation

    frame = picture(SIDE, SIDE, 3)
    model = Mask2FormerForUniversalSegmentation.from_pretrained(folders["mask2former"]).eval()
    with torch.inference_mode():
        said = model(reference_input(frame.pixels))
        classes = said.class_queries_logits.softmax(dim=-1)[..., :-1]
        masks = interpolate(said.masks_queries_logits, size=(384, 384), mode="bilinear")
        maps = torch.einsum("bqc,bqhw->bchw", classes, masks.sigmoid())
        expected = interpolate(maps, size=(SIDE, SIDE), mode="bilinear").clamp(0, 1)[0]
    found = answer(loaded(folders["mask2former"]), frame)
    assert found == pytest.approx(expected[1:].numpy(), abs=1e-5)


def test_one_class_is_cut_at_each_frames_own_threshold(folders: dict[str, Path]) -> None:
    segmenter = loaded(folders["segformer"], classes=("Vein",))
    frames = []
    for shape, share in (((SIDE, SIDE), 0.2), ((SIDE, SIDE), 0.6), ((30, 40), 0.4)):
        threshold = float(np.quantile(answer(segmenter, picture(*shape)), share))
        options = Options(threshold=threshold, outputs=("mask", "probability"))
        frames.append(replace(picture(*shape), options=options))
    for some in (frames, frames[:2], frames[:1]):
        for frame, found in zip(some, segmenter.predict(some), strict=True):
            assert found.probability is not None
            assert found.mask is not None
            assert (found.probability.ndim, found.mask.dtype, found.labels) == (2, np.uint8, ("vein",))
            assert np.array_equal(found.probability > frame.options.threshold, found.mask)
            assert 0 < found.mask.mean() < 1


@pytest.mark.parametrize("classes", [(), ("vein",)])
def test_probabilities_stay_on_the_device_unless_a_frame_asks(
    folders: dict[str, Path], classes: tuple[str, ...]
) -> None:
    segmenter = loaded(folders["segformer"], classes=classes)
    asking = picture(SIDE, SIDE)
    quiet = replace(asking, options=Options())
    (alone,), (wanted,) = segmenter.predict([quiet]), segmenter.predict([asking])
    assert alone.probability is None
    assert wanted.probability is not None
    assert np.array_equal(alone.mask, wanted.mask)


@pytest.mark.parametrize("classes", [(), ("vein",)])
def test_values_that_are_not_numbers_become_no_mask(folders: dict[str, Path], classes: tuple[str, ...]) -> None:
    segmenter = loaded(folders["segformer"], classes=classes)
    network = segmenter._network
    sound = network.probability

    def broken(scores: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        maps = sound(scores, size)
        maps[-1, -1, 3, 5] = torch.nan
        return maps

    network.probability = broken
    with pytest.raises(TransientError, match="not numbers"):
        segmenter.predict([replace(picture(SIDE, SIDE), options=Options()) for _ in range(2)])


def test_classes_become_label_values_in_the_configured_order(folders: dict[str, Path]) -> None:
    frame = picture(SIDE, SIDE)
    (usual,) = loaded(folders["segformer"]).predict([frame])
    (turned,) = loaded(folders["segformer"], classes=("vein", "artery")).predict([frame])
    assert turned.labels == ("vein", "artery")
    assert usual.mask is not None
    assert turned.mask is not None
    assert np.array_equal(np.array([0, 2, 1], np.uint8)[usual.mask], turned.mask)


def test_a_larger_scan_is_seen_window_by_window_at_its_own_scale(folders: dict[str, Path]) -> None:
    """Without overlap each window's answer is what the window would give as a scan."""
    segmenter = loaded(folders["segformer"], overlap=0.0)
    frame = picture(SIDE, 2 * SIDE)
    left, right = (Frame(pixels=half, options=frame.options) for half in np.hsplit(frame.pixels, 2))
    expected = np.concatenate([answer(segmenter, left), answer(segmenter, right)], axis=-1)
    assert answer(segmenter, frame) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("outputs", [("mask",), ("mask", "probability")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(100, 150), (260, 270)])
def test_tiles_are_blended_in_full_precision_whatever_the_model_runs_in(
    folders: dict[str, Path], shape: tuple[int, int], dtype: str, outputs: tuple[str, ...]
) -> None:
    """Sums of more than 65,504 pixels, too, which float16 does not hold."""
    frame = replace(picture(*shape), options=Options(outputs=outputs))
    exact = answer(loaded(folders["segformer"]), picture(*shape))
    (found,) = loaded(folders["segformer"], dtype).predict([frame])
    assert found.mask is not None
    assert found.mask.shape == shape
    if "probability" not in outputs:
        assert found.probability is None
        return
    assert found.probability is not None
    assert found.probability.dtype == np.float32
    assert np.abs(found.probability - exact).max() < {"float32": 1e-6, "bfloat16": 0.02, "float16": 0.002}[dtype]
    # Background is what is left; where the likeliest class leads clearly, rounding cannot change it.
    chances = np.concatenate([1 - exact.sum(axis=0, keepdims=True), exact])
    lead = np.diff(np.sort(chances, axis=0)[-2:], axis=0)[0]
    assert (found.mask == chances.argmax(axis=0))[lead > 0.04].all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_window_below_the_test_pictures_starts_in_half_precision(
    folders: dict[str, Path], dtype: str, tmp_path: Path
) -> None:
    assert checks.SIDE > SIDE
    checks.golden(loaded(folders["segformer"], dtype), tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_windows_that_overlap_are_blended(folders: dict[str, Path]) -> None:
    frame = picture(100, 150)
    apart = answer(loaded(folders["segformer"], overlap=0.0), frame)
    blended = answer(loaded(folders["segformer"], overlap=0.5), frame)
    assert apart.shape == blended.shape == (2, 100, 150)
    assert not np.allclose(apart, blended, atol=1e-6)


def test_the_window_can_be_set(folders: dict[str, Path]) -> None:
    segmenter = loaded(folders["segformer"], window=32)
    assert segmenter.batch_key(picture(32, 32)) != segmenter.batch_key(picture(33, 32))
    assert answer(segmenter, picture(40, 70)).shape == (2, 40, 70)


def test_a_larger_scan_is_shrunk_where_that_is_asked_for(folders: dict[str, Path]) -> None:
    segmenter = loaded(folders["segformer"], larger="shrink")
    assert segmenter.batch_key(picture(3 * SIDE, 2 * SIDE)) == segmenter.batch_key(picture(SIDE, SIDE))
    assert answer(segmenter, picture(3 * SIDE, 2 * SIDE)).shape == (2, 3 * SIDE, 2 * SIDE)


@pytest.mark.parametrize("shape", [(SIDE, SIDE), (SIDE, 2 * SIDE)])
def test_flips_are_averaged(folders: dict[str, Path], shape: tuple[int, int]) -> None:
    segmenter = loaded(folders["segformer"], overlap=0.0)
    frame = picture(*shape)
    views = []
    for axes in ((), (0,), (1,), (0, 1)):
        mirrored = Frame(pixels=np.ascontiguousarray(np.flip(frame.pixels, axes)), options=frame.options)
        views.append(np.flip(answer(segmenter, mirrored), [axis + 1 for axis in axes]))
    flipped = answer(segmenter, picture(*shape, tta=True))
    assert flipped == pytest.approx(np.mean(views, axis=0), abs=1e-5)
    assert segmenter.batch_key(frame) != segmenter.batch_key(picture(*shape, tta=True))


def test_grey_and_colour_frames_of_different_sizes_share_a_batch(folders: dict[str, Path]) -> None:
    segmenter = loaded(folders["segformer"])
    frames = [picture(30, 40), picture(64, 20, 3), picture(30, 40, seed=1)]
    assert len({segmenter.batch_key(frame) for frame in frames}) == 1
    for frame, prediction in zip(frames, segmenter.predict(frames), strict=True):
        assert prediction.probability == pytest.approx(answer(segmenter, frame), abs=1e-5)


def test_pictures_are_scaled_by_their_shorter_side_where_the_processor_says_so(tmp_path: Path) -> None:
    folder = build("mask2former", tmp_path / "m", size={"shortest_edge": SIDE, "longest_edge": 96})
    segmenter = loaded(folder)
    assert segmenter.batch_key(picture(32, 32)) == segmenter.batch_key(picture(64, 64))
    assert segmenter.batch_key(picture(32, 64)) != segmenter.batch_key(picture(64, 64))
    assert answer(segmenter, picture(32, 64)).shape == (2, 32, 64)


def test_pixels_that_are_neither_grey_nor_rgb_are_bad_input(folders: dict[str, Path]) -> None:
    segmenter = loaded(folders["segformer"])
    for pixels in (np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8), np.uint16)):
        with pytest.raises(InputError):
            segmenter.predict([Frame(pixels=pixels, options=Options())])  # type: ignore[arg-type]


def test_the_revision_follows_settings_that_change_masks(folders: dict[str, Path]) -> None:
    def revision(**settings: Any) -> str:
        return (
            semantic.create(Model(segmenter="semantic", path=folders["segformer"], semantic=Semantic(**settings)))
            .info()
            .revision
        )

    assert revision() == revision()
    assert len({revision(), revision(classes=("vein",)), revision(window=32), revision(overlap=0.5)}) == 4


def test_the_skeleton_needs_only_config_json(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folders["upernet"] / name).read_bytes())
    segmenter = semantic.create(Model(segmenter="semantic", path=tmp_path))
    assert isinstance(segmenter, Placeable)
    assert all(parameter.is_meta for parameter in segmenter.skeleton().parameters())
    assert segmenter.no_split() == ("SwinStage",)


# What is refused


def test_a_backbone_without_its_trained_head_is_refused_by_name(tmp_path: Path) -> None:
    """transformers would fill the head with random numbers, and it would "work"."""
    folder = save(segformer_backbone(), tmp_path / "backbone")
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["SegformerForSemanticSegmentation"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnavailableError, match=r"decode_head\.") as caught:
        loaded(folder)
    assert "missing" in caught.value.message


def test_a_garbage_buffer_after_loading_is_caught(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForSemanticSegmentation as Auto

    original = Auto.from_pretrained

    def spoiled(*arguments: Any, **options: Any) -> Any:
        model, report = original(*arguments, **options)
        model.backbone.register_buffer("table", torch.full((3,), 1e30), persistent=False)
        return model, report

    def skeleton(config: Any) -> Any:
        model = original_build(config)
        model.backbone.register_buffer("table", torch.arange(3.0), persistent=False)
        return model

    original_build = Auto.from_config
    monkeypatch.setattr(Auto, "from_pretrained", spoiled)
    monkeypatch.setattr(Auto, "from_config", skeleton)
    with pytest.raises(UnavailableError, match=r"backbone\.table has other values"):
        loaded(folders["upernet"])


def test_a_truncated_weights_file_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    for path in folders["segformer"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UnavailableError, match=r"model\.safetensors is cut short: \d+ of \d+ bytes"):
        loaded(tmp_path)


def test_a_folder_without_the_processors_settings_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folders["segformer"] / "config.json").read_bytes())
    with pytest.raises(ConfigError, match="preprocessor_config"):
        semantic.create(Model(segmenter="semantic", path=tmp_path))


def test_a_folder_that_is_no_segmentation_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match="bert"):
        semantic.create(Model(segmenter="semantic", path=tmp_path))
    with pytest.raises(ConfigError, match=r"model\.path is empty"):
        semantic.create(Model(segmenter="semantic"))


def test_class_names_that_the_model_does_not_have_are_refused_with_those_that_it_has(
    folders: dict[str, Path],
) -> None:
    with pytest.raises(ConfigError, match="'artery'"):
        loaded(folders["segformer"], classes=("aorta",))
    with pytest.raises(ConfigError, match="leaves none"):
        loaded(folders["segformer"], background=NAMES)


@pytest.mark.parametrize("numbers", [(0, 1, 3), (1, 2, 3), (-1, 0, 1)])
def test_classes_with_a_gap_in_their_numbers_are_refused_at_the_start(
    folders: dict[str, Path], tmp_path: Path, numbers: tuple[int, ...]
) -> None:
    """transformers builds as many outputs as there are names, so the last of these has none."""
    for path in folders["segformer"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"] = dict(zip(map(str, numbers), NAMES, strict=True))
    config["label2id"] = dict(zip(NAMES, numbers, strict=True))
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=f"id2label.* {', '.join(map(str, numbers))}; they must be 0 to 2"):
        semantic.create(Model(segmenter="semantic", path=tmp_path))


def test_a_name_that_two_classes_have_is_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    folder = save(segformer(("background", "vessel", "Vessel")), tmp_path / "twice")
    assert loaded(folder).predict([picture(SIDE, SIDE)])[0].labels == ("vessel", "Vessel")
    with pytest.raises(ConfigError, match=r"'vessel', which 2 of the model's classes are called: \[1, 2\]"):
        loaded(folder, classes=("vessel",))


def test_class_0_of_unnamed_classes_is_the_background(tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = save(segformer(("LABEL_0", "LABEL_1")), tmp_path / "unnamed")
    (found,) = loaded(folder).predict([picture(SIDE, SIDE)])
    assert found.labels == ("LABEL_1",)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["segformer", "mask2former"])
def test_weights_overwritten_under_a_running_model_change_nothing(tmp_path: Path, kind: str, dtype: str) -> None:
    """In place, as cp does it: masks before and after are equal, and the next start has another revision."""
    folder = build(kind, tmp_path / kind)
    segmenter = semantic.create(Model(segmenter="semantic", path=folder))
    segmenter.load(Placement(dtype=dtype), lambda *_: None)
    revision, before = segmenter.info().revision, answer(segmenter, picture(SIDE, SIDE))
    overwrite(folder / "model.safetensors")
    assert np.array_equal(before, answer(segmenter, picture(SIDE, SIDE)))
    assert revision != semantic.create(Model(segmenter="semantic", path=folder)).info().revision
