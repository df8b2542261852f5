"""SAM 3 by words: transformers' own numbers, batches over scans and things, what counts as not there, and refusals."""

from __future__ import annotations

import ast
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch

from tests import sam3_folder
from tests.data.sam3 import pictures
from tests.sam3_folder import SIDE
from tests.weights_file import overwrite
from watcherd.config import Model, Sam3
from watcherd.errors import ConfigError, InputError, TransientError, UnavailableError
from watcherd.inference import checks, segmenters
from watcherd.inference.base import Frame, Placeable, Placement
from watcherd.inference.segmenters import sam3
from watcherd.inference.segmenters.sam3.folder import describe
from watcherd.inference.segmenters.sam3.kept import MOST_VALUES, Kept, names, paint, union
from watcherd.inference.segmenters.sam3.picture import prepare
from watcherd.inference.segmenters.sam3.segmenter import Sam3Segmenter
from watcherd.inference.segmenters.sam3.words import things
from watcherd.job import Options
from watcherd.testing import SegmenterContract

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from watcherd.inference.base import Prediction, Segmenter

PROMPTS = ("blood vessel", "artery", "vein")
SIZES = ((SIDE, SIDE), (40, 56), (150, 90), (61, 200), (300, 301))
PICTURES = 20
DOUBT = -0.5
"""Added to the logit of presence."""
CPU = torch.device("cpu")
THREADS = ThreadPoolExecutor(2)
RECORDED = Path(pictures.__file__).with_name("prepared.npz")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that finds something in some of the pictures only."""
    return sam3_folder.save(sam3_folder.model(presence=DOUBT), tmp_path_factory.mktemp("models") / "sam3")


@pytest.fixture(scope="module")
def sure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes everything for present."""
    return sam3_folder.save(sam3_folder.model(presence=9), tmp_path_factory.mktemp("models") / "sure")


@pytest.fixture(scope="module")
def segmenter(folder: Path) -> Sam3Segmenter:
    return loaded(folder)


def loaded(folder: Path, dtype: str = "float32", **settings: Any) -> Sam3Segmenter:
    made = sam3.create(Model(segmenter="sam3", path=folder, sam3=Sam3(**settings)))
    assert isinstance(made, Sam3Segmenter)
    made.load(Placement(dtype=dtype), lambda *_: None)
    return made


def frame(size: tuple[int, int], prompt: str, seed: int = 0, *, grey: bool = False, **options: Any) -> Frame:
    shape = size if grey else (*size, 3)
    coarse = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    asked = Options(prompt=prompt, outputs=options.pop("outputs", ("mask", "probability")), **options)
    return Frame(pixels=coarse, options=asked)


def one(segmenter: Segmenter, asked: Frame) -> Prediction:
    (found,) = segmenter.predict([asked])
    return found


def frames() -> list[Frame]:
    """Twenty pictures of five sizes."""
    return [frame(SIZES[number % len(SIZES)], PROMPTS[0], number, grey=number % 4 == 3) for number in range(PICTURES)]


def librarys(name: str) -> Any:
    """A function of transformers' image processor of SAM 3, from its source: importing that needs torchvision."""
    found = find_spec("transformers.models.sam3.image_processing_sam3")
    assert found is not None
    assert found.origin is not None
    tree = ast.parse(Path(found.origin).read_text(encoding="utf-8"))
    wanted = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in {name, "_scale_boxes"}
    ]
    for node in wanted:
        node.decorator_list, node.returns = [], None
        for argument in [*node.args.args, *node.args.kwonlyargs]:
            argument.annotation = None
    known: dict[str, Any] = {"torch": torch}
    exec(compile(ast.Module(body=list(wanted), type_ignores=[]), found.origin, "exec"), known)  # noqa: S102 - installed code
    return known[name]


