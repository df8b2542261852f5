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
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from watcherd.config import Model
from watcherd.inference.pool import prepared
from watcherd.inference.pool.local import LocalCarrier
from watcherd.inference.replica import imports, process

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


def test_a_forked_process_that_cannot_use_its_gpu_is_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so by its exit code, before it loads anything; then nothing is forked any more."""
    code: list[int] = []

    def leave(value: int) -> None:
        code.append(value)
        raise SystemExit

    monkeypatch.setattr(process.os, "_exit", leave)
    for name in ("_bind_to_parent", "_keep_quiet_about_interrupts"):
        monkeypatch.setattr(process, name, lambda: None)
    monkeypatch.setattr(
        process, "faulthandler", SimpleNamespace(enable=lambda *_: None, register=lambda *_, **__: None)
    )
    monkeypatch.setattr(process, "_is_forked", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", refuse)
    for name in ("CUDA_VISIBLE_DEVICES", "TORCHINDUCTOR_CACHE_DIR", "OMP_WAIT_POLICY", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.setenv(name, "")
    spec: Any = SimpleNamespace(stack=Path(os.devnull), visible=("GPU-1",), cache=Path(os.devnull))
    with pytest.raises(SystemExit):
        process.main(spec, cast("Any", None))
    assert [imports.NO_GPU] == code

    carrier = LocalCarrier(spec)
    ended: Any = SimpleNamespace(exitcode=imports.NO_GPU, join=lambda _seconds: None)
    carrier._process = ended
    assert "forkserver" == prepared.start([Model(segmenter="sa2va")], kind)
    assert "started anew" in str(carrier._ended())
    assert "spawn" == prepared.start([Model(segmenter="sa2va")], kind)


def refuse() -> None:
    raise RuntimeError("CUDA error: initialization error")


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
