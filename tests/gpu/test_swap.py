"""One card with room for one of two models, of which one has eight billion parameters: swaps, and a kill in one.

    python -m pytest tests/gpu -m gpu -k swap -s

Writes 16 GB of random weights, into memory where there is enough of it. What is left of the card is filled up, so that
the small model does not fit beside the large one. Prints what a swap takes beside the load that is in it.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from tests.acceptance.invariants import check_at_any_moment, check_invariants
from tests.acceptance.service import Service, png
from watcherd.inference.machine import devices

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.timeout(900),
]

WEIGHTS_GIB = 8_182_606_130 * 2 / 2**30
RESERVE_GIB = 4.0
SPARE_GIB = 0.75
"""Left over beside the large model and its reserve: the margin of half a GiB for its process, its buffers, and less
than what the small one is promised, its own reserve."""
SHARED = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
LONG = 300.0
"""Seconds that a swap, or a start, may take."""


@pytest.fixture
def model() -> Iterator[Path]:
    """The folder of a Sa2VA of full size that says its draft to everything."""
    from benchmarks.gpu_sa2va import write_full_model

    roomy = SHARED.is_dir() and shutil.disk_usage(SHARED).free > 40 * 2**30
    with tempfile.TemporaryDirectory(dir=SHARED if roomy else None) as folder:
        path = write_full_model(Path(folder) / "model", "cuda")
        torch.cuda.empty_cache()
        yield path


@pytest.fixture
def ballast() -> Iterator[list[torch.Tensor]]:
    """Fills the first card until the large model just fits into what is left."""
    left = WEIGHTS_GIB + RESERVE_GIB + SPARE_GIB
    held: list[torch.Tensor] = []
    torch.zeros(1, device="cuda:0")  # what the driver takes for this process is taken before it is counted
    while (more := devices.inventory([0])[0].free_gib - left) > 0.05:
        held.append(torch.empty(int(more * 2**30), dtype=torch.uint8, device="cuda:0"))
    yield held
    held.clear()
    torch.cuda.empty_cache()


@pytest.fixture
def service(tmp_path: Path, model: Path) -> Iterator[Service]:
    made = Service(
        tmp_path,
        model={"segmenter": "vessel", "batch": 4},
        devices={"use": [0], "reserve_gib": RESERVE_GIB, "idle_minutes": 0.02, "minimum_minutes": 0.02},
        **{
            "models.large": {"segmenter": "sa2va", "path": str(model), "batch": 4},
            "profiles.large": {"folder": "large", "model": "large"},
            "profiles.both": {"folder": "both", "models": ["default", "large"]},
        },
    )
    yield made
    made.end()


def replicas(service: Service, name: str) -> list[tuple[str, str | None, str | None]]:
    """When each replica of a model was started, was ready, and ended."""
    return service.rows(
        "SELECT started_at, ready_at, ended_at FROM replica WHERE json_extract(placement, '$.model_name') = ? "
        "ORDER BY id",
        name,
    )


def seconds(begun: str | None, ended: str | None) -> float:
    assert begun is not None
    assert ended is not None
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(begun)).total_seconds()


def drop(service: Service, folder: str, first: int, count: int = 4) -> None:
    for number in range(first, first + count):
        service.drop(f"{folder}/{number}.png", png(number, 512, 512))


def test_a_swap_of_a_model_of_full_size_and_a_kill_in_the_middle_of_one(
    service: Service, ballast: list[torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    service.start()
    service.wait(lambda: service.live().get("phase") == "running", "the large model to be loaded", LONG)
    assert ["large"] == [each["name"] for each in service.live()["models"] if each["state"] == "ready"]

    drop(service, "small", 0)
    service.finished(4, LONG)  # the first swap: the small one comes
    drop(service, "large", 10)
    service.finished(8, LONG)  # the second: the large one comes back
    _, second = replicas(service, "large")
    ((_, _, left),) = replicas(service, "default")
    assert left is not None, "the small model stayed: memory that it was promised was given to the large one"
    load, swap = seconds(second[0], second[1]), seconds(left, second[1])
    first_load = seconds(*replicas(service, "large")[0][:2])

    drop(service, "both", 20)
    drop(service, "large", 30)
    service.wait(lambda: len(replicas(service, "default")) > 1, "the third swap", LONG)
    os.kill(service.pid, signal.SIGKILL)  # its process has been started, and loads
    assert -signal.SIGKILL == service.ended()
    assert [] == check_at_any_moment(service)

    ballast.clear()  # with room for both, so that this takes one load and not two
    torch.cuda.empty_cache()
    service.start()
    service.finished(8 + 4 + 4 + 4, LONG)
    assert {"succeeded": 20} == service.states()
    assert 0 == service.stop()
    assert [] == check_invariants(service)
    memory = dict(
        service.rows(
            "SELECT job.model_name, min(vram_peak_allocated_mib) FROM attempt_device "
            "JOIN attempt ON attempt.id = attempt_device.attempt_id JOIN job ON job.id = attempt.job_id "
            "WHERE attempt.outcome = 'succeeded' GROUP BY 1"
        )
    )
    assert memory["large"] > WEIGHTS_GIB * 1024 > memory["default"] > 0
    with capsys.disabled():
        print(
            f"\nSa2VA of full size: first load {first_load:.1f} s; in the swap {load:.1f} s, and the swap, from the "
            f"end of the small model, {swap:.1f} s: {swap / load:.2f} of the load. Peaks in MiB: {memory}"
        )
