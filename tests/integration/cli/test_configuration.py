"""``watcherd config check``, and what every command does without a right configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from watcherd.cli.app import run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.cli.conftest import CommandLine


def test_a_right_one_is_called_right_with_what_it_comes_to(watcherd: CommandLine) -> None:
    """Folders are absolute, and read from where the file is, not from where the person is."""
    said = watcherd("config", "check")
    assert 0 == said.code
    for words in (f"{watcherd.config_file} is right.", str(watcherd.folder / "inbox"), "fake", "coronary"):
        assert words in said.out, words
    answer = watcherd("config", "check", "--json").json
    assert str(watcherd.folder / "outbox") == answer["config"]["outbox"]["path"]
    assert 0.25 == answer["config"]["profiles"]["coronary"]["threshold"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[outbox]\nlayout = 'per-year'", ("outbox.layout = 'per-year'", "allowed", "per-kind", "per-scan")),
        ("[outbox]\nouputs = []", ("outbox.ouputs", "no such key", "layout, measures, outputs, path")),
        ("[devices]\nreplicas = 0", ("devices.replicas = 0", "auto", "greater than 0")),
        ("[privacy]\nnames = 1\n[retention]\nbackups = 'all'", ("privacy.names = 1", "retention.backups = 'all'")),
        ("[outbox", ("is not TOML",)),
    ],
)
def test_a_wrong_one_is_told_with_key_value_and_what_is_allowed(
    watcherd: CommandLine, text: str, words: tuple[str, ...]
) -> None:
    """All mistakes at once; exit code 78, and nothing on stdout that a script could take for an answer."""
    watcherd.configure(f"{text}\n")
    for arguments in (["config", "check"], ["config", "check", "--json"]):
        said = watcherd(*arguments)
        assert (78, "") == (said.code, said.out)
        assert str(watcherd.config_file) in said.err
        for word in words:
            assert word in said.err, word


def test_runs_that_the_model_cannot_follow_are_warned_of(
    watcherd: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration is right all the same, and what a script reads stays clean."""
    watcherd.configure('[profiles.cine]\nfolder = "cine"\ngroup_frames = true\n')
    said = watcherd("config", "check")
    assert 0 == said.code
    assert "profiles.cine.group_frames has no effect: the segmenter 'fake' follows no runs." in said.err
    assert "warning" not in said.out
    monkeypatch.setenv("WATCHERD_MODEL__SEGMENTER", "sa2va")
    monkeypatch.setenv("WATCHERD_MODEL__PATH", str(watcherd.folder))
    assert "" == watcherd("config", "check").err


def test_limits_of_which_one_lets_through_what_the_other_refuses_are_warned_of(
    watcherd: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The defaults agree."""
    assert "worker_memory_mib" not in watcherd("config", "check").err
    monkeypatch.setenv("WATCHERD_LIMITS__MAX_PIXELS", "400000000")
    said = watcherd("config", "check")
    assert 0 == said.code
    assert "colour pictures of that size need 3,052 MiB" in said.err
    assert "set max_pixels to 268,435,456" in said.err


@pytest.mark.parametrize("command", [("config", "check"), ("config", "check", "--json"), ("run", "--once")])
@pytest.mark.parametrize(
    ("segmenter", "path", "words"),
    [
        ("vesels", "", ("model.segmenter = 'vesels'", "no such segmenter", "vesselness")),
        ("semantic", "models/gone", ("model.path = ", "models/gone' is not there")),
        ("vessel", "models/gone", ("models/gone' is not there",)),
        ("sa2va", "config.toml", ("config.toml' is no folder",)),
        ("semantic", "", ("semantic needs a model folder", "model.path is empty")),
    ],
)
def test_an_unknown_segmenter_and_a_missing_folder_are_refused(
    watcherd: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    segmenter: str,
    path: str,
    words: tuple[str, ...],
) -> None:
    """Exit code 78 from the check and from the service, which would otherwise start replicas in vain."""
    monkeypatch.setenv("WATCHERD_MODEL__SEGMENTER", segmenter)
    monkeypatch.setenv("WATCHERD_MODEL__PATH", path)
    said = watcherd(*command)
    assert (78, "") == (said.code, said.out)
    for word in words:
        assert word in said.err, word


def test_folders_inside_one_another_are_refused(watcherd: CommandLine) -> None:
    """Results in the inbox would be taken for scans."""
    watcherd.configure('[outbox]\npath = "inbox/results"\n')
    said = watcherd("config", "check")
    assert 78 == said.code
    assert "outbox.path" in said.err
    assert "lies inside inbox.path" in said.err


def test_the_environment_overrides_a_key(watcherd: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """WATCHERD_<SECTION>__<KEY>; a wrong value there is a mistake like any other."""
    monkeypatch.setenv("WATCHERD_MODEL__THRESHOLD", "0.75")
    assert 0.75 == watcherd("config", "check", "--json").json["config"]["model"]["threshold"]
    monkeypatch.setenv("WATCHERD_MODEL__THRESHOLD", "7")
    said = watcherd("config", "check")
    assert 78 == said.code
    assert "model.threshold = '7'" in said.err


EVERY_COMMAND = (
    ["run"], ["status"], ["jobs"], ["show", "1"], ["retry", "1"], ["cancel", "1"], ["prioritise", "1"], ["pause"],
    ["resume"], ["reload"], ["prune"], ["doctor"], ["config", "check"], ["db", "upgrade"], ["db", "check"],
    ["db", "backup"], ["db", "restore", "copy.db"],
)  # fmt: skip


@pytest.mark.parametrize("command", EVERY_COMMAND, ids=" ".join)
def test_every_command_says_where_it_looked_for_a_configuration(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 78; nothing is made in the folder where the person happens to be."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WATCHERD_CONFIG", raising=False)
    monkeypatch.setattr("watcherd.config.toml_file.SEARCHED", (tmp_path / "config.toml", tmp_path / "etc.toml"))
    assert 78 == run(command)
    said = capsys.readouterr()
    assert "" == said.out
    for words in ("config.toml", "etc.toml", "--config", "WATCHERD_CONFIG"):
        assert words in said.err, words
    assert 78 == run([*command, "--config", "nowhere.toml"])
    assert "nowhere.toml" in capsys.readouterr().err
    assert [] == list(tmp_path.iterdir())


def test_the_environment_names_the_configuration(
    watcherd: CommandLine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """WATCHERD_CONFIG, for shells and timers."""
    monkeypatch.setenv("WATCHERD_CONFIG", str(watcherd.config_file))
    assert 0 == run(["config", "check"])
    assert str(watcherd.config_file) in capsys.readouterr().out