def said(segmenter: Sam3Segmenter, asked: Frame, model: Any) -> Any:
    """What transformers' model answers to one picture and one thing, given as its processor gives them."""
    words = sam3_folder.tokenizer()([asked.options.prompt], padding="max_length", max_length=32, return_tensors="pt")
    pixels = prepare([asked], segmenter._description, CPU, THREADS)
    with torch.inference_mode():
        return model(pixel_values=pixels, **words)


# ---------------------------------------------------------------------------------------------- as transformers has it


@pytest.mark.parametrize("size", pictures.SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_a_picture_is_prepared_as_the_processor_does(folder: Path, size: tuple[int, int]) -> None:
    """Bit for bit, at a small size and at the model's real one: recorded with torchvision."""
    recorded = np.load(RECORDED)
    name = f"{size[0]}x{size[1]}"
    picture = Frame(pixels=pictures.picture(size), options=Options())
    how = replace(describe(folder), side=pictures.SIDE)
    expected = (torch.from_numpy(recorded[name]).float() - 127.5) / 127.5
    assert torch.equal(expected, prepare([picture], how, CPU, THREADS)[0])
    real = prepare([picture], replace(how, side=1008), CPU, THREADS)[0]
    assert recorded[f"digest-{name}"].tobytes() == hashlib.sha256(real.numpy().tobytes()).digest()


def test_grey_is_prepared_as_the_same_in_colour(folder: Path) -> None:
    grey = frame((61, 90), "x", grey=True)
    colour = replace(grey, pixels=np.repeat(grey.pixels[..., None], 3, axis=2))
    ours = prepare([grey, colour], describe(folder), CPU, THREADS)
    assert torch.equal(ours[0], ours[1])


def test_logits_and_masks_are_transformers_own(segmenter: Sam3Segmenter) -> None:
    """Twenty pictures of five sizes and three prompts, each by itself, through transformers' own post-processing."""
    model, post = sam3_folder.model(presence=DOUBT), librarys("post_process_instance_segmentation")
    verdicts = set()
    for picture in frames():
        for prompt in PROMPTS:
            asked = replace(picture, options=replace(picture.options, prompt=prompt))
            expected = said(segmenter, asked, model)
            network = segmenter._network
            assert network is not None
            with torch.inference_mode():
                seen = network.see(prepare([asked], segmenter._description, CPU, THREADS))
                rows = network.ask(seen, [(0, prompt)])
            logits = torch.cat([expected.pred_logits, expected.presence_logits], dim=1)
            assert torch.allclose(logits, rows.scores, atol=1e-4, rtol=0)
            assert torch.allclose(expected.pred_masks, rows.masks, atol=1e-4, rtol=0)

            size = asked.pixels.shape[:2]
            (known,) = post(None, expected, threshold=0.3, mask_threshold=0.5, target_sizes=[size])
            found = one(segmenter, asked)
            present = float(expected.presence_logits.sigmoid()) >= 0.5
            verdicts.add((present, len(known["masks"]) > 0))
            if not present or not len(known["masks"]):
                assert found.probability is None
                assert found.mask is None
                continue
            united = known["masks"].bool().any(dim=0).numpy()
            assert np.array_equal(united, found.mask)
            assert found.probability is not None
            scaled = torch.nn.functional.interpolate(
                expected.pred_masks[expected_kept(expected)].sigmoid()[None], size=size, mode="bilinear"
            )[0]
            assert np.abs(scaled.amax(dim=0).numpy() - found.probability).max() <= 1e-4
    assert {(True, True), (False, False)} <= verdicts, "the pictures prove nothing"


def expected_kept(answer: Any) -> torch.Tensor:
    return answer.pred_logits.sigmoid() * answer.presence_logits.sigmoid() > 0.3


def test_instances_are_transformers_own_the_better_over_the_worse(sure: Path) -> None:
    segmenter, model = loaded(sure), sam3_folder.model(presence=9)
    post = librarys("post_process_instance_segmentation")
    for plain in frames()[:5]:
        asked = replace(plain, options=replace(plain.options, instances=True, threshold=0.4))
        (known,) = post(
            None,
            said(segmenter, asked, model),
            threshold=0.3,
            mask_threshold=0.4,
            target_sizes=[asked.pixels.shape[:2]],
        )
        order = known["scores"].argsort(descending=True, stable=True)
        expected = np.zeros(asked.pixels.shape[:2], np.uint8)
        for value, place in reversed(list(enumerate(order, start=1))):
            expected[known["masks"][place].bool().numpy()] = value
        found = one(segmenter, asked)
        assert len(order) > 2
        assert np.array_equal(expected, found.mask)
        assert found.labels == tuple(f"blood vessel {value}" for value in range(1, len(order) + 1))
        assert found.probability is not None
        assert found.probability.shape == asked.pixels.shape[:2]


# ------------------------------------------------------------------------------------------------- batches and classes


def test_a_batch_over_scans_and_things_gives_what_each_gives_alone(segmenter: Sam3Segmenter) -> None:
    """Pictures of several sizes, with several things each and the same thing for several: also over a batch of rows."""
    asked = [
        replace(each, options=replace(each.options, prompt=prompt))
        for number, each in enumerate(frames()[:9])
        for prompt in [("artery; vein", "vein; blood vessel", "blood vessel; artery")[number % 3]]
    ]
    assert len({segmenter.batch_key(each) for each in asked}) == 1
    together = segmenter.predict(asked)
    for each, found in zip(asked, together, strict=True):
        alone = one(segmenter, each)
        assert alone.answer == found.answer
        assert alone.labels == found.labels
        assert (alone.mask is None) == (found.mask is None)
        if alone.probability is not None and found.probability is not None:
            assert np.abs(alone.probability - found.probability).max() < 1e-4
            assert (alone.mask != found.mask).mean() < 1e-3
    assert len({each.mask is None for each in together}) == 2, "one verdict for all proves nothing"


def test_several_things_are_several_classes(sure: Path) -> None:
    segmenter = loaded(sure)
    both = one(segmenter, frame((61, 90), "artery; vein", seed=3))
    parts = [one(segmenter, frame((61, 90), thing, seed=3)) for thing in ("artery", "vein")]
    assert both.labels == ("artery", "vein")
    assert both.probability is not None
    for number, part in enumerate(parts):
        assert part.labels == (("artery",), ("vein",))[number]
        assert part.probability is not None
        assert np.abs(both.probability[number] - part.probability).max() < 1e-5
    assert np.array_equal(both.mask, replace(both, mask=None).label_values(0.5))
    assert {1, 2} <= set(np.unique(both.mask))


def test_a_thing_that_is_not_there_leaves_its_class_empty(segmenter: Sam3Segmenter) -> None:
    """Found in the first pictures by what each thing gives alone."""
    for seed in range(20):
        alone = [one(segmenter, frame((40, 56), thing, seed)) for thing in ("artery", "vein")]
        if [each.mask is None for each in alone] == [False, True]:
            break
    found = one(segmenter, frame((40, 56), "artery; vein", seed))
    assert found.probability is not None
    assert not found.probability[1].any()
    assert found.probability[0] == pytest.approx(alone[0].probability, abs=1e-5)
    assert found.answer is not None
    assert "vein: not there (presence" in found.answer


@pytest.mark.parametrize("instances", [False, True])
def test_probabilities_stay_on_the_device_unless_a_frame_asks(sure: Path, instances: bool) -> None:
    segmenter = loaded(sure)
    quiet = frame((61, 90), "artery", outputs=("mask",), instances=instances)
    loud = frame((61, 90), "artery", instances=instances)
    for silent, asked in (segmenter.predict([quiet, loud]), reversed(segmenter.predict([loud, quiet]))):
        assert silent.probability is None
        assert asked.probability is not None
        assert np.array_equal(silent.mask, asked.mask)


def test_each_frame_has_its_own_threshold(sure: Path) -> None:
    segmenter = loaded(sure)
    asked = [frame((61, 90), "artery", threshold=threshold) for threshold in (0.3, 0.5, 0.8)]
    for each, found in zip(asked, segmenter.predict(asked), strict=True):
        assert found.probability is not None
        assert np.array_equal(found.probability > each.options.threshold, found.mask)


def test_flips_are_averaged(sure: Path) -> None:
    segmenter, plain = loaded(sure), frame((61, 90), "artery; vein")
    views = []
    for axes in ((), (1,), (0,), (0, 1)):
        mirrored = replace(plain, pixels=np.ascontiguousarray(np.flip(plain.pixels, axes)))
        views.append(np.flip(_probability(one(segmenter, mirrored)), [axis + 1 for axis in axes]))
    flipped = replace(plain, options=replace(plain.options, tta=True))
    assert _probability(one(segmenter, flipped)) == pytest.approx(np.mean(views, axis=0), abs=1e-4)
    assert segmenter.batch_key(plain) != segmenter.batch_key(flipped)
    both = replace(plain, options=replace(plain.options, tta=True, instances=True))
    with pytest.raises(InputError, match="instances and tta"):
        segmenter.predict([both])


def _probability(found: Prediction) -> NDArray[np.float32]:
    assert found.probability is not None
    return found.probability


# ------------------------------------------------------------------------------------------------------- what is there


def kept(*logits: float, presence: float = 4.0, thing: str = "artery", **setting: Any) -> Kept:
    return Kept.of(thing, np.array([*logits, presence], np.float32), Sam3(**setting))


def test_objects_count_by_their_score_and_presence_the_best_first() -> None:
    found = kept(-0.5, 3.0, -4.0, 1.0)
    assert found.objects == (1, 3, 0)
    assert found.scores == tuple(sorted(found.scores, reverse=True))
    assert found.words(Sam3()) == "artery: 3 found (presence 0.98, best score 0.94)"
    assert kept(-0.5, 3.0, -4.0, 1.0, score=0.7).objects == (1, 3)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (kept(8.0, presence=-1.0), "artery: not there (presence 0.27, best score 0.27; presence is below 0.5)"),
        (kept(8.0, presence=-0.5), "artery: not there (presence 0.38, best score 0.38; presence is below 0.5)"),
        (kept(-2.0, -3.0), "artery: not there (presence 0.98, best score 0.12; no score is above 0.3)"),
    ],
)
def test_a_thing_is_not_there_by_presence_or_by_its_scores(found: Kept, why: str) -> None:
    assert found.objects == ()
    assert found.words(Sam3()).endswith(why)


