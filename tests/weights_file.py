"""Changing a model's file under a model that is running."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def overwrite(path: Path) -> None:
    """Other numbers into the very same safetensors file, as cp writes it; a running model may have mapped a part."""
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start:] = bytes(byte ^ 1 for byte in content[start:])
    with path.open("r+b") as file:
        file.write(content)
