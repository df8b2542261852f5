"""``watcherd plan`` for the real Sa2VA-InternVL3-8B: the user's four cards carry four replicas, not half of one."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from watcherd.cli.plan import guess_segmenter, plan
from watcherd.errors import ConfigError, UnavailableError, UsageError

FOLDER = Path(__file__).parents[2] / "data" / "internvl3-8b"

app = typer.Typer()
app.command()(plan)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without a configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WATCHERD_CONFIG", raising=False)


def run(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return json.loads(result.output) if "--json" in arguments else result.output


def sizes(found: Any) -> list[int]:
    return [len(replica["devices"]) for replica in found["replicas"]]


@pytest.mark.parametrize(
    ("gpus", "dtype", "expected"),
    [
        ("4x24GiB", "auto", [1, 1, 1, 1]),
        ("4x12GiB", "auto", [2, 2]),
        ("2x24GiB,2x12GiB", "auto", [1, 1, 2]),
        ("4x24GiB", "float32", [2, 2]),
    ],
)
def test_the_8b_model_uses_every_card(gpus: str, dtype: str, expected: list[int]) -> None:
    """Its config.json says float32, by accident; on GPUs ours is bfloat16. Under 15 s of this process's time."""
    began = time.process_time()
    found = run("--model", str(FOLDER), "--gpus", gpus, "--reserve-gib", "3", "--dtype", dtype, "--json")
    assert time.process_time() - began < 15
    assert sizes(found) == expected
    assert sorted(card for replica in found["replicas"] for card in replica["devices"]) == [0, 1, 2, 3]
    assert found["unused_devices"] == []
    assert found["dtype"] == ("bfloat16" if dtype == "auto" else "float32")
    for replica in found["replicas"]:
        assert replica["weights_gib"] == pytest.approx(15.24 if dtype == "auto" else 30.48, abs=0.01)
        assert replica["reserve_gib"] == 3
        assert replica["free_gib"] > 0
        assert {device.partition(":")[0] for device in replica["device_map"].values()} == {"cuda"}


def test_one_card_of_12_gib_is_refused_with_the_figures_and_what_would_fit() -> None:
    arguments = ("--model", str(FOLDER), "--gpus", "1x12GiB", "--reserve-gib", "3")
    found = run(*arguments, "--json", code=69)
    assert (found["replicas"], found["unused_devices"]) == ([], [0])
    for said in ("15.2 GiB in bfloat16", "3.0 GiB of reserve", "12.0 GiB free", "1 GPU with 19.0 GiB free"):
        assert said in found["reason"]
    with pytest.raises(UnavailableError):
        run(*arguments)


def test_it_can_be_read_without_json() -> None:
    said = run("--model", str(FOLDER), "--gpus", "4x24GiB", "--per-replica", "2", "--reserve-gib", "3")
    assert "replica 1: GPU 2 (24 GiB), GPU 3 (24 GiB); weights 15.2 GiB, reserve 3.0 GiB each" in said
    assert "2 replicas of 2 GPUs" in said


def test_the_command_does_not_need_torch_to_say_what_is_wrong() -> None:
    with pytest.raises(UsageError, match=r"config\.json"):
        run("--model", "nowhere", "--gpus", "4x24GiB")
    with pytest.raises(UsageError, match="4 cards"):
        run("--model", str(FOLDER), "--gpus", "4 cards")
    with pytest.raises(ConfigError, match="no configuration file"):
        run("--gpus", "4x24GiB")


def test_the_configuration_is_used_where_the_command_line_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        f'[model]\nsegmenter = "sa2va"\npath = "{FOLDER}"\n[devices]\nreserve_gib = 3\nreplicas = 1\n'
    )
    found = run("--gpus", "4x24GiB", "--json")
    assert (sizes(found), found["unused_devices"]) == ([1], [1, 2, 3])


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ({"model_type": "sa2va_chat"}, "sa2va"),
        ({"model_type": "sam3", "architectures": ["Sam3Model"]}, "sam3"),
        ({"model_type": "sam3_video", "architectures": ["Sam3VideoModel"]}, "sam3"),
        ({"model_type": "segformer", "architectures": ["SegformerForSemanticSegmentation"]}, "semantic"),
        ({"model_type": "oneformer", "architectures": ["OneFormerForUniversalSegmentation"]}, "semantic"),
        ({"model_type": "maskformer", "architectures": ["MaskFormerForInstanceSegmentation"]}, "semantic"),
    ],
)
def test_the_segmenter_is_guessed_from_config_json(tmp_path: Path, described: object, expected: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(described))
    assert guess_segmenter(tmp_path) == expected


