"""What it costs to check a scan's copy before it is decoded: ``python -m benchmarks.copy_check``.

The same file is decoded with and without the check by turns, and checked alone; medians over all turns.
"""

from __future__ import annotations

import hashlib
import io
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from watcherd.imaging.decode import decode
from watcherd.imaging.limits import DecodeLimits
from watcherd.imaging.verified import verified

if TYPE_CHECKING:
    from collections.abc import Callable

TURNS = 40
LIMITS = DecodeLimits(max_pixels=10**9, max_frames=9, memory_mib=2048)


def picture(side: int, form: str) -> bytes:
    """A noisy grey picture, ``side`` pixels wide and high: noise packs badly, as real scans do."""
    pixels = np.random.default_rng(0).normal(128, 20, (side, side)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def median_ms(works: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Milliseconds of each, the median of `TURNS`, taken by turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(TURNS):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            times[name].append((time.perf_counter() - began) * 1000)
    return {name: statistics.median(values) for name, values in times.items()}


def measure(folder: Path, name: str, content: bytes) -> str:
    """A line about one file."""
    source, target, sha256 = folder / "scan", folder / "decoded.npy", hashlib.sha256(content).hexdigest()
    source.write_bytes(content)

    def plain() -> None:
        decode(source, target, LIMITS)

    def checked() -> None:
        with verified(source, sha256) as opened:
            decode(opened, target, LIMITS)

    def check() -> None:
        with verified(source, sha256):
            pass

    found = median_ms({"plain": plain, "checked": checked, "check": check})
    return (
        f"{name:12} {len(content) / 1e6:8.2f} MB  decoded in {found['plain']:7.2f} ms, with the check "
        f"{found['checked'] / found['plain']:.3f} times that; the check alone {found['check']:.2f} ms"
    )


def main() -> None:
    """Print a line for each kind of file."""
    with tempfile.TemporaryDirectory() as folder:
        for side, form in ((512, "JPEG"), (2048, "JPEG"), (4096, "PNG")):
            print(measure(Path(folder), f"{form} {side}", picture(side, form)))


if __name__ == "__main__":
    main()