def test_not_there_is_an_answer_with_its_score_and_no_mask(segmenter: Sam3Segmenter, folder: Path) -> None:
    """The semantic map marks pixels all the same: it does not regard presence."""
    for seed in range(20):
        found = one(segmenter, frame((40, 56), "blood vessel", seed))
        if found.mask is None:
            break
    assert found.probability is None
    assert found.answer is not None
    assert found.answer.startswith("blood vessel: not there (presence 0.")
    assert "presence is below 0.5" in found.answer
    maps = segmenter.own_answer(frame((40, 56), "blood vessel", seed))
    assert (maps[0] > 0.5).any()
    lenient = loaded(folder, presence=0.0, score=0.0)
    assert one(lenient, frame((40, 56), "blood vessel", seed)).mask is not None


@pytest.mark.parametrize("place", ["scores", "masks"])
def test_values_that_are_not_numbers_become_no_mask(sure: Path, place: str) -> None:
    segmenter = loaded(sure)
    assert segmenter._network is not None
    sound = segmenter._network.ask

    def broken(*arguments: Any) -> Any:
        rows = sound(*arguments)
        getattr(rows, place)[-1].view(-1)[0] = torch.nan
        return rows

    segmenter._network.ask = broken  # type: ignore[method-assign]
    for instances in (False, True):
        asked = [frame((40, 56), "artery", seed, outputs=("mask",), instances=instances) for seed in (0, 1)]
        with pytest.raises(TransientError, match="not numbers"):
            segmenter.predict(asked)


