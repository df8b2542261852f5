"""Processes with their imports done: which are forked, what the forking one must not do, what happens without it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from watcherd.config import Model
from watcherd.inference.pool import prepared
from watcherd.inference.replica import imports

PATIENCE = 60.0


@pytest.fixture(autouse=True)
def own_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of what a test asks for stays."""
    monkeypatch.setattr(prepared, "_server", prepared._Server())
    monkeypatch.setenv(imports.NAMES, "")
    server = multiprocessing.get_context("forkserver")
    monkeypatch.setattr(type(server), "set_forkserver_preload", lambda self, names: None)


def kind(context: Any) -> str:
    return str(context.get_start_method())


def test_only_models_with_long_imports_are_forked() -> None:
    """All of those that are started together have to be."""
    sa2va, vessel = Model(segmenter="sa2va"), Model(segmenter="vessel")
    assert ["forkserver", "spawn", "spawn"] == [
        prepared.start(models, kind) for models in ([sa2va], [vessel], [sa2va, vessel])
    ]


def test_the_modules_of_every_model_that_was_asked_for_are_kept(tmp_path: Path) -> None:
    """Of a folder's own architecture too; a name that is none of a module is left out."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "segformer"}))
    prepared.start([Model(segmenter="sa2va")], kind)
    prepared.start([Model(segmenter="semantic", path=tmp_path)], kind)
    names = os.environ[imports.NAMES].split(",")
    assert {"transformers.models.segformer.modeling_segformer", "accelerate"} <= set(names)
    assert "watcherd.inference.segmenters.sa2va.segmenter" in names
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x, os"}))
    before = os.environ[imports.NAMES]
    prepared.start([Model(segmenter="semantic", path=tmp_path)], kind)
    assert before == os.environ[imports.NAMES]


@pytest.mark.parametrize("error", [EOFError, ConnectionRefusedError])
def test_without_the_forking_process_all_are_started_anew(error: type[Exception]) -> None:
    """It is not waited for a second time."""
    asked: list[str] = []

    def begin(context: Any) -> str:
        asked.append(kind(context))
        if kind(context) == "forkserver":
            raise error
        return asked[-1]

    models = [Model(segmenter="sam3")]
    assert ["spawn", "spawn"] == [prepared.start(models, begin), prepared.start(models, begin)]
    assert ["forkserver", "spawn", "spawn"] == asked


def test_it_ends_when_an_import_has_opened_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork of it could not use one. Imports that fail are no concern of its."""
    (tmp_path / "3").symlink_to("/dev/null")
    assert not imports.touches_gpu(tmp_path)
    (tmp_path / "4").symlink_to("/dev/nvidiactl")
    assert imports.touches_gpu(tmp_path)
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(imports.gc, "freeze", lambda: None)
    monkeypatch.setattr(imports, "touches_gpu", lambda: True)
    monkeypatch.setenv(imports.NAMES, "json,no_such_module")
    for name in imports.ENVIRONMENT:
        monkeypatch.setenv(name, "")
    imports.ready()
    assert [70] == ended


SERVICE = """
import sys, time
from watcherd.config import Model
from watcherd.inference.pool import prepared
from watcherd.inference.replica import process

def replica(connection):
    connection.send("wave" in sys.modules)
    process._bind_to_parent()
    connection.send(True)
    time.sleep(600)

def begin(context):
    ours, theirs = context.Pipe()
    child = context.Process(target=replica, args=(theirs,), daemon=True)
    child.start()
    return child, ours, context.get_start_method()

if __name__ == "__main__":
    prepared._COMMON, prepared._OF = (), {"semantic": ("wave", "no.such.module")}
    child, connection, way = prepared.start([Model(segmenter="semantic")], begin)
    print(child.pid, connection.recv(), connection.recv(), way, flush=True)
    time.sleep(600)
"""


def test_a_forked_process_has_the_imports_and_ends_with_the_service(tmp_path: Path) -> None:
    """Even when that is killed: nothing may go on computing for nobody."""
    script = tmp_path / "service.py"
    script.write_text(SERVICE)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        try:
            pid, imported, bound, way = service.stdout.readline().split()
        finally:
            service.send_signal(signal.SIGKILL)
    assert ("True", "True", "forkserver") == (imported, bound, way)
    until = time.monotonic() + PATIENCE
    while lives(int(pid)):
        assert time.monotonic() < until
        time.sleep(0.01)


def lives(pid: int) -> bool:
    """Not ended, and no corpse that nobody has asked for yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
