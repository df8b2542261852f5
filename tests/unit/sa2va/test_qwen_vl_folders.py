"""Folders and trainings of Sa2VA on Qwen2.5-VL and Qwen3-VL: what is read, computed, exported and refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import qwen_vl_tiny as tiny
from tests import sa2va_training as training
from tests.sa2va_tiny import TRUNK
from watcherd.config import Model, Sa2va
from watcherd.errors import ConfigError, InputError, UnavailableError
from watcherd.inference import inspection
from watcherd.inference.base import Frame, Placement
from watcherd.inference.segmenters import create
from watcherd.inference.segmenters.sa2va import compiled, families, video
from watcherd.inference.segmenters.sa2va import config as configuration
from watcherd.inference.segmenters.sa2va.export import export
from watcherd.inference.segmenters.sa2va.network import NO_SPLIT, skeleton
from watcherd.inference.segmenters.sa2va.prompt import Words, system_of
from watcherd.inference.segmenters.sa2va.renames import canonical
from watcherd.inference.segmenters.sa2va.weights import check_map
from watcherd.inference.split import ModelSizes, split_over
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.sa2va_training import Training

FORCED = Options(prompt="Please segment the blood vessel.", draft="Sure, [SEG].", decode="forced")
RNG = np.random.default_rng(0)


def quiet(*_: object) -> None:
    """Nobody listens."""


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    training.small_sam2(monkeypatch, TRUNK)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    with pytest.MonkeyPatch.context() as patch:
        training.small_sam2(patch, TRUNK)
        return {base: tiny.write_folder(tmp_path_factory.mktemp(base), base) for base in tiny.FAMILIES}


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Training]:
    with pytest.MonkeyPatch.context() as patch:
        training.small_sam2(patch, TRUNK)
        return {base: tiny.write_training(tmp_path_factory.mktemp(base), base) for base in tiny.FAMILIES}


@pytest.fixture(scope="module")
def loaded_ones(folders: dict[str, Path]) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        training.small_sam2(patch, TRUNK)
        return {base: loaded(folder) for base, folder in folders.items()}


@pytest.fixture(params=tiny.FAMILIES)
def base(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def loaded(path: Path, sa2va: Sa2va | None = None) -> Any:
    segmenter: Any = create(Model(segmenter="sa2va", path=path, sa2va=sa2va or Sa2va(max_new_tokens=6)))
    segmenter.check()
    segmenter.load(Placement(dtype="float32"), quiet)
    return segmenter


def frame(*size: int, options: Options = FORCED) -> Frame:
    return Frame(pixels=RNG.integers(0, 256, size, dtype=np.uint8), options=options)


def test_a_batch_of_three_is_three_of_one(base: str, loaded_ones: dict[str, Any]) -> None:
    """Grey and colour, of other sizes; one says a word of its own, one has two masks."""
    segmenter = loaded_ones[base]
    frames = [
        frame(60, 90, options=replace(FORCED, draft="<p>left artery</p> [SEG] and [SEG].")),
        frame(64, 200),
        frame(90, 70, 3, options=replace(FORCED, decode="verify")),
    ]
    together = segmenter.predict(frames)
    for one, other in zip(frames, together, strict=True):
        (alone,) = segmenter.predict([one])
        assert (alone.answer, alone.decode, alone.labels) == (other.answer, other.decode, other.labels)
        if alone.probability is not None:
            np.testing.assert_allclose(other.probability, alone.probability, atol=1e-4)
    assert ("left artery", "object 2") == together[0].labels
    assert (2, 60, 90) == together[0].probability.shape
    assert "generated" == together[2].decode


def test_a_run_is_asked_about_once_and_followed(
    base: str, loaded_ones: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two frames prompted, one tracked; the question holds both of the first, each at its own size."""
    monkeypatch.setattr(video, "CONDITIONING", 2)
    segmenter = loaded_ones[base]
    asked: list[int] = []
    words = segmenter.engine.words
    prompt = words.prompt
    monkeypatch.setattr(words, "prompt", lambda text, blocks: asked.append(len(blocks)) or prompt(text, blocks))
    sam2 = segmenter.engine.network.sam2  # attention over the memory takes seconds on a CPU
    monkeypatch.setattr(sam2.memory_attention, "forward", lambda current_vision_features, **_: current_vision_features)
    found = list(segmenter.predict_run(iter([frame(40, 56), frame(40, 56), frame(40, 56)])))
    assert [2] == asked
    assert [(40, 56)] * 3 == [each.probability.shape for each in found]