# ----------------------------------------------------------------------------------------------------------- instances


def rows_of(*logits: Sequence[float]) -> torch.Tensor:
    """Masks of one row of pixels each."""
    return torch.tensor(logits)[:, None, :]


def test_where_instances_overlap_the_better_one_has_the_pixel_whatever_thing_it_is() -> None:
    arteries = rows_of([9.0, 9.0, -9.0, -9.0], [-9.0, 9.0, 9.0, -9.0])
    veins = rows_of([-9.0, -9.0, 9.0, 9.0])
    found = paint([(arteries, kept(1.0, 2.0)), (veins, kept(1.5, thing="vein"))], size=(1, 4), threshold=0.5)
    assert found.values.tolist() == [[3, 1, 1, 2]]
    assert names(("artery", "vein"), found.count) == ("artery 1", "vein 1", "artery 2")


def test_instances_beyond_the_label_values_are_counted() -> None:
    many = torch.full((MOST_VALUES + 3, 1, 2), 9.0)
    found = paint([(many, kept(*np.linspace(3, 1, MOST_VALUES + 3)))], size=(1, 2), threshold=0.5)
    assert (found.count, found.left_out) == (MOST_VALUES, 3)


def test_a_large_scans_masks_are_scaled_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = union(masks, kept(1.0, 2.0, 3.0, 1.5, 1.2), (30, 40))
    monkeypatch.setattr("watcherd.inference.segmenters.sam3.kept.MASK_VALUES", 2 * 30 * 40)
    assert torch.equal(whole, union(masks, kept(1.0, 2.0, 3.0, 1.5, 1.2), (30, 40)))


