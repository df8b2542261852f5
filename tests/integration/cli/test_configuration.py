"""``watcherd config check``, and what every command does without a right configuration."""

from __future__ import annotations

import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from watcherd.cli.app import run

if TYPE_CHECKING:
    from tests.integration.cli.conftest import CommandLine

SAMPLE = Path(__file__).parents[3] / "config.toml"


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


def test_instances_that_the_model_does_not_tell_apart_are_warned_of(watcherd: CommandLine) -> None:
    watcherd.configure('[profiles.cells]\nfolder = "cells"\ninstances = true\n')
    said = watcherd("config", "check")
    assert 0 == said.code
    assert "profiles.cells.instances has no effect: the segmenter 'fake' tells none apart." in said.err


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
        ("sam3", "models/gone", ("models/gone' is not there",)),
        ("sam3", "", ("sam3 needs a model folder", "model.path is empty")),
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


# ------------------------------------------------------------------------------------------------------------ the first


def test_the_first_one_is_written_and_can_be_used_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sample with every key, and what to type next."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WATCHERD_CONFIG", raising=False)
    assert 0 == run(["config", "init"])
    said = capsys.readouterr().out
    assert SAMPLE.read_bytes() == (tmp_path / "config.toml").read_bytes()
    for words in ("  watcherd run\n", str(tmp_path / "inbox"), str(tmp_path / "outbox")):
        assert words in said, words
    assert 0 == run(["config", "check"])


def test_the_first_one_may_be_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then the next command names it, quoted for a shell."""
    monkeypatch.chdir(tmp_path)
    assert 0 == run(["config", "init", "my own.toml"])
    assert "watcherd run --config 'my own.toml'\n" in capsys.readouterr().out


def test_the_first_one_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even through a link that leads nowhere yet."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_text("# mine\n")
    (tmp_path / "link.toml").symlink_to("gone.toml")
    for file in ("config.toml", "link.toml"):
        assert 64 == run(["config", "init", file])
        assert "is left as it is" in capsys.readouterr().err
    assert "# mine\n" == (tmp_path / "config.toml").read_text()
    assert not (tmp_path / "gone.toml").exists()


def test_where_nothing_can_be_written_the_reason_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 69 == run(["config", "init", str(tmp_path / "gone" / "config.toml")])
    assert "No such file or directory" in capsys.readouterr().err


def test_a_disk_that_is_full_leaves_no_half_of_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It would be taken for a configuration, and refused the second time."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        assert 69 == run(["config", "init", str(tmp_path / "config.toml")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["run"], ["run", "--once"], ["status"], ["ask", "today"]])
def test_without_any_the_way_to_a_first_one_is_told(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody has to find the sample."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WATCHERD_CONFIG", raising=False)
    monkeypatch.setattr("watcherd.config.toml_file.SEARCHED", (tmp_path / "config.toml",))
    assert 78 == run(command)
    assert "`watcherd config init`" in capsys.readouterr().err
