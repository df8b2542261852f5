"""What is doubtful about a model is in the log when it is ready."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from watcherd.inference.base import ModelInfo
from watcherd.inference.messages import Ready
from watcherd.inference.pool.lanes import Lane
from watcherd.service.replicas import Replicas


@pytest.mark.parametrize("warning", ["", "it was trained on another base"])
def test_a_doubtful_model_is_logged_once_for_each_replica(warning: str) -> None:
    logged: list[tuple[str, Any]] = []
    log = SimpleNamespace(
        info=lambda *_, **__: None, warning=lambda event, **said: logged.append((event, said["reason"]))
    )
    run: Any = SimpleNamespace(write=lambda _: None)
    stations: Any = SimpleNamespace(replica_ready=lambda *_: None)
    replicas: Any = Replicas(run, Lane(), stations, ready=lambda: None, unusable=pytest.fail)
    replicas._log = log
    info = ModelInfo(segmenter="sa2va", model="m", revision="r", dtype="float32", warning=warning)
    replicas.replica_ready(0, Ready(info=info, load_ms=1, batch_size=1, weights=(), host_rss_mib=None))
    assert ([("model_doubtful", warning)] if warning else []) == logged
