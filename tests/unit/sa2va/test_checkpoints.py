"""A training's checkpoint on its base is the model that the official export makes of them, or is refused by name."""

from __future__ import annotations

import builtins
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests import sa2va_training as training
from tests.sa2va_folder import DATA
from tests.sa2va_golden import arrays, frames_of
from tests.sa2va_tiny import TRUNK
from watcherd.config import Model, Sa2va
from watcherd.errors import ConfigError, UnavailableError
from watcherd.inference import inspection
from watcherd.inference.base import Placement
from watcherd.inference.segmenters import create, refuse_unknown
from watcherd.inference.segmenters.sa2va import export as exporting
from watcherd.inference.segmenters.sa2va import pickled, run_notes, trained
from watcherd.inference.segmenters.sa2va.export import export
from watcherd.inference.segmenters.sa2va.network import skeleton
from watcherd.inference.segmenters.sa2va.renames import needed
from watcherd.inference.segmenters.sa2va.trained import Trained

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sa2va_training import Training


def quiet(*_: object) -> None:
    """Nobody listens."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    training.small_sam2(monkeypatch, TRUNK)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Training]:
    with pytest.MonkeyPatch.context() as patch:
        training.small_sam2(patch, TRUNK)
        return {kind: training.write_training(tmp_path_factory.mktemp(kind), kind) for kind in training.RECORDED}


@pytest.fixture(scope="module")
def exported(written: dict[str, Training], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each kind as one folder, in many shards."""
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        training.small_sam2(patch, TRUNK)
        for kind, parts in written.items():
            export(parts.trained(), out / kind, quiet, shard_bytes=2_000_000)
    return {kind: out / kind for kind in written}


@pytest.fixture
def parts(written: dict[str, Training], tmp_path: Path) -> Training:
    """A training of a test's own, to be changed."""
    for path in (written["zero3"].base, written["zero3"].sam2, written["zero3"].checkpoint):
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, tmp_path / path.name)
    return training.Training(
        base=tmp_path / "InternVL3-8B", sam2=tmp_path / "sam2_hiera_large.pt", checkpoint=tmp_path / "iter_20.pth"
    )


def loaded(path: Path, sa2va: Sa2va | None = None, dtype: str = "float32") -> Any:
    segmenter: Any = create(Model(segmenter="sa2va", path=path, sa2va=sa2va or Sa2va(max_new_tokens=16)))
    segmenter.load(Placement(dtype=dtype), quiet)
    return segmenter


def opened(parts: Training) -> trained.TrainedTensors:
    found = parts.trained()
    return found.open(needed(skeleton(found.config).state_dict()))


# ---------------------------------------------------------------------------------------------------------- it is equal


@pytest.mark.parametrize("kind", training.RECORDED)
def test_every_exported_tensor_is_that_of_the_official_export(kind: str, exported: dict[str, Path]) -> None:
    """Bit for bit, with its dtype; here all but SAM2's image encoder, which is a small one."""
    assert training.RECORDED[kind]["image encoder"] == training.digest(exported[kind], training.IMAGE_ENCODER)
    assert 5 < len(list(exported[kind].glob("*.safetensors")))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", training.RECORDED)
def test_the_checkpoint_loads_as_its_exported_folder_does(
    kind: str, dtype: str, written: dict[str, Training], exported: dict[str, Path]
) -> None:
    """Every tensor of the network, those that no file holds too; and of the golden picture the same mask."""
    one = loaded(written[kind].base, written[kind].settings, dtype)
    other = loaded(exported[kind], dtype=dtype)
    mine, theirs = (dict(each.engine.network.named_parameters()) for each in (one, other))
    mine |= dict(one.engine.network.named_buffers())
    theirs |= dict(other.engine.network.named_buffers())
    assert mine.keys() == theirs.keys() >= one.engine.network.state_dict().keys()
    assert [] == [name for name in mine if not torch.equal(mine[name], theirs[name])]
    frames = frames_of(arrays("image"), "image")
    (mask,), (expected,) = one.predict(frames), other.predict(frames)
    assert expected.probability is not None
    assert (expected.probability == mask.probability).all()
    assert expected.answer == mask.answer


