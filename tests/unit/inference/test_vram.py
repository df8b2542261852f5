"""What is known about memory is recorded; what is not known is None, never 0."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from watcherd.inference.replica import vram
from watcherd.inference.replica.vram import Meter


def test_a_cpu_has_one_entry_without_figures() -> None:
    meter = Meter(("cpu",))
    meter.before()
    (use,) = meter.after()
    assert (use.device, use.name) == ("cpu", "cpu")
    assert (use.vram_before_mib, use.vram_peak_allocated_mib, use.vram_peak_reserved_mib) == (None, None, None)
    assert (use.nvml_used_mib, use.nvml_process_mib) == (None, None)


FRESH = """
import numpy as np
from watcherd.inference.replica.vram import Meter
meter = Meter(("cpu",))
meter.before()
large = np.ones(60 * 2**20, np.uint8)
print(meter.host_peak_rss_mib())
del large
meter.before()
print(meter.host_peak_rss_mib())
"""


@pytest.mark.skipif(not vram._reset_peak_rss(), reason="this kernel does not let a process reset its peak")
def test_the_hosts_peak_is_that_of_the_batch_not_of_the_process() -> None:
    """In a process of its own: what other tests have left free in this one would hide the difference."""
    answer = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=True).stdout
    with_large, without = map(float, answer.split())
    assert with_large - without > 50


def test_where_the_peak_cannot_be_reset_it_is_that_of_the_process() -> None:
    """And never that of whoever started it, which is what getrusage(2) tells at first."""
    refused = (
        "from pathlib import Path; import watcherd.inference.replica.vram as v\nv.CLEAR_REFS = Path('/nowhere/clear')\n"
    )
    answer = subprocess.run([sys.executable, "-c", refused + FRESH], capture_output=True, text=True, check=True).stdout
    with_large, without = map(float, answer.split())
    assert without == pytest.approx(with_large, abs=2)
    assert 60 < with_large < 400


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """torch with two GPUs that say how much they hold; returns the resets."""
    mib = 2**20
    resets: list[str] = []
    figures = {"memory_allocated": 100, "max_memory_allocated": 300, "max_memory_reserved": 400}
    for name, base in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, base=base: (base + int(device[-1])) * mib)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", resets.append)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Card")
    monkeypatch.setattr(vram.devices, "index_of", {"GPU-b": 3, "GPU-a": 5}.get)
    monkeypatch.setattr(vram.devices, "used_mib", {"GPU-b": 7000.0}.get)
    monkeypatch.setattr(vram.devices, "process_mib", lambda uuid, pid: None)
    return resets


def test_every_device_of_the_replica_is_measured_and_named_as_the_machine_counts(two_gpus: list[str]) -> None:
    """torch counts the visible ones from 0; the record must say which card it was."""
    meter = Meter(("cuda:0", "cuda:1"), ("GPU-b", "GPU-a"))
    meter.before()
    first, second = meter.after()
    assert two_gpus == ["cuda:0", "cuda:1"]
    assert (first.device, second.device) == ("cuda:3", "cuda:5")
    assert (first.vram_before_mib, first.vram_peak_allocated_mib, first.vram_peak_reserved_mib) == (100, 300, 400)
    assert (second.vram_before_mib, second.vram_peak_allocated_mib, second.vram_peak_reserved_mib) == (101, 301, 401)
    assert (first.nvml_used_mib, second.nvml_used_mib, first.nvml_process_mib) == (7000.0, None, None)


def test_without_uuids_the_drivers_figures_stay_unknown(two_gpus: list[str]) -> None:
    meter = Meter(("cpu", "cuda:0"))
    meter.before()
    (use,) = meter.after()
    assert (use.device, use.vram_peak_allocated_mib, use.nvml_used_mib) == ("cuda:0", 300, None)