def test_pictures_share_batches_by_what_they_become(base: str, loaded_ones: dict[str, Any]) -> None:
    keys = [loaded_ones[base].batch_key(frame(*size)) for size in ((300, 300), (512, 512), (1000, 1000), (2000, 2000))]
    assert keys[:2] == ["small", "small"]
    assert keys[2:] == {"qwen2_5_vl": ["medium", "large"], "qwen3_vl": ["medium", "large"]}[base]


def test_the_words_around_a_picture_are_those_of_the_chat_template(base: str, folders: dict[str, Path]) -> None:
    """The picture first, wherever the words have it; frames behind one another."""
    words = Words(folders[base], template=configuration.PATCHED_TEMPLATE)
    pad = "<|image_pad|>"
    picture = f"<|vision_start|>{pad * 6}<|vision_end|>"
    said = f"<|im_start|>user\n{picture}{picture}Look: \nWhere?<|im_end|>\n<|im_start|>assistant\n"
    prompt = words.prompt("Look: <image>\nWhere?", [(2, 3), (3, 2)])
    assert words.encode(said) == prompt.ids
    assert (12, len(prompt.ids) + 1) == (len(prompt.visual), len(prompt.positions))
    first = prompt.visual[0]
    rows = [(first, first + row, first + column) for row in range(2) for column in range(3)]
    assert rows == list(prompt.positions[first : first + 6])
    assert (first + 3,) * 3 == prompt.positions[first + 6]
    with pytest.raises(InputError, match="may not spell"):
        words.prompt("What is <|image_pad|>?", [(2, 3)])
    with pytest.raises(InputError, match=r"\[SEG\], which this model takes for an answer"):
        words.prompt("Say [SEG].", [(2, 3)])


def test_a_system_message_of_the_folders_chat_template_is_said_as_the_reference_would(
    base: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders[base], tmp_path / "model")
    config = configuration.read(folder)
    assert "" == system_of(folder, config)
    message = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": tiny.CHAT.replace("\n", "\\n")}))
    assert message == system_of(folder, config)
    (folder / "chat_template.jinja").write_text(tiny.CHAT)
    assert message == system_of(folder, config)
    words = Words(folder, template=config.template, system=message)
    assert words.decode(words.prompt("x", [(1, 1)]).ids).startswith("<|im_start|>system\nYou are")


def test_names_of_before_transformers_4_52_are_read_and_a_tied_head_is_the_embedding(
    folders: dict[str, Path], tmp_path: Path, loaded_ones: dict[str, Any]
) -> None:
    folder = shutil.copytree(folders["qwen2_5_vl"], tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    old = {
        name.replace("model.model.visual.", "model.visual.").replace(
            "model.model.language_model.", "model.model."
        ): each
        for name, each in weights.items()
        if name != "model.lm_head.weight"
    }
    save_file(old, folder / "model.safetensors")
    with pytest.raises(UnavailableError, match=r"missing \(1\): model\.lm_head\.weight"):
        loaded(folder)
    said = json.loads((folder / "config.json").read_text())
    said["text_config"]["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(said))
    language = loaded(folder).engine.network.language
    same = loaded_ones["qwen2_5_vl"].engine.network.language
    assert torch.equal(language.lm_head.weight, language.model.embed_tokens.weight)
    assert torch.equal(same.model.layers[0].mlp.up_proj.weight, language.model.layers[0].mlp.up_proj.weight)


@pytest.mark.parametrize(
    ("raw", "of_base", "name"),
    [
        ("visual.blocks.0.x", True, "model.model.visual.blocks.0.x"),
        ("model.layers.0.x", True, "model.model.language_model.layers.0.x"),
        ("model.visual.blocks.0.x", True, "model.model.visual.blocks.0.x"),
        ("lm_head.weight", True, "model.lm_head.weight"),
        ("model.visual.blocks.0.x", False, "model.model.visual.blocks.0.x"),
        ("model.model.language_model.norm.weight", False, "model.model.language_model.norm.weight"),
        ("text_hidden_fcs.0.weight", False, "text_hidden_fcs.0.weight"),
    ],
)
def test_names_of_every_age_are_those_of_an_exported_folder(raw: str, of_base: bool, name: str) -> None:
    assert name == canonical(raw, families.QWEN2_5_VL, of_base=of_base)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text_config": {"use_sliding_window": True}}, "sliding-window"),
        ({"text_config": {"model_type": "qwen3_vl_moe_text"}, "vision_config": {"model_type": "x"}}, "qwen3_vl_moe"),
        ({"vision_config": {"patch_size": 12}}, r"vision_config\.patch_size = 12"),
        ({"vision_config": {"out_hidden_size": 7}}, r"vision_config\.out_hidden_size = 7"),
    ],
)
def test_a_folder_of_another_kind_is_refused(base: str, change: dict[str, Any], words: str, tmp_path: Path) -> None:
    said = tiny.described(base)
    said |= {key: said[key] | values for key, values in change.items()}
    with pytest.raises(ConfigError, match=words):
        configuration.parse(said, tmp_path)


