"""Folders as transformers saves them, against transformers' own processors: the same labels, or refused by name.

The processors are those that compute with Pillow; transformers' others need torchvision, which is not installed.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from tests.unit.inference import semantic_folders
from tests.unit.inference.semantic_folders import BUILDERS, OTHERS, SIDE, build, lively
from watcherd.config import Model, Semantic
from watcherd.errors import ConfigError
from watcherd.inference.base import Frame, Placement
from watcherd.inference.segmenters import semantic
from watcherd.inference.segmenters.semantic.scaling import ShorterSide, starts
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from watcherd.inference.base import Segmenter

SHAPES = ((SIDE, SIDE), (40, 56), (96, 64), (50, 130), (151, 90))
"""(height, width): as the model sees it, smaller, and larger, both ways."""
ALIKE = 0.01
"""Share of pixels whose labels may differ: Pillow and torch round the last digit of a scaled picture differently."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A model and its processor's settings. ``refused``: what the refusal names, where there is one.
    ``spread``: standard deviation of the weights, times what keeps a layer's values as large as they come."""

    kind: str
    processor: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    spread: float = 1.5


SQUARE = {"size": {"height": SIDE, "width": SIDE}}
EDGES = {"size": {"shortest_edge": SIDE, "longest_edge": 2 * SIDE}}
TABLE = {
    "segformer": Case(kind="segformer", processor="Segformer", settings=SQUARE),
    "segformer, bicubic": Case(kind="segformer", processor="Segformer", settings=SQUARE | {"resample": 3}),
    "segformer, not rescaled": Case(
        kind="segformer", processor="Segformer", settings=SQUARE | {"do_rescale": False, "image_mean": [120.0] * 3}
    ),
    "segformer, cropped to what it is": Case(
        kind="segformer",
        processor="Segformer",
        settings=SQUARE | {"do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}},
    ),
    "upernet": Case(kind="upernet", processor="Segformer", settings=SQUARE),
    "beit": Case(kind="beit", processor="Beit", settings=SQUARE),
    "beit, cropped": Case(
        kind="beit",
        processor="Beit",
        settings={"size": {"height": 80, "width": 80}, "do_center_crop": True, "crop_size": SIDE},
        refused=("do_center_crop", "crop_size", "80"),
    ),
    "dpt": Case(kind="dpt", processor="DPT", settings=SQUARE),
    "dpt, multiples": Case(
        kind="dpt", processor="DPT", settings={"size": {"height": 60, "width": 60}, "ensure_multiple_of": 16}
    ),
    "dpt, keeping shapes": Case(
        kind="dpt", processor="DPT", settings=SQUARE | {"keep_aspect_ratio": True}, refused=("keep_aspect_ratio",)
    ),
    "dpt, padded": Case(
        kind="dpt", processor="DPT", settings=SQUARE | {"do_pad": True, "size_divisor": 16}, refused=("do_pad",)
    ),
    "mask2former": Case(kind="mask2former", processor="Mask2Former", settings=SQUARE),
    "mask2former, shortest edge": Case(kind="mask2former", processor="Mask2Former", settings=EDGES),
    "mask2former, padded": Case(
        kind="mask2former",
        processor="Mask2Former",
        settings=EDGES | {"pad_size": {"height": 128, "width": 128}},
        refused=("pad_size",),
    ),
    "maskformer": Case(kind="maskformer", processor="MaskFormer", settings=SQUARE),
    "maskformer, shortest edge": Case(kind="maskformer", processor="MaskFormer", settings=EDGES),
    "oneformer": Case(kind="oneformer", processor="OneFormer", settings=SQUARE),
    "oneformer, shortest edge": Case(kind="oneformer", processor="OneFormer", settings=EDGES, spread=1.0),
    "eomt, split": Case(
        kind="eomt", processor="Eomt", settings={"size": {"shortest_edge": SIDE}, "do_split_image": True}
    ),
    "eomt, padded": Case(
        kind="eomt",
        processor="Eomt",
        settings={"size": {"shortest_edge": SIDE, "longest_edge": SIDE}, "do_pad": True},
    ),
    "eomt, neither": Case(
        kind="eomt",
        processor="Eomt",
        settings={"size": {"shortest_edge": SIDE, "longest_edge": SIDE}},
        refused=("do_split_image", "do_pad", "squares"),
    ),
    "mobilevit": Case(
        kind="mobilevit",
        processor="MobileViT",
        settings={"size": {"shortest_edge": 68}, "crop_size": {"height": SIDE, "width": SIDE}},
        refused=("do_center_crop", "crop_size", "68"),
    ),
    "mobilevit, whole": Case(
        kind="mobilevit", processor="MobileViT", settings={"size": {"shortest_edge": SIDE}, "do_center_crop": False}
    ),
    "mobilevit, square": Case(kind="mobilevit", processor="MobileViT", settings=SQUARE | {"crop_size": SIDE}),
    "mobilevit, not turned round": Case(
        kind="mobilevit",
        processor="MobileViT",
        settings=SQUARE | {"do_center_crop": False, "do_flip_channel_order": False},
    ),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def save(case: Case, folder: Path) -> Any:
    """A folder as transformers saves it; gives the processor that it loads from there."""
    transformers.utils.logging.disable_progress_bar()
    lively(case.kind, case.spread).save_pretrained(folder)
    processor = getattr(transformers, f"{case.processor}ImageProcessorPil")
    processor(**case.settings).save_pretrained(folder)
    if case.kind == "oneformer":
        semantic_folders.words(folder)
    return processor.from_pretrained(folder)


def pictures() -> list[NDArray[np.uint8]]:
    """Ten, of five shapes: blotches in colour, as no filter of a scan can be told from another on noise."""
    made = []
    for number, (height, width) in enumerate(SHAPES * 2):
        coarse = torch.from_numpy(np.random.default_rng(number).integers(0, 256, (1, 3, 7, 9)).astype(np.float32))
        smooth = interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 255)
        made.append(smooth[0].permute(1, 2, 0).round().numpy().astype(np.uint8))
    return made


def theirs(case: Case, folder: Path, processor: Any, picture: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The label of each pixel, by transformers alone."""
    auto = getattr(transformers, json.loads((folder / "config.json").read_text())["architectures"][0])
    model = auto.from_pretrained(folder).eval()
    inputs = {}
    if case.kind == "oneformer":
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        said = tokenizer(
            ["the task is semantic"], padding="max_length", max_length=16, truncation=True, return_tensors="pt"
        )
        inputs = {"task_inputs": said["input_ids"] * said["attention_mask"]}
    made = processor(picture, return_tensors="pt")
    with torch.inference_mode():
        answer = model(pixel_values=made["pixel_values"], **inputs)
        if case.kind == "eomt":
            answer.patch_offsets = made["patch_offsets"]
        if processor.to_dict().get("do_pad"):
            return unpadded(processor, answer, picture.shape[:2])
        (found,) = processor.post_process_semantic_segmentation(answer, target_sizes=[picture.shape[:2]])
    return np.asarray(found)


def unpadded(processor: Any, answer: Any, size: tuple[int, int]) -> NDArray[np.int64]:
    """As the processor's other post-processing does; that for semantic segmentation stretches the padding over the
    picture, so that its labels lie where nothing was seen."""
    masks = interpolate(answer.masks_queries_logits, size=(SIDE, SIDE), mode="bilinear")
    classes = answer.class_queries_logits.softmax(dim=-1)[..., :-1]
    (found,) = processor.unpad_image(
        torch.einsum("bqc,bqhw->bchw", classes, masks.sigmoid()), [size], dict(processor.size)
    )
    return np.asarray(found.argmax(dim=0))


def loaded(folder: Path, **settings: Any) -> Segmenter:
    segmenter = semantic.create(Model(segmenter="semantic", path=folder, semantic=Semantic(**settings)))
    segmenter.load(Placement(), lambda *_: None)
    return segmenter


@pytest.mark.parametrize("name", TABLE)
def test_labels_are_those_of_transformers_own_processor_or_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    case = TABLE[name]
    processor = save(case, tmp_path)
    if case.refused:
        with pytest.raises(ConfigError) as caught:
            semantic.create(Model(segmenter="semantic", path=tmp_path))
        for word in case.refused:
            assert word in caught.value.message
        return
    segmenter = loaded(tmp_path, larger="shrink")
    several = 0
    for picture in pictures():
        expected = theirs(case, tmp_path, processor, picture)
        (found,) = segmenter.predict([Frame(pixels=picture, options=Options())])
        assert found.mask is not None
        assert (found.mask != expected).mean() <= ALIKE, picture.shape
        several += len(np.unique(expected)) > 1
    assert several >= 4, "a model that has one label for everything proves nothing"


# What else the processor's settings come to


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(16, 800), st.integers(0, 1600) | st.none())
def test_sizes_that_keep_the_shape_are_transformers_own(height: int, width: int, side: int, more: int | None) -> None:
    from transformers.image_transforms import get_size_with_aspect_ratio

    longest = None if more is None else side + more
    expected = get_size_with_aspect_ratio((height, width), side, longest)
    assert tuple(max(1, pixels) for pixels in expected) == ShorterSide(side=side, longest=longest).of(height, width)


@given(st.integers(1, 5000), st.integers(16, 800))
def test_pieces_cover_a_picture_to_its_last_pixel(length: int, side: int) -> None:
    length = max(length, side)
    places = starts(length, side)
    assert places[0] == 0
    assert places[-1] + side == length
    assert all(later - former <= side for former, later in itertools.pairwise(places))


def test_a_pieced_picture_is_flipped_and_batched_like_any_other(tmp_path: Path) -> None:
    case = TABLE["eomt, split"]
    save(case, tmp_path)
    segmenter = loaded(tmp_path, larger="shrink")
    asking = Options(tta=True, outputs=("mask", "probability"))
    frames = [Frame(pixels=picture, options=asking) for picture in pictures() if picture.shape[0] == 50]
    together = segmenter.predict(frames)
    for frame, found in zip(frames, together, strict=True):
        (alone,) = segmenter.predict([frame])
        assert found.probability == pytest.approx(alone.probability, abs=1e-4)
        (mirrored,) = segmenter.predict([Frame(pixels=np.ascontiguousarray(frame.pixels[:, ::-1]), options=asking)])
        assert mirrored.probability is not None
        assert np.flip(mirrored.probability, -1) == pytest.approx(alone.probability, abs=0.05)


def test_where_two_classes_pass_1_the_larger_one_is_the_label(tmp_path: Path) -> None:
    """Sums over queries are no probabilities where masks overlap; cut off at 1 they would be equal."""
    save(TABLE["eomt, padded"], tmp_path)
    segmenter = loaded(tmp_path)
    network = segmenter._network
    sums = torch.tensor([0.2, 1.5, 1.7]).view(1, 3, 1, 1).expand(1, 3, SIDE, SIDE)
    network.scores = lambda pictures: sums
    asking = Options(outputs=("mask", "probability"))
    (found,) = segmenter.predict([Frame(pixels=np.zeros((SIDE, SIDE), np.uint8), options=asking)])
    assert np.all(found.mask == 2)
    assert found.probability is not None
    assert found.probability.max() == 1.0


def test_what_a_folder_leaves_out_is_as_its_processor_has_it(tmp_path: Path) -> None:
    """MobileViT's turns channels round and does not normalise, and BEiT's is bicubic, though no key says so."""
    said = {"size": {"height": SIDE, "width": SIDE}, "do_center_crop": False}
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[..., 0] = 255
    for kind, first, bicubic in (("mobilevit", 0.0, True), ("beit", 1.0, True), ("segformer", 2.2489, False)):
        folder = tmp_path / kind
        (BUILDERS | OTHERS)[kind]().save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(said))
        recipe = semantic.create(Model(segmenter="semantic", path=folder))._recipe
        made = recipe.prepare([Frame(pixels=pixels, options=Options())], (SIDE, SIDE), torch.device("cpu"))
        assert float(made[0, 0].mean()) == pytest.approx(first, abs=1e-3)
        assert recipe.bicubic is bicubic


def test_transformers_newer_file_goes_before_the_older_one(tmp_path: Path) -> None:
    folder = build("segformer", tmp_path / "m")
    newer = json.loads((folder / "preprocessor_config.json").read_text()) | {"size": {"height": 32, "width": 32}}
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": newer}))
    assert semantic.create(Model(segmenter="semantic", path=folder))._recipe.window == (32, 32)
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "OneFormerProcessor"}))
    assert semantic.create(Model(segmenter="semantic", path=folder))._recipe.window == (SIDE, SIDE)


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("segformer", {"do_flip_channel_order": True}),
        ("segformer", {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}}),
        ("segformer", {"do_split_image": True, "do_pad": True}),
        ("segformer", {"do_pad": True, "pad_size": {"height": 128, "width": 128}}),
        ("segformer", {"do_resize": False}),
        ("segformer", {"resample": 0}),
        ("segformer", {"crop_pct": 0.9, "do_thumbnail": True}),
        ("segformer", {"auto_map": {"AutoImageProcessor": "mine.Mine"}}),
        ("segformer", {"image_processor_type": "MineImageProcessor"}),
        ("segformer", {"size": {"max_height": 64, "max_width": 64}}),
        ("upernet", {"size_divisor": 32}),
        ("dpt", {"keep_aspect_ratio": True}),
        ("dpt", {"do_pad": True, "size_divisor": 32}),
        ("mask2former", {"pad_size": {"height": 128, "width": 128}}),
        ("mask2former", {"size_divisibility": 16}),
        ("oneformer", {"size_divisor": 32}),
        ("mobilevit", {"do_normalize": True, "do_center_crop": False}),
        ("eomt", {"do_pad": True, "do_split_image": True}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else value,
)
def test_each_key_that_is_set_and_not_followed_is_named(tmp_path: Path, kind: str, keys: dict[str, Any]) -> None:
    (BUILDERS | OTHERS)[kind]().save_pretrained(tmp_path)
    normalising = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    said = {"size": {"height": SIDE, "width": SIDE}, **normalising} | keys
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    with pytest.raises(ConfigError) as caught:
        semantic.create(Model(segmenter="semantic", path=tmp_path))
    for key, value in keys.items():
        if value is not False or key == "do_resize":
            assert key in caught.value.message
