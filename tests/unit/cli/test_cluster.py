"""The parts of a cluster on the command line, and what they say where something is missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.inference.cluster_faults import Bridge, FarCluster
from watcherd.cli.app import run
from watcherd.inference.cluster import bridge as bridging
from watcherd.inference.cluster.nodes import Node
from watcherd.inference.machine.devices import parse_inventory

Written = Callable[[str], list[str]]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    """A configuration with this in it, as an option; the extra counts as installed."""
    monkeypatch.setattr("watcherd.config.toml_file.find_spec", lambda _: True)

    def write(text: str) -> list[str]:
        (tmp_path / "config.toml").write_text(f'[model]\nsegmenter = "none"\n{text}')
        return ["--config", str(tmp_path / "config.toml")]

    return write


class Seen(FarCluster):
    """Two machines, one of which is refused."""

    def nodes(self) -> tuple[Node, ...]:
        bee = Node(name="bee", address="10.0.0.2", born="1", version="1.0", cards=parse_inventory("2x24GiB"))
        old = Node(name="old", address="10.0.0.3", born="2", version="0.1", refused="it has watcherd 0.1")
        return (bee, old)


@pytest.fixture
def bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(bridging, "LISTEN_SECONDS", 0.02)
    (tmp_path / "state").mkdir()
    found = Bridge(tmp_path / "state" / "bridge.sock", Seen())
    yield
    found.end()


RAY = '[cluster]\nengine = "ray"\nlocal = false\n'


def test_a_plan_of_the_cluster_shows_each_machine_and_each_replica(
    written: Written, bridge: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that are refused too, with the reason. The address is another machine's: only the bridge is asked."""
    options = written(RAY)
    assert 0 == run(["plan", "--cluster", *options])
    said = capsys.readouterr().out
    assert "bee (10.0.0.2): 2 GPUs\n" in said
    assert "old (10.0.0.3): refused: it has watcherd 0.1\n" in said
    assert "default, replica 1: GPU 1 of bee (24 GiB)" in said
    assert 0 == run(["plan", "--cluster", "--json", *options])
    answer = json.loads(capsys.readouterr().out)
    assert ["bee", "old"] == [each["name"] for each in answer["machines"]]
    assert ["bee", "bee"] == [each["node"] for each in answer["models"]["default"]["replicas"]]


def test_without_the_bridge_a_plan_says_how_to_start_it(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    assert 69 == run(["plan", "--cluster", *written(RAY)])
    assert "`watcherd bridge` in a terminal" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["head"], ["bridge"], ["plan", "--cluster"]])
def test_a_part_of_a_cluster_that_there_is_not_is_refused(
    written: Written, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: True)
    assert 78 == run([*command, *written("")])
    assert 'cluster.engine is ""' in capsys.readouterr().err


def test_two_inventories_at_once_are_refused(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    assert 64 == run(["plan", "--cluster", "--gpus", "2x24GiB", *written(RAY)])
    assert "--cluster and --gpus" in capsys.readouterr().err


def test_a_worker_without_ray_says_how_to_install_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert 69 == run(["worker", "--head", "bee"])
    assert 'pip install "watcherd[cluster]"' in capsys.readouterr().err


def test_a_worker_without_a_token_does_not_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: True)
    assert 69 == run(["worker", "--head", "bee", "--token", str(tmp_path / "token")])
    assert "cannot be read" in capsys.readouterr().err