@pytest.mark.parametrize("text", ['{"architectures": ["BertModel"]}', "[]", "{}", '{"architectures": null}', "no"])
def test_a_folder_that_nothing_here_runs_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError):
        guess_segmenter(tmp_path)


# --------------------------------------------------------------------------------------------------- several models


def several(tmp_path: Path, gpus: str, *arguments: str, code: int = 0, **models: dict[str, Any]) -> Any:
    """The plan for ``[model]``, called ``first``, and others; each a table of the configuration."""
    lines = []
    for name, table in models.items():
        lines += ["[model]" if name == "first" else f"[models.{name}]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    path = tmp_path / "config.toml"
    path.write_text("\n".join(lines) + "\n")
    return run("--config", str(path), "--gpus", gpus, *arguments, code=code)


def of_each(found: Any) -> dict[str, list[int]]:
    return {
        name: sorted(card for replica in each["replicas"] for card in replica["devices"])
        for name, each in found["models"].items()
    }


SA2VA = {"segmenter": "sa2va", "path": str(FOLDER)}


def segformer_b5(folder: Path) -> dict[str, str]:
    """What describes it: 84.6 million parameters."""
    folder.mkdir()
    processor = {
        "image_processor_type": "SegformerImageProcessor",
        "do_resize": True,
        "size": {"height": 512, "width": 512},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 2,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    (folder / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["SegformerForSemanticSegmentation"],
                "model_type": "segformer",
                "depths": [3, 6, 40, 3],
                "hidden_sizes": [64, 128, 320, 512],
                "decoder_hidden_size": 768,
                "num_attention_heads": [1, 2, 5, 8],
                "id2label": {"0": "background", "1": "vessel"},
                "label2id": {"background": 0, "vessel": 1},
            }
        )
    )
    return {"segmenter": "semantic", "path": str(folder)}


def test_a_large_and_the_default_model_share_a_card(tmp_path: Path) -> None:
    found = several(tmp_path, "1x24GiB", "--json", first={"segmenter": "vessel"}, big=SA2VA)
    assert {"default": [0], "big": [0]} == of_each(found)
    assert {} == found["without_place"]


def test_two_models_have_a_card_each(tmp_path: Path) -> None:
    found = several(tmp_path, "2x24GiB", "--json", first=SA2VA, small=segformer_b5(tmp_path / "b5"))
    assert {"default": [0], "small": [1]} == of_each(found)
    assert found["models"]["small"]["replicas"][0]["weights_gib"] == pytest.approx(0.158, abs=0.01)


def test_cards_that_are_left_go_by_share(tmp_path: Path) -> None:
    found = several(tmp_path, "4x24GiB", "--json", first=SA2VA | {"share": 3}, second=SA2VA)
    assert (3, 1) == tuple(map(len, of_each(found).values()))
    assert [] == found["unused_devices"]


def test_who_does_not_fit_beside_another_is_said_with_the_reason(tmp_path: Path) -> None:
    found = several(tmp_path, "1x24GiB", "--json", code=69, first=SA2VA, second=SA2VA)
    assert {"default": [0]} == of_each(found)
    assert "There is no room for it beside default" in found["without_place"]["second"]["reason"]
    said = several(tmp_path, "1x24GiB", code=69, first=SA2VA, second=SA2VA)
    assert "default, replica 0: GPU 0" in said
    assert "second has no place: There is no room for it beside default" in said


def test_a_model_that_is_named_on_the_command_line_is_planned_alone(tmp_path: Path) -> None:
    found = several(tmp_path, "2x24GiB", "--model", str(FOLDER), "--json", first={}, second=SA2VA)
    assert [1, 1] == sizes(found)