# --------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("blood vessel", ("blood vessel",)), (" left  artery;vein ", ("left artery", "vein"))],
)
def test_a_prompt_names_things(prompt: str, expected: tuple[str, ...]) -> None:
    assert things(prompt) == expected


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("", "names nothing"),
        (" ; ", "names nothing"),
        ("artery;", "nothing on one side"),
        ("artery; Artery", "the same thing twice"),
        (";".join(f"thing {number}" for number in range(256)), "names 256 things"),
    ],
)
def test_a_prompt_that_names_nothing_twice_or_too_much_is_refused(
    segmenter: Sam3Segmenter, prompt: str, why: str
) -> None:
    with pytest.raises(InputError, match=why):
        segmenter.predict([frame((40, 56), prompt)])


def test_a_prompt_longer_than_the_text_encoder_takes_is_refused_with_its_length(
    segmenter: Sam3Segmenter, folder: Path
) -> None:
    """This tokenizer has a token for each letter."""
    one(segmenter, frame((40, 56), "a" * 30))
    with pytest.raises(InputError, match=r"is 31 tokens long; the model takes 30"):
        segmenter.predict([frame((40, 56), "vein; " + "a" * 31)])
    with pytest.raises(ConfigError, match=r"model\.sam3\.prompt: .* is 40 tokens long"):
        loaded(folder, prompt="a" * 40)


def test_parts_whose_weights_are_kept_elsewhere_compute_all_the_same(sure: Path) -> None:
    """What ``devices.allow_offload`` does with host memory is done here with the file: weights come for their turn."""
    names = [
        "detr_encoder",
        "detr_decoder",
        "geometry_encoder",
        "mask_decoder",
        "dot_product_scoring",
        "vision_encoder",
    ]
    split = dict.fromkeys(names, "cpu") | {"text_encoder": "disk", "text_projection": "cpu"}
    made = sam3.create(Model(segmenter="sam3", path=sure))
    made.load(Placement(devices=("cpu",), device_map=split), lambda *_: None)
    asked = frame((61, 90), "artery; vein")
    assert np.array_equal(_probability(one(loaded(sure), asked)), _probability(one(made, asked)))


