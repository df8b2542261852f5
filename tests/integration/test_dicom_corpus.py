"""Every file that pydicom ships as test data, through the real intake's checks and a real imaging worker."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

import pydicom
import pytest
from pebble import ProcessPool

from watcherd.errors import InputError
from watcherd.formats.dicom import without_pictures
from watcherd.formats.truncation import ends_early
from watcherd.imaging.limits import DecodeLimits
from watcherd.imaging.worker import start_worker, timed_decode

MEMORY_MIB = 2048
SECONDS = 60.0

FOLDER = Path(pydicom.__file__).with_name("data") / "test_files"


def peak_mib() -> float:
    """The largest that the worker has ever been. Not ru_maxrss: that begins with the size of who started it."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def fate_of(path: Path, pool: ProcessPool, target: Path) -> tuple[str, str]:
    """What becomes of a file, and why; whatever is none of ours fails the test."""
    with path.open("rb") as file:
        if not ends_early(file) and (reason := without_pictures(file)):
            return "ignored", reason
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    arguments = (path, digest, target, DecodeLimits(memory_mib=MEMORY_MIB))
    future = pool.schedule(timed_decode, args=arguments, timeout=SECONDS)
    try:
        future.result()
    except InputError as error:
        return "failed", re.sub(r"[\d,]+", "N", error.message)
    return "decoded", ""


@pytest.mark.slow
def test_every_file_of_pydicoms_own_ends_as_it_should(tmp_path: Path) -> None:
    """None crashes, hangs or takes too much; those without pictures are ignored, and nearly all others are read."""
    files = sorted(path for path in FOLDER.rglob("*") if path.is_file())
    if len(files) < 100:
        pytest.skip("pydicom was installed without its test data")
    counts: Counter[tuple[str, str]] = Counter()
    context = get_context("spawn")
    with ProcessPool(1, initializer=start_worker, initargs=(MEMORY_MIB, os.getpid()), context=context) as pool:
        began = time.monotonic()
        for path in files:
            counts[fate_of(path, pool, tmp_path / "scan.npy")] += 1
        peak = pool.schedule(peak_mib).result()
        pool.stop()
    print(f"\n{len(files)} files, {time.monotonic() - began:.1f} s, at most {peak:.0f} MiB")
    for (fate, reason), count in sorted(counts.items()):
        print(f"{count:5} {fate:8} {reason}")
    fates = Counter({fate: sum(n for (one, _), n in counts.items() if one == fate) for fate, _ in counts})
    assert peak < 1000
    assert fates["decoded"] >= 80
    assert fates["ignored"] >= 75
    dicom_failures = {reason for fate, reason in counts if fate == "failed" and "DICOM" in reason}
    assert len(dicom_failures) <= 5, dicom_failures
