"""What the screens say of GPUs: the driver's figures, and unknown rather than old."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from watcherd.inference.machine.cards import STALE_SECONDS, Card, Cards
from watcherd.inference.machine.devices import MIB

UUID = "GPU-aaaa"


def memory(handle: int, version: int | None = None) -> SimpleNamespace:
    """The driver's own 300 MiB are used memory by the first version of the call only."""
    return SimpleNamespace(total=24_000 * MIB, used=(600 if version == pynvml.nvmlMemory_v2 else 900) * MIB)


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver with one GPU of 24,000 MiB; two processes on it, one of another container."""
    users = [SimpleNamespace(pid=7, usedGpuMemory=500 * MIB), SimpleNamespace(pid=8, usedGpuMemory=None)]
    answers = {
        "nvmlDeviceGetHandleByUUID": (UUID,).index,
        "nvmlDeviceGetIndex": lambda handle: 3,
        "nvmlDeviceGetName": lambda handle: "Made-up GPU",
        "nvmlDeviceGetMemoryInfo": memory,
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: users,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)


def test_a_card_has_its_memory_and_who_uses_it(one_gpu: None) -> None:
    """Whole MiB; None for a process that the driver does not count."""
    cards = Cards([UUID, UUID])
    cards.look()
    expected = Card(uuid=UUID, index=3, name="Made-up GPU", used_mib=600, total_mib=24_000, processes={7: 500, 8: None})
    assert (expected,) == cards.latest


def test_a_driver_that_does_not_answer_leaves_the_figures_unknown(one_gpu: None) -> None:
    """The last ones are not shown as the present ones."""
    now = [0.0]
    cards = Cards([UUID], clock=lambda: now[0])
    cards.look()
    now[0] = STALE_SECONDS + 1
    (card,) = cards.latest
    assert (None, 24_000, {}) == (card.used_mib, card.total_mib, card.processes)


def test_a_driver_that_refuses_leaves_all_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that is lost is named, without figures."""

    def refuse(uuid: str) -> None:
        raise pynvml.NVMLError_GpuIsLost

    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", refuse)
    cards = Cards([UUID])
    cards.look()
    assert (Card(uuid=UUID, processes={}),) == cards.latest


def test_the_thread_that_looks_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's name, which is what a person sees who finds it hanging in the driver."""
    seen: queue.Queue[str] = queue.Queue()

    def refuse(uuid: str) -> None:
        seen.put(Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text())
        raise pynvml.NVMLError_GpuIsLost

    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", refuse)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    Cards([UUID]).start()
    assert "cards\n" == seen.get(timeout=30)