def test_words_are_encoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = loaded(folder)
    assert segmenter._network is not None
    count = 0
    sound = segmenter._network._model.get_text_features

    def counted(**given: Any) -> Any:
        nonlocal count
        count += 1
        return sound(**given)

    monkeypatch.setattr(segmenter._network._model, "get_text_features", counted)
    for seed in range(3):
        one(segmenter, frame((40, 56), "artery; blood vessel", seed))
    assert count == 1, "the configuration's own thing is encoded when it is loaded"


# ---------------------------------------------------------------------------------------------- promises and refusals


class TestContract(SegmenterContract):
    """Of a model that finds something in all of it."""

    options: ClassVar[Options] = Options(prompt="artery; vein")
    folder: ClassVar[Path]

    @pytest.fixture(autouse=True)
    def _folder(self, sure: Path) -> None:
        type(self).folder = sure

    def create(self) -> Segmenter:
        return sam3.create(Model(segmenter="sam3", path=type(self).folder))


class TestContractOfInstances(TestContract):
    options: ClassVar[Options] = Options(prompt="artery", instances=True)


class TestContractOfDoubt(TestContract):
    """Of a model that finds nothing in some."""

    @pytest.fixture(autouse=True)
    def _folder(self, folder: Path) -> None:
        type(self).folder = folder


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_loads_and_is_near(sure: Path, dtype: str, tmp_path: Path) -> None:
    half, whole = loaded(sure, dtype), loaded(sure)
    checks.golden(half, tmp_path)
    asked = frame((61, 90), "artery; vein", 2)
    apart = np.abs(_probability(one(half, asked)) - _probability(one(whole, asked)))
    assert apart.mean() < 0.05
    assert half.info().dtype == dtype


def test_the_golden_check_looks_at_what_was_computed_whatever_is_there(folder: Path, tmp_path: Path) -> None:
    """Other weights under the same name are noticed also where the model finds nothing."""
    first = loaded(folder, presence=1.0)
    checks.golden(first, tmp_path)
    (remembered,) = tmp_path.iterdir()
    assert np.load(remembered).shape == (3, SIDE // 14 * 4, SIDE // 14 * 4)
    checks.golden(first, tmp_path)
    assert first._network is not None
    with torch.no_grad():
        for parameter in first._network._model.mask_decoder.parameters():
            parameter.mul_(-1.5)
    with pytest.raises(UnavailableError, match="not the one it gave at first"):
        checks.golden(first, tmp_path)


def test_the_revision_follows_what_changes_masks_and_not_the_prompt(folder: Path) -> None:
    def revision(**settings: Any) -> str:
        return sam3.create(Model(segmenter="sam3", path=folder, sam3=Sam3(**settings))).info().revision

    assert revision() == revision(prompt="vein", instances=True)
    assert len({revision(), revision(presence=0.4), revision(score=0.4)}) == 3


def test_the_skeleton_needs_no_weights(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    made = sam3.create(Model(segmenter="sam3", path=tmp_path))
    assert isinstance(made, Placeable)
    assert all(parameter.is_meta for parameter in made.skeleton().parameters())
    classes = {type(module).__name__ for module in made.skeleton().modules()}
    assert set(made.no_split()) <= classes


def test_the_published_folder_with_its_tracker_is_loaded_without_it(folder: Path, tmp_path: Path) -> None:
    from transformers import Sam3VideoConfig, Sam3VideoModel

    made = sam3_folder.model(presence=DOUBT)
    torch.manual_seed(0)
    video = Sam3VideoModel(
        Sam3VideoConfig(
            detector_config=made.config.to_dict(),
            tracker_config={"vision_config": made.config.vision_config.to_dict(), "image_size": SIDE},
        )
    )
    video.detector_model.load_state_dict(made.state_dict())
    video.save_pretrained(tmp_path)
    for name in folder.iterdir():
        if name.name not in ("config.json", "model.safetensors"):
            (tmp_path / name.name).write_bytes(name.read_bytes())
    said_here, said_there = (
        _probability(one(loaded(each, presence=0.0), frame((40, 56), "artery"))) for each in (folder, tmp_path)
    )
    assert np.array_equal(said_here, said_there)


def test_a_missing_folder_is_named_first(tmp_path: Path) -> None:
    model = Model(segmenter="sam3", path=tmp_path / "not-there")
    for refuse in (segmenters.refuse_unknown, sam3.create):
        with pytest.raises(ConfigError, match=r"not-there' is not there"):
            refuse(model)
    with pytest.raises(ConfigError, match=r"model\.path is empty"):
        segmenters.refuse_unknown(Model(segmenter="sam3"))
    with pytest.raises(ConfigError, match=r"model\.path is empty"):
        sam3.create(Model(segmenter="sam3"))


def copy(folder: Path, target: Path) -> Path:
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


@pytest.mark.parametrize(
    ("processor", "why"),
    [
        ({"size": {"height": 1008, "width": 1008}}, r"scales pictures to .*1008.*takes 112 x 112"),
        ({"resample": 3}, r"resample = 3"),
        ({"do_center_crop": True}, r"do_center_crop = True"),
        ({"do_rescale": False, "do_pad": True}, r"do_rescale = False; do_pad = True"),
    ],
)
def test_a_processor_that_is_set_otherwise_is_refused(
    folder: Path, tmp_path: Path, processor: dict[str, Any], why: str
) -> None:
    made = copy(folder, tmp_path / "model")
    path = made / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | processor))
    with pytest.raises(ConfigError, match=why):
        sam3.create(Model(segmenter="sam3", path=made))


