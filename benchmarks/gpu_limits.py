"""What a card can do, whatever the model: a large matrix product, and copies from and to the host."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Callable

COPIED_MIB = 256
"""Large enough that starting the copy does not count."""


def limits(device: str, runs: int) -> list[Figure]:
    """The chapter."""
    up, down = copy_rates(device, runs)
    size = f"{COPIED_MIB} MiB of page-locked memory"
    return [
        Figure(
            name="matrix product, bfloat16",
            unit="TFLOP/s",
            values=[rate / 1e12 for rate in matrix_rates(device, runs)],
            definition="a square product of random matrices, 8,192 rows each; two operations for each multiplication",
        ),
        Figure(name="copies from the host", unit="GB/s", values=up, definition=f"{size} to the card, waited for"),
        Figure(name="copies to the host", unit="GB/s", values=down, definition=f"from the card to {size}, waited for"),
    ]


def matrix_rates(device: str, runs: int) -> list[float]:
    """FLOP/s of a large bfloat16 product of random matrices, run by run."""
    side = 8192 if on_gpu(device) else 512
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return [2 * side**3 / seconds for seconds in seconds_of(lambda: a @ b, runs, device)]


def copy_rates(device: str, runs: int) -> tuple[list[float], list[float]]:
    """GB/s from the host and to it, run by run."""
    host = torch.empty(COPIED_MIB * 2**20, dtype=torch.uint8, pin_memory=on_gpu(device))
    there = torch.empty_like(host, device=device)
    up = seconds_of(lambda: there.copy_(host, non_blocking=True), runs, device)
    down = seconds_of(lambda: host.copy_(there, non_blocking=True), runs, device)
    return [host.nbytes / 1e9 / each for each in up], [host.nbytes / 1e9 / each for each in down]


def seconds_of(work: Callable[[], Any], runs: int, device: str) -> list[float]:
    """Wall times of calls, the device's work included, after one call to warm up."""
    work()
    times = []
    for _ in range(runs):
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - began)
    return times


def wait(device: str) -> None:
    """Until the device has nothing more to do."""
    if on_gpu(device):
        torch.cuda.synchronize()


def on_gpu(device: str) -> bool:
    """False when the CPU stands in for one, to see that everything runs."""
    return device != "cpu"