def test_a_processor_that_prepares_pictures_otherwise_is_refused(
    base: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders[base], tmp_path / "model")
    family = tiny.FAMILIES[base]
    fits = {"patch_size": family.patch, "merge_size": 2, "image_mean": list(family.mean), "min_pixels": 3136}
    (folder / "preprocessor_config.json").write_text(json.dumps(fits))
    segmenter: Any = create(Model(segmenter="sa2va", path=folder))
    segmenter.check()
    (folder / "preprocessor_config.json").write_text(json.dumps(fits | {"image_mean": [0.1, 0.2, 0.3]}))
    with pytest.raises(ConfigError, match=r"image_mean = \[0\.1, 0\.2, 0\.3\]"):
        segmenter.check()


# --------------------------------------------------------------------------------------------- a training's checkpoint


def test_a_training_on_its_base_is_what_it_exports(base: str, trainings: dict[str, Training], tmp_path: Path) -> None:
    """LoRA merged, tables replaced, cut to the grown tokenizer; no system message; the folder gives the same masks."""
    parts, family = trainings[base], tiny.FAMILIES[base]
    out = tmp_path / "exported"
    export(parts.trained(), out, quiet)
    shapes = tiny.shapes_of(base, out)
    found = load_file(out / "model.safetensors")
    assert shapes == {name: list(each.shape) for name, each in found.items()}
    name = "model.model.language_model.layers.0.self_attn.q_proj.weight"
    trained = tiny.fill(tiny._trained(shapes, family), tiny.SEED + 1)
    stem = "mllm.model.base_model.model." + name.removeprefix("model.").removesuffix(".weight")
    down, up = (trained[f"{stem}.lora_{half}.default.weight"] for half in "AB")
    merged = tiny.values(name, tuple(shapes[name]), tiny.SEED) + 2 * up @ down
    torch.testing.assert_close(found[name], merged)
    head = next(key for key in trained if "lm_head" in key)
    assert torch.equal(trained[head], found[family.head])
    said = json.loads((out / "config.json").read_text())
    assert (tiny.WORDS, False) == (said["text_config"]["vocab_size"], said["text_config"]["tie_word_embeddings"])
    assert "system<" not in (out / "chat_template.jinja").read_text().replace("\n", "<")
    pictures = [frame(60, 90)]
    (one,) = loaded(parts.base, parts.settings).predict(pictures)
    (other,) = loaded(out).predict(pictures)
    assert np.array_equal(one.probability, other.probability)


def test_a_training_that_left_the_head_alone_has_the_tied_bases(
    base: str, trainings: dict[str, Training], tmp_path: Path
) -> None:
    """The base has none: its embedding, cut to the words that there are, is both."""
    copied = shutil.copytree(trainings[base].base.parent, tmp_path / "training")
    parts = training.Training(
        base=copied / "Qwen-VL", sam2=copied / "sam2_hiera_large.pt", checkpoint=copied / "iter_20.pth"
    )
    parts.change(lambda content: [content["state_dict"].pop(k) for k in list(content["state_dict"]) if "_save" in k])
    language = loaded(parts.base, parts.settings).engine.network.language
    assert torch.equal(language.lm_head.weight, language.model.embed_tokens.weight)
    assert tiny.WORDS == len(language.lm_head.weight)