def test_another_model_is_refused_by_its_type(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match="holds a bert model"):
        sam3.create(Model(segmenter="sam3", path=tmp_path))


@pytest.mark.parametrize(
    ("missing", "error", "why"),
    [
        ("config.json", ConfigError, "has no config.json"),
        ("preprocessor_config.json", ConfigError, "say how pictures are scaled"),
        ("tokenizer.json", UnavailableError, "has no tokenizer"),
        ("model.safetensors", UnavailableError, "cannot be loaded"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_with_what_it_lacks(
    folder: Path, tmp_path: Path, missing: str, error: type[Exception], why: str
) -> None:
    made = copy(folder, tmp_path / "model")
    (made / missing).unlink()
    with pytest.raises(error, match=why):
        loaded(made)


def test_weights_without_a_part_of_the_model_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    made = copy(folder, tmp_path / "model")
    tensors = load_file(made / "model.safetensors")
    rest = {name: tensor for name, tensor in tensors.items() if "mask_decoder" not in name}
    save_file(rest, made / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnavailableError, match=r"missing \(\d+\): mask_decoder"):
        loaded(made)


def test_weights_are_no_window_onto_their_file(folder: Path, tmp_path: Path) -> None:
    made = copy(folder, tmp_path / "model")
    segmenter, asked = loaded(made, presence=0.0), frame((40, 56), "artery")
    before = _probability(one(segmenter, asked))
    overwrite(made / "model.safetensors")
    assert np.array_equal(before, _probability(one(segmenter, asked)))


def test_pixels_that_are_neither_grey_nor_rgb_are_bad_input(segmenter: Sam3Segmenter) -> None:
    for pixels in (np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8), np.uint16)):
        with pytest.raises(InputError, match="neither grey nor RGB"):
            segmenter.predict([Frame(pixels=pixels, options=Options(prompt="x"))])  # type: ignore[arg-type]


def test_nothing_is_computed_before_it_is_loaded(folder: Path) -> None:
    with pytest.raises(UnavailableError, match="not loaded yet"):
        sam3.create(Model(segmenter="sam3", path=folder)).predict([frame((8, 8), "x")])
