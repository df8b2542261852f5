"""A folder that would give a wrong mask, or none, is refused with what, why and what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from tests.sa2va_folder import DATA, fill, write_tokenizer, write_weights
from tests.sa2va_tiny import tiny_config
from tests.weights_file import overwrite
from watcherd.config import Sa2va
from watcherd.errors import ConfigError, UnavailableError
from watcherd.inference.base import Placeable, Placement, RunSegmenter
from watcherd.inference.segmenters.sa2va import create, segmenter
from watcherd.inference.segmenters.sa2va.checkpoint import Checkpoint, fingerprint, lora_scale, unwrap
from watcherd.inference.segmenters.sa2va.config import parse, read
from watcherd.inference.segmenters.sa2va.network import skeleton
from watcherd.inference.segmenters.sa2va.prompt import Words
from watcherd.inference.segmenters.sa2va.renames import sources
from watcherd.inference.segmenters.sa2va.weights import check_map, load

if TYPE_CHECKING:
    from watcherd.inference.segmenters.sa2va.network import Sa2vaNetwork

NO_LORA = {"vision": 0, "language": 0}
WHERE = Path("/models/it")


@pytest.fixture
def values() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DATA / "layer-norm" / "config.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def network() -> Sa2vaNetwork:
    return skeleton(tiny_config(num_hidden_layers=1))


@pytest.fixture(scope="module")
def tensors(network: Sa2vaNetwork) -> dict[str, torch.Tensor]:
    """A small checkpoint, under upstream's names."""
    state = network.state_dict()
    shapes: dict[str, list[int]] = {}
    for name, origin in sources(state).items():
        rows, *rest = state[name].shape
        for source in origin.names:
            shapes[source] = [rows * 3 if origin.third is not None else rows // len(origin.names), *rest]
    return fill(shapes, seed=1)


def test_the_names_of_a_real_checkpoint_are_all_accounted_for() -> None:
    """969 names with layer norm, 979 with RMS norm, every one used, every shape as expected."""
    for model, count in (("layer-norm", 969), ("rms-norm", 979)):
        shapes = {name: tuple(shape) for name, shape in json.loads((DATA / model / "shapes.json").read_text()).items()}
        assert count == len(shapes)
        state = skeleton(read(DATA / model)).state_dict()
        origins = sources(state)
        assert shapes.keys() == {name for origin in origins.values() for name in origin.names}
        assert {name: tuple(state[name].shape) for name in state} == {
            name: origin.shape(shapes) for name, origin in origins.items()
        }


def test_the_full_size_model_has_its_eight_billion_parameters_without_any_memory() -> None:
    """8,182,606,130 by the reference's index; what SAM2 keeps as a buffer stands there too."""
    whole_model: Any = create(model_at(DATA / "internvl3-8b"))
    whole = whole_model.skeleton()
    assert sum(parameter.numel() for parameter in whole.parameters()) == 8_182_606_130
    assert {"meta"} == {parameter.device.type for parameter in whole.parameters()}
    assert isinstance(whole_model, Placeable)
    assert isinstance(whole_model, RunSegmenter)
    assert [name for name, _ in whole.named_children()] == [
        "vision",
        "projector",
        "language",
        "text_hidden_fcs",
        "sam2",
    ]


def model_at(path: Path | None) -> Any:
    return SimpleNamespace(path=path, sa2va=Sa2va(max_new_tokens=8), compile=False)


def test_no_folder_and_a_folder_without_a_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.path is empty"):
        create(model_at(None))
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        create(model_at(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UnavailableError, match="cannot be read"):
        create(model_at(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen2"}, "type 'qwen2', not 'sa2va_chat'"),
        (
            {"llm_config": {"architectures": ["InternLM2ForCausalLM"]}},
            "InternLM2ForCausalLM, which is not supported yet",
        ),
        ({"llm_config": {"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True}}, "sliding-window"),
        ({"llm_config": None}, "built on something that it does not describe"),
        ({"template": "vicuna"}, "template 'vicuna'; supported are qwen_chat, internlm2_chat, phi3_chat"),
        ({"downsample_ratio": 0.25}, "downsample_ratio = 0.25"),
        ({"ps_version": "v1"}, "ps_version = 'v1'"),
    ],
)
def test_another_model_is_refused_and_the_message_says_which_are_supported(
    change: dict[str, Any], message: str, values: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(values | change, WHERE)
    assert "Qwen2 or Qwen3" in caught.value.hint


def test_a_dash_in_the_template_is_an_underscore(values: dict[str, Any]) -> None:
    assert parse(values | {"template": "qwen-chat"}, WHERE).template == "qwen_chat"


@pytest.fixture
def small(tmp_path: Path, tensors: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The segmenter of a small model's folder, not loaded yet."""
    write_weights(tmp_path, tensors)
    write_tokenizer(tmp_path)
    monkeypatch.setattr(segmenter.configuration, "read", lambda _path: tiny_config(num_hidden_layers=1))
    return create(model_at(tmp_path))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_overwritten_under_a_running_model_change_nothing(tmp_path: Path, small: Any, dtype: str) -> None:
    """In place, as cp does it. The next start has another revision."""
    revision = small.info().revision
    small.load(Placement(dtype=dtype), lambda *_: None)
    before = {name: value.clone() for name, value in small.engine.network.state_dict().items()}
    overwrite(tmp_path / "model.safetensors")
    after = small.engine.network.state_dict()
    assert [] == [name for name in before if not torch.equal(before[name], after[name])]
    assert revision == small.info().revision != create(model_at(tmp_path)).info().revision


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_no_checkpoint_holds_is_as_a_new_model_computes_it(small: Any, dtype: str) -> None:
    """At every dtype: rotary frequencies and position ids keep theirs."""
    small.load(Placement(dtype=dtype), lambda *_: None)
    assert small.engine.network.language.model.rotary_emb.inv_freq.dtype is torch.float32


@pytest.mark.parametrize("part", ["language.model.rotary_emb", "sam2.memory_attention.rotary_emb"])
def test_a_garbage_buffer_after_loading_is_caught(small: Any, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that a library refilled with other memory gives masks without any error, and wrong ones."""

    def spoiled(network: Sa2vaNetwork, *rest: Any, **more: Any) -> None:
        load(network, *rest, **more)
        network.get_submodule(part).get_buffer("inv_freq").fill_(1e30)

    monkeypatch.setattr(segmenter, "load", spoiled)
    with pytest.raises(UnavailableError, match=f"{part}.inv_freq has other values"):
        small.load(Placement(), lambda *_: None)


def test_a_tensor_that_was_forgotten_is_caught(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may stay without values."""

    def forgetful(network: Sa2vaNetwork, *rest: Any, **more: Any) -> None:
        load(network, *rest, **more)
        network.projector[1].weight = torch.nn.Parameter(network.projector[1].weight.to("meta"), requires_grad=False)

    monkeypatch.setattr(segmenter, "load", forgetful)
    with pytest.raises(UnavailableError, match=r"1 tensors have no values: projector\.1\.weight"):
        small.load(Placement(), lambda *_: None)


def test_sharded_weights_arrive_as_they_are_but_for_the_dtype(
    tmp_path: Path, network: Sa2vaNetwork, tensors: dict[str, torch.Tensor]
) -> None:
    """Query, key and value are cut out of one tensor; four embeddings become one; positions stay float32."""
    write_weights(tmp_path, tensors, shards=3)
    fresh = skeleton(tiny_config(num_hidden_layers=1))
    load(fresh, Checkpoint(tmp_path, NO_LORA), {"": "cpu"}, torch.bfloat16, lambda *_: None)
    state = fresh.state_dict()
    qkv = tensors["vision_model.encoder.layers.0.attn.qkv.weight"].bfloat16()
    assert torch.equal(qkv[16:32], state["vision.encoder.layer.0.attention.k_proj.weight"])
    point = tensors["grounding_encoder.sam2_model.sam_prompt_encoder.point_embeddings.2.weight"].bfloat16()
    assert torch.equal(point[0], state["sam2.prompt_encoder.point_embed.weight"][2])
    assert {torch.bfloat16} == {parameter.dtype for parameter in fresh.parameters()}
    assert torch.float32 == state["sam2.shared_image_embedding.positional_embedding"].dtype
    assert not [name for name, value in [*fresh.named_parameters(), *fresh.named_buffers()] if value.is_meta]


def test_buffers_that_no_checkpoint_holds_are_those_of_a_fresh_build(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    """Rotary frequencies and position ids, at their own dtypes."""
    write_weights(tmp_path, tensors)
    config = tiny_config(num_hidden_layers=1)
    filled = skeleton(config)
    load(filled, Checkpoint(tmp_path, NO_LORA), {"": "cpu"}, torch.bfloat16, lambda *_: None)
    fresh, stored = dict(skeleton(config).named_buffers()), filled.state_dict()
    transient = {name: buffer for name, buffer in filled.named_buffers() if name not in stored}
    assert len(transient) >= 4
    assert all(
        torch.equal(fresh[name], buffer) and fresh[name].dtype == buffer.dtype for name, buffer in transient.items()
    )


def test_a_missing_shard_is_named(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    write_weights(tmp_path, tensors, shards=2)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UnavailableError, match="lost a shard: model-00002-of-00002"):
        Checkpoint(tmp_path, NO_LORA)


def test_a_truncated_shard_is_named(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    write_weights(tmp_path, tensors, shards=2)
    file = tmp_path / "model-00001-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UnavailableError, match=r"model-00001-of-00002\.safetensors is cut short: 1000 of \d+"):
        Checkpoint(tmp_path, NO_LORA)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="holds no weights"):
        Checkpoint(tmp_path, NO_LORA)


def test_missing_and_unexpected_names_are_listed(
    tmp_path: Path, network: Sa2vaNetwork, tensors: dict[str, torch.Tensor]
) -> None:
    changed = dict(tensors)
    changed["language_model.model.extra"] = changed.pop("mlp1.1.bias")
    write_weights(tmp_path, changed)
    with pytest.raises(UnavailableError, match=r"missing \(1\): mlp1\.1\.bias") as caught:
        load(network, Checkpoint(tmp_path, NO_LORA), {"": "cpu"}, torch.float32, lambda *_: None)
    assert "unexpected (1): language_model.model.extra" in caught.value.message


def test_another_size_of_sam2_is_called_that(
    tmp_path: Path, network: Sa2vaNetwork, tensors: dict[str, torch.Tensor]
) -> None:
    """A trunk with one block more, and a wider one."""
    trunk = "grounding_encoder.sam2_model.image_encoder.trunk."
    more = tensors | {f"{trunk}blocks.9.norm1.weight": torch.ones(8)}
    wider = tensors | {f"{trunk}patch_embed.proj.bias": torch.zeros(112)}
    for changed in (more, wider):
        write_weights(tmp_path, changed)
        with pytest.raises(UnavailableError) as caught:
            load(network, Checkpoint(tmp_path, NO_LORA), {"": "cpu"}, torch.float32, lambda *_: None)
        assert "SAM2 is of another size" in caught.value.hint


@pytest.mark.parametrize("token", ["[SEG]", "<IMG_CONTEXT>"])
def test_a_tokenizer_without_a_needed_token_is_refused(token: str, tmp_path: Path) -> None:
    """As a base model's tokenizer would be: the token falls apart into letters."""
    write_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    values = json.loads(path.read_text())
    values["added_tokens"] = [added for added in values["added_tokens"] if added["content"] != token]
    path.write_text(json.dumps(values))
    with pytest.raises(UnavailableError, match=r"does not know .* as single tokens") as caught:
        Words(tmp_path)
    assert token in caught.value.message


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="has no tokenizer"):
        Words(tmp_path)


def test_a_placement_that_splits_a_part_or_leaves_one_out_is_refused(network: Sa2vaNetwork) -> None:
    with pytest.raises(UnavailableError, match="sam2 may not be split"):
        check_map(network, {"": "cpu", "sam2.mask_decoder": "cuda:0"})
    with pytest.raises(UnavailableError, match=r"no device for projector\.0"):
        check_map(network, {"vision": "cpu", "language": "cpu", "text_hidden_fcs": "cpu", "sam2": "cpu"})
    with pytest.raises(UnavailableError, match="no device for text_hidden_fcs"):
        check_map(network, {"": "cpu", "text_hidden_fcs": "disk"})


def test_lora_wrappers_are_merged_as_they_are_read(
    tmp_path: Path, tensors: dict[str, torch.Tensor], network: Sa2vaNetwork
) -> None:
    """Names as peft saves them; InternVL's wrapping scales by 2; a module saved whole replaces its original."""
    name = "language_model.model.layers.0.self_attn.q_proj"
    wrapped = {_wrapped(key): value for key, value in tensors.items()}
    base = "language_model.base_model.model.model.layers.0.self_attn.q_proj"
    down, up = torch.randn(4, 32), torch.randn(32, 4)
    wrapped[f"{base}.base_layer.weight"] = wrapped.pop(f"{base}.weight")
    wrapped[f"{base}.base_layer.bias"] = wrapped.pop(f"{base}.bias")
    wrapped |= {f"{base}.lora_A.default.weight": down, f"{base}.lora_B.default.weight": up}
    head = "language_model.base_model.model.lm_head"
    trained = wrapped.pop(f"{head}.weight")
    wrapped |= {
        f"{head}.original_module.weight": torch.zeros(356, 32),
        f"{head}.modules_to_save.default.weight": trained,
    }
    write_weights(tmp_path, wrapped)
    checkpoint = Checkpoint(tmp_path, {"vision": 0, "language": 4})
    assert tensors.keys() == checkpoint.shapes().keys()
    assert torch.equal(tensors["language_model.lm_head.weight"], checkpoint.read("language_model.lm_head.weight"))
    merged = tensors[f"{name}.weight"] + 2 * up @ down
    torch.testing.assert_close(checkpoint.read(f"{name}.weight"), merged)
    load(skeleton(tiny_config(num_hidden_layers=1)), checkpoint, {"": "cpu"}, torch.float32, lambda *_: None)


def _wrapped(name: str) -> str:
    part, rest = name.split(".", 1)
    return f"{part}.base_model.model.{rest}" if part == "language_model" else name


def test_the_scale_of_lora_is_known_or_the_folder_is_refused(tmp_path: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "x.base_layer.weight": (8, 8),
        "x.lora_A.default.weight": (4, 8),
        "x.lora_B.default.weight": (8, 4),
    }
    assert lora_scale(tmp_path, {"x.weight": (8, 8)}, NO_LORA) == 1.0
    assert lora_scale(tmp_path, shapes, {"vision": 0, "language": 4}) == 2.0
    with pytest.raises(UnavailableError, match="nothing says by what"):
        lora_scale(tmp_path, shapes, {"vision": 0, "language": 16})
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 32}')
    assert lora_scale(tmp_path, shapes, NO_LORA) == 8.0
    assert list(unwrap(shapes, 8.0)) == ["x.weight"]


def test_an_adapter_beside_the_base_is_refused(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Its weights would be left out in silence; an adapter_config.json that says how nothing is scaled hints at it."""
    write_weights(tmp_path, tensors)
    Checkpoint(tmp_path, NO_LORA)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    with pytest.raises(ConfigError, match=r"an adapter beside it \(adapter_config\.json, LORA\)"):
        Checkpoint(tmp_path, NO_LORA)
    save_file({"base_model.model.x.lora_A.weight": torch.ones(2, 8)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match=r"adapter_model\.safetensors, LORA.*masks would be those of the base"):
        Checkpoint(tmp_path, NO_LORA)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"use_dora": True}, "use_dora = True"),
        ({"alpha_pattern": {"q_proj": 64}}, "alpha_pattern"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"r": 8}, r"r = 8, but the weights have \[4\]"),
        ({"peft_type": "LOHA"}, "LOHA"),
    ],
)
def test_an_adapter_that_is_no_plain_lora_is_refused_by_name(tmp_path: Path, said: dict[str, Any], words: str) -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "x.base_layer.weight": (8, 8),
        "x.lora_A.default.weight": (4, 8),
        "x.lora_B.default.weight": (8, 4),
    }
    plain = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_dora": False, "alpha_pattern": {}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(plain | {"use_rslora": True}))
    assert lora_scale(tmp_path, shapes, NO_LORA) == 4.0
    (tmp_path / "adapter_config.json").write_text(json.dumps(plain | said))
    with pytest.raises(UnavailableError, match=words):
        lora_scale(tmp_path, shapes, NO_LORA)


@pytest.mark.parametrize(
    "left",
    ["x.lora_magnitude_vector.default.weight", "y.lora_embedding_A.default", "x.lora_A.other.weight"],
)
def test_parts_of_adapters_that_are_not_merged_are_named(left: str) -> None:
    """DoRA's magnitudes, embeddings' factors, a second adapter: left out, they would change masks in silence."""
    shapes: dict[str, tuple[int, ...]] = {
        "x.base_layer.weight": (8, 8),
        "x.lora_A.default.weight": (4, 8),
        "x.lora_B.default.weight": (8, 4),
    }
    unwrap(shapes, 1.0)
    with pytest.raises(UnavailableError, match=left.replace(".", r"\.")):
        unwrap(shapes | {left: (8,)}, 1.0)


def test_weights_that_lie_there_twice_are_refused(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """transformers would take the one file, and the index names others."""
    write_weights(tmp_path, tensors, shards=2)
    write_weights(tmp_path, tensors)
    with pytest.raises(ConfigError, match=r"weights twice: model\.safetensors and .* model\.safetensors\.index\.json"):
        Checkpoint(tmp_path, NO_LORA)


def test_the_revision_changes_with_the_weights_and_not_with_the_folder(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    write_weights(first, tensors)
    shutil.copytree(first, second)
    assert fingerprint(first) == fingerprint(second)
    write_weights(second, tensors | {"mlp1.1.weight": tensors["mlp1.1.weight"] + 1})
    assert fingerprint(first) != fingerprint(second)