def test_what_a_training_and_its_base_are_is_said(base: str, trainings: dict[str, Training]) -> None:
    parts, name = trainings[base], tiny.FAMILIES[base].name
    assert f"a {name} folder: the base of a Sa2VA training" == inspection.inspect(parts.base).what
    found = inspection.inspect(parts.checkpoint, parts.base, parts.sam2)
    assert ("", "a training checkpoint of Sa2VA") == (found.refused, found.what)
    assert found.parameters
    with pytest.raises(ConfigError, match=f"is a {name}, which cannot segment by itself"):
        create(Model(segmenter="sa2va", path=parts.base))
    with pytest.raises(ConfigError, match=f"is a {name}, which holds no SAM2"):
        create(Model(segmenter="sa2va", path=parts.base, sa2va=Sa2va(checkpoint=parts.checkpoint)))


def test_a_training_on_the_other_family_is_refused_by_its_names(trainings: dict[str, Training]) -> None:
    """A Qwen2.5-VL's language model has biases and another tower."""
    parts, other = trainings["qwen2_5_vl"], trainings["qwen3_vl"]
    mixed = replace(parts, checkpoint=other.checkpoint)
    with pytest.raises(UnavailableError, match="fit nothing in the model"):
        loaded(mixed.base, mixed.settings)


def test_a_training_that_began_with_a_sa2va_has_its_words_and_its_sam2(
    base: str, trainings: dict[str, Training], folders: dict[str, Path]
) -> None:
    """Nothing is added to the vocabulary, and no SAM2 is asked for."""
    parts = replace(trainings[base], base=folders[base])
    segmenter = loaded(parts.base, Sa2va(checkpoint=parts.checkpoint, max_new_tokens=6))
    assert () == segmenter._trained.added
    head = load_file(folders[base] / "model.safetensors")[tiny.FAMILIES[base].head]
    assert head.shape == segmenter.engine.network.language.lm_head.weight.shape
    assert not torch.equal(head, segmenter.engine.network.language.lm_head.weight)


def test_the_4b_size_is_planned_over_two_cards() -> None:
    """No part that may not be split is, and every tensor has a device."""
    config = replace(configuration.parse(tiny.published("qwen3_vl"), tiny.FOLDER), hiera=configuration.LARGE)
    sizes = ModelSizes(skeleton(config), dtype="bfloat16", no_split=NO_SPLIT)
    split = split_over(sizes, [5.5, 5.5])
    assert split
    assert {"cuda:0", "cuda:1"} == set(split.device_map.values())
    assert sum(split.loads_gib) == pytest.approx(sizes.weights_gib)
    check_map(skeleton(config), split.device_map)


def test_only_sam2_is_compiled_for_pictures_have_no_one_size(
    base: str, loaded_ones: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "ENCODE_AT_ONCE", 1)
    monkeypatch.setattr(compiled, "GROUNDING_SIDE", 256)
    monkeypatch.setattr(torch.compiler, "set_stance", lambda _stance: None)
    network = loaded_ones[base].engine.network
    assert ("sam2",) == compiled.compile_encoders(network, quiet, backend="eager")
    for block in network.sam2.vision_encoder.backbone.blocks:
        block._compiled_call_impl = None


def test_the_published_sizes_have_their_parameters_without_any_memory() -> None:
    """Qwen3-VL-4B and Qwen2.5-VL-3B as they are published, with heads of their own, and SAM2."""
    for base, billions in (("qwen3_vl", 4.8), ("qwen2_5_vl", 4.1)):
        said = tiny.published(base)
        config = replace(configuration.parse(said, tiny.FOLDER), hiera=configuration.LARGE)
        whole = skeleton(config)
        count = sum(parameter.numel() for parameter in whole.parameters())
        assert abs(count / 1e9 - billions) < 0.3
        assert {"meta"} == {parameter.device.type for parameter in whole.parameters()}


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield
