"""What is doubtful about a model is in the log when it is ready."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from watcherd.inference.base import ModelInfo
from watcherd.inference.messages import Ready
from watcherd.service.daemon import Daemon


@pytest.mark.parametrize("warning", ["", "it was trained on another base"])
def test_a_doubtful_model_is_logged_once_for_each_replica(warning: str) -> None:
    logged: list[tuple[str, Any]] = []
    log = SimpleNamespace(
        info=lambda *_, **__: None, warning=lambda event, **said: logged.append((event, said["reason"]))
    )
    quiet = SimpleNamespace(
        set=lambda: None, wake=lambda: None, replica_ready=lambda *_: None, became_ready=lambda *_, **__: None
    )
    daemon: Any = SimpleNamespace(
        _log=log, _replica_ids={0: 1}, _note=lambda _: None, _ready=quiet, _pipeline=quiet, _lane=quiet
    )
    info = ModelInfo(segmenter="sa2va", model="m", revision="r", dtype="float32", warning=warning)
    Daemon.replica_ready(daemon, 0, Ready(info=info, load_ms=1, batch_size=1, weights=(), host_rss_mib=None))
    assert ([("model_doubtful", warning)] if warning else []) == logged
