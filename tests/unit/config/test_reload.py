"""What a reload says it applies, it applies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from watcherd.config import Config
from watcherd.config.reload import merged


def with_value(table: str, key: str, value: Any) -> Config:
    config = Config()
    head, *rest = table.split(".")
    if rest:
        inner = getattr(getattr(config, head), rest[0]).model_copy(update={key: value})
        return config.model_copy(update={head: getattr(config, head).model_copy(update={rest[0]: inner})})
    return config.model_copy(update={head: getattr(config, head).model_copy(update={key: value})})


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("inbox", "on_success", "keep"),
        ("outbox", "outputs", ("mask",)),
        ("model", "threshold", 0.25),
        ("model.sa2va", "prompt", "Where?"),
        ("model.sam3", "prompt", "vein"),
        ("model.sam3", "instances", True),
        ("limits", "decode_seconds", 5.0),
        ("privacy", "names", "hidden"),
    ],
)
def test_what_is_read_anew_for_each_scan_is_applied(table: str, key: str, value: Any) -> None:
    fresh = with_value(table, key, value)
    assert (fresh, []) == merged(Config(), fresh)


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("inbox", "path", "elsewhere"),
        ("outbox", "layout", "per-scan"),
        ("state", "path", "elsewhere"),
        ("model", "dtype", "float32"),
        ("model.sa2va", "max_new_tokens", 1),
        ("model.sa2va", "checkpoint", Path("iter_2.pth")),
        ("model.sa2va", "sam2", Path("sam2.pt")),
        ("model.sam3", "presence", 0.4),
        ("model.sam3", "score", 0.4),
        ("devices", "replicas", 3),
        ("limits", "workers", 3),
        ("limits", "worker_memory_mib", 512),
    ],
)
def test_what_was_built_at_the_start_needs_another_and_is_named(table: str, key: str, value: Any) -> None:
    """Folders, workers, and what a replica has loaded."""
    assert (Config(), [table.partition(".")[0]]) == merged(Config(), with_value(table, key, value))