def test_words_and_configuration_are_those_of_the_official_export(exported: dict[str, Path]) -> None:
    """The grown tokenizer is that of the reference, word for word; the configuration says what it holds."""
    for name in ("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "vocab.json", "merges.txt"):
        reference = (DATA / "tokenizer" / name).read_text()
        found = (exported["zero3"] / name).read_text()
        assert reference == found or json.loads(reference) == json.loads(found), name
    reference = json.loads((DATA / "layer-norm" / "config.json").read_text())
    said = json.loads((exported["zero3"] / "config.json").read_text())
    assert said.pop("hidden_size") == reference["llm_config"]["hidden_size"]
    assert reference == said | {"auto_map": reference.get("auto_map")}
    assert said["auto_map"]["AutoModel"] == "modeling_sa2va_chat.Sa2VAChatModel"


def test_an_untouched_padded_table_is_cut_and_a_short_one_refused(parts: Training) -> None:
    """What is not trained comes from the base, whose tables may have rows that no word has."""
    path = parts.base / "model.safetensors"
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    name = "language_model.model.embed_tokens.weight"
    padded = torch.cat([weights[name], torch.ones(13, 128, dtype=torch.bfloat16)])
    save_file(weights | {name: padded}, path, {"format": "pt"})
    parts.change(lambda content: content["state_dict"].pop(training.EMBEDDING))
    tensors = opened(parts)
    assert (356, 128) == tensors.shapes()[name]
    assert torch.equal(padded[:356], tensors.read(name))
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(UnavailableError, match=r"embed_tokens.* has 351 rows, but there are 356 words"):
        opened(parts)


def test_a_sa2va_folder_is_a_base_that_needs_no_sam2(exported: dict[str, Path], parts: Training) -> None:
    """Its words are there already; what the checkpoint replaces is the checkpoint's, LoRA goes on top."""
    found = Trained(exported["runner"], parts.checkpoint)
    assert () == found.added
    tensors = found.open(needed(skeleton(found.config).state_dict()))
    state = parts.content()["state_dict"]
    assert torch.equal(
        state[training.EMBEDDING], tensors.read("language_model.model.embed_tokens.weight").to(torch.bfloat16)
    )
    with pytest.raises(ConfigError, match="is a Sa2VA, which holds SAM2"):
        Trained(exported["runner"], parts.checkpoint, parts.sam2)


def test_a_dictionary_of_weights_without_notes_is_read(parts: Training) -> None:
    """As tools write it that make one file for a further training: whole tensors, no LoRA, no notes."""
    state = parts.content()["state_dict"]
    torch.save({name: tensor for name, tensor in state.items() if ".lora_" not in name}, parts.checkpoint)
    tensors = opened(parts)
    assert tensors.read("mlp1.1.bias").dtype is torch.bfloat16
    assert parts.trained().revision().count("-iterunknown-") == 1


# ---------------------------------------------------------------------------------------------------------- read safely


def test_the_log_of_a_training_is_no_hindrance(parts: Training) -> None:
    """Its objects become empty; nothing of mmengine's or numpy's is made."""
    with pytest.raises(Exception, match=r"Unsupported global|Weights only load failed"):
        torch.load(parts.checkpoint, weights_only=True)
    content = pickled.read(parts.checkpoint)
    assert 20 == content["meta"]["iter"]
    assert "_Hollow" == type(content["message_hub"]["log_scalars"]["train/loss"]).__mro__[1].__name__
    assert not [each for each in torch.serialization.get_safe_globals() if isinstance(each, tuple)]


@pytest.mark.parametrize(
    ("named", "name"), [(os.system, r"posix\.system"), (print, "builtins.print"), (Path, r"pathlib\.\w*Path|Path")]
)
def test_a_file_that_names_something_else_is_refused_by_its_name(tmp_path: Path, named: object, name: str) -> None:
    """It is only named; the refusal comes before anything is made of the file."""
    path = tmp_path / "iter_1.pth"
    torch.save({"state_dict": {"a": torch.ones(1)}, "hook": named}, path)
    with pytest.raises(UnavailableError, match=name) as caught:
        pickled.read(path)
    assert "is not read" in caught.value.message


def test_what_another_library_has_called_safe_is_refused_too(tmp_path: Path) -> None:
    """torch's list of safe names is the whole process's, and anybody may add to it."""
    path = tmp_path / "iter_1.pth"
    torch.save({"state_dict": {"a": torch.ones(1)}, "where": os.getcwd}, path)
    with (
        torch.serialization.safe_globals([os.getcwd]),
        pytest.raises(UnavailableError, match=r"is not read: posix\.getcwd"),
    ):
        pickled.read(path)


def test_what_a_file_names_is_never_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a name that is let through: a call of it makes an empty object of ours."""
    called: list[object] = []

    class Asks:
        def __reduce__(self) -> Any:
            return getattr, ("text", "no_such_thing")

    path = tmp_path / "iter_1.pth"
    torch.save({"state_dict": {"a": torch.ones(1)}, "log": Asks()}, path)
    monkeypatch.setattr(builtins, "getattr", lambda *said: called.append(said))
    content = pickled.read(path)
    monkeypatch.undo()
    assert "_Hollow" == type(content["log"]).__mro__[1].__name__
    assert [] == [said for said in called if said[1:] == ("no_such_thing",)]  # type: ignore[index]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\x80\x02}q\x00.", "is no zip archive"),
    ],
)
def test_what_is_no_checkpoint_is_called_that(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "iter_1.pth"
    path.write_bytes(content)
    with pytest.raises(UnavailableError, match=words):
        pickled.read(path)


def test_a_checkpoint_cut_short_is_refused(parts: Training) -> None:
    """A copy that broke off has lost the end, where a zip archive says what is in it."""
    parts.checkpoint.write_bytes(parts.checkpoint.read_bytes()[:-100])
    with pytest.raises(UnavailableError, match="broke off"):
        parts.trained()


def test_a_tensor_that_repeats_a_few_numbers_is_refused(parts: Training) -> None:
    """A small file could otherwise ask for any amount of memory."""
    parts.change(lambda content: content["state_dict"].update({"mllm.model.x": torch.ones(1).expand(1000)}))
    with pytest.raises(UnavailableError, match=r"no dense tensor: mllm\.model\.x"):
        parts.trained()


# ------------------------------------------------------------------------------------------------------- what was noted


def noted(text: str) -> run_notes.Notes:
    return run_notes.read({"iter": 3, "cfg": text})


def test_the_configuration_is_parsed_and_never_run() -> None:
    """Calls and names that it does not define are unknown values, whatever they would do."""
    found = noted("import os\nx = os.system('true')\nr = 64\nllm_lora = dict(lora_alpha=128, r=r)\ny = [x, -1]\n")
    assert 2.0 == found.scale("language_model", 64, Path("it"))
    assert found.said["x"] is run_notes.UNKNOWN
    assert [run_notes.UNKNOWN, -1] == found.said["y"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("llm_lora = dict(r=4)", "does not say lora_alpha"),
        ("a = dict(lora_alpha=8)\nb = dict(lora_alpha=16)", "does not say lora_alpha once"),
        ("llm_lora = dict(lora_alpha=float('nan'))", "does not say lora_alpha once and as a number"),
        ("llm_lora = dict(", "is not Python"),
        ("", "holds no configuration"),
        ("llm_lora = dict(lora_alpha=8, use_dora=True)", "use_dora = True"),
        ("llm_lora = dict(lora_alpha=8, use_rslora=True)", "use_rslora = True"),
        ("llm_lora = dict(lora_alpha=8, r=8)", "r = 8, but the weights have 4"),
        ("llm_lora = dict(lora_alpha=8, alpha_pattern={'q': 2})", "alpha_pattern"),
    ],
)
def test_a_scale_that_is_not_known_is_refused(text: str, words: str, parts: Training) -> None:
    """Twice the rank is what most have, and a guess."""
    parts.change(lambda content: content["meta"].update(cfg=text))
    with pytest.raises(UnavailableError, match=words):
        opened(parts)


def test_a_base_that_the_training_does_not_name_is_warned_of(parts: Training) -> None:
    """Every shape agrees with a sibling's; the load succeeds, and the warning goes with the model."""
    assert "" == parts.trained().warning
    other = parts.base.rename(parts.base.with_name("InternVL2_5-8B"))
    segmenter = loaded(other, parts.settings)
    warning = segmenter.info().warning
    assert "was trained on /somewhere/InternVL3-8B, and its base here is called InternVL2_5-8B" in warning
    found = inspection.inspect(parts.checkpoint, other, parts.sam2)
    assert (warning, "") == (found.warning, found.refused)
    cached = parts.base.with_name("models--OpenGVLab--InternVL3-8B") / "snapshots" / "abc"
    assert parts.trained().notes.names_base(cached) if parts.base.exists() else noted(training.CFG).names_base(cached)


# ---------------------------------------------------------------------------------------------------- what does not fit


def renamed(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["state_dict"][new] = content["state_dict"].pop(old)

    return change


def set_to(name: str, *shape: int) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["state_dict"].update({name: torch.ones(shape)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_to("mllm.model.language_model.extra.weight", 2), r"fit nothing in the model \(1\): mllm\.model\.language"),
        (
            renamed(training.DOWN, training.DOWN.replace("layers.0", "layers.9")),
            r"adapters that are not merged.*layers\.9",
        ),
        (set_to(training.EMBEDDING, 361, 128), r"has 361 rows, but there are 356 words.*5 added \(\[SEG\], <p>"),
        (set_to(training.EMBEDDING, 356, 64), r"is \(356, 64\), expected \(356, 128\)"),
        (set_to(training.DOWN, 4, 96), r"make \(128, 96\), expected \(128, 128\)"),
        (set_to(training.DOWN, 2, 128), "halves of LoRA .* do not fit"),
        (
            set_to(training.DOWN.replace("lora_A", "lora_magnitude_vector"), 128),
            "DoRA's magnitudes.*lora_magnitude_vector",
        ),
        (set_to("mllm.model.language_model.model.embed_tokens.weight", 356, 128), "one tensor under two names"),
        (
            lambda content: content["state_dict"].pop("text_hidden_fcs.0.bias"),
            r"lack 1 tensors: text_hidden_fcs\.0\.bias",
        ),
        (lambda content: content.update(state_dict=[1]), "state_dict that is list"),
        (lambda content: content["meta"].update(cfg=training.CFG.replace("qwen_chat", "vicuna")), "vicuna"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_names(
    change: Callable[[dict[str, Any]], None], words: str, parts: Training
) -> None:
    """Others leave it out in silence, and the masks are another model's."""
    parts.change(change)
    with pytest.raises((UnavailableError, ConfigError), match=words) as caught:
        opened(parts)
    assert str(parts.checkpoint) in caught.value.message
    found = inspection.inspect(parts.checkpoint, parts.base, parts.sam2)
    assert caught.value.message in found.refused


def test_shards_of_deepspeed_are_refused_with_what_makes_one_file_of_them(tmp_path: Path, parts: Training) -> None:
    shards = tmp_path / "iter_9.pth"
    shards.mkdir()
    (shards / "zero_pp_rank_0_mp_rank_00_model_states.pt").write_bytes(b"x")
    model = Model(segmenter="sa2va", path=parts.base, sa2va=Sa2va(checkpoint=shards, sam2=parts.sam2))
    for refuse in (lambda: refuse_unknown(model), lambda: create(model), lambda: pickled.read(shards)):
        with pytest.raises(UnavailableError, match="folder of DeepSpeed's shards") as caught:
            refuse()
        assert f"zero_to_fp32.py {tmp_path} OUT --tag iter_9.pth" in caught.value.hint
    assert "a folder of DeepSpeed's shards" == inspection.inspect(shards).what


def test_files_that_are_missing_or_of_no_use_are_refused_by_their_keys(parts: Training, exported: Any) -> None:
    def refused(path: Path | None, words: str, **said: Any) -> None:
        with pytest.raises(ConfigError, match=words):
            create(Model(segmenter="sa2va", path=path, sa2va=Sa2va(**said)))

    gone = parts.base / "gone"
    refused(None, r"model\.path is empty", checkpoint=parts.checkpoint)
    refused(parts.base, r"model\.sa2va\.checkpoint = .*gone' is not there", checkpoint=gone, sam2=parts.sam2)
    refused(parts.base, r"model\.sa2va\.sam2 = .*gone' is not there", checkpoint=parts.checkpoint, sam2=gone)
    refused(parts.base, r"holds no SAM2, and model\.sa2va\.sam2 is empty", checkpoint=parts.checkpoint)
    refused(exported["zero3"], r"sam2 is set without", sam2=parts.sam2)
    refused(parts.base, "is an InternVL, which cannot segment by itself")
    for key in ("checkpoint", "sam2"):
        with pytest.raises(ConfigError, match=rf"model\.sa2va\.{key} = .*gone' is not there"):
            refuse_unknown(Model(segmenter="sa2va", path=parts.base, sa2va=Sa2va(**{key: gone})))


def test_another_sam2_is_called_that(parts: Training) -> None:
    """SAM2.1 has tensors more."""
    content = torch.load(parts.sam2, weights_only=True)
    content["model"] |= {"no_obj_embed_spatial": torch.ones(1, 64)}
    torch.save(content, parts.sam2)
    with pytest.raises(UnavailableError, match=r"not of this model: no_obj_embed_spatial") as caught:
        opened(parts)
    assert "not 2.1" in caught.value.hint


# ----------------------------------------------------------------------------------------------------- what is recorded


def test_the_revision_holds_the_checkpoints_hash_and_iteration(parts: Training) -> None:
    """What inspect-model says is what the record has; every part counts."""
    info = create(Model(segmenter="sa2va", path=parts.base, sa2va=parts.settings)).info()
    found = inspection.inspect(parts.checkpoint, parts.base, parts.sam2)
    assert (info.revision, info.model) == (found.revision, "InternVL3-8B+iter_20.pth") == (found.revision, found.model)
    sha256 = trained.sha256(parts.checkpoint)
    assert (20, sha256) == (found.holds["iteration"], found.holds["sha256"])
    assert f"-iter20-{sha256[:16]}-native-3" in info.revision
    for path, where in ((parts.checkpoint, -300_000), (parts.sam2, -1_000_000), (parts.base / "model.safetensors", -9)):
        before = parts.trained().revision()
        content = bytearray(path.read_bytes())
        content[where] ^= 1
        path.write_bytes(content)
        assert before != parts.trained().revision(), path


def test_weights_overwritten_under_a_running_model_change_nothing(parts: Training) -> None:
    """Neither those of the checkpoint nor SAM2's nor the base's."""
    segmenter = loaded(parts.base, parts.settings)
    before = {name: value.clone() for name, value in segmenter.engine.network.state_dict().items()}
    for path in (parts.checkpoint, parts.sam2, parts.base / "model.safetensors"):
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
    after = segmenter.engine.network.state_dict()
    assert [] == [name for name in before if not torch.equal(before[name], after[name])]


# ----------------------------------------------------------------------------------------------------------- the export


@pytest.mark.parametrize("after", [0, 3])
def test_an_export_that_breaks_off_leaves_nothing(
    after: int, parts: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the folder nor its half; what was there stays as it was."""
    before = sorted(path.name for path in tmp_path.iterdir())
    count = iter(range(10_000))
    write = exporting._bytes_of

    def broken(*said: Any) -> memoryview:
        if next(count) >= after:
            raise OSError(28, "No space left on device")
        return write(*said)

    monkeypatch.setattr(exporting, "_bytes_of", broken)
    with pytest.raises(UnavailableError, match="No space left on device"):
        export(parts.trained(), tmp_path / "out", quiet)
    assert before == sorted(path.name for path in tmp_path.iterdir())


def test_an_export_overwrites_nothing_and_asks_for_room(
    parts: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="is there already"):
        export(parts.trained(), parts.base, quiet)
    room = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room)
    with pytest.raises(UnavailableError, match=r"needs 0\.0 GB, and .* has room for 0\.0 GB"):
        export(parts.trained(), tmp_path / "out", quiet)


def test_inspecting_tells_what_each_part_is(parts: Training, exported: dict[str, Path], tmp_path: Path) -> None:
    """A checkpoint names its base, a base what it lacks, a folder its size, its revision and what it was made of."""
    alone = inspection.inspect(parts.checkpoint)
    assert ("a training checkpoint of Sa2VA", 172, 14, [4]) == (
        alone.what,
        *(alone.holds[key] for key in ("tensors", "lora_layers", "lora_ranks")),
    )
    assert "/somewhere/InternVL3-8B" in alone.missing[0]
    assert "base of a Sa2VA training" in inspection.inspect(parts.base).what
    assert "SAM2's own" in inspection.inspect(parts.sam2).what
    whole = inspection.inspect(exported["zero3"], segmenter="sa2va")
    assert (create(Model(segmenter="sa2va", path=exported["zero3"])).info().revision, "") == (
        whole.revision,
        whole.refused,
    )
    assert whole.loaded_bytes == {"bfloat16": 2 * whole.parameters, "float32": 4 * whole.parameters}
    assert 20 == whole.holds["exported_from"]["iteration"]
    other = tmp_path / "resnet.pth"
    torch.save({"conv1.weight": torch.ones(2, 2)}, other)
    assert "none of which is a Sa2VA's" in inspection.inspect(other).what
    broken = shutil.copytree(exported["zero3"], tmp_path / "broken")
    next(iter(broken.glob("model-00002*"))).unlink()
    assert "is not there" in inspection.inspect(broken, segmenter="sa2va").refused
    assert json.loads(json.dumps(whole.as_json()))["revision"] == whole.revision
