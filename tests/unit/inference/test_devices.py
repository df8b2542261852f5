"""The inventory of GPUs: asked through NVML, hidden by CUDA_VISIBLE_DEVICES, or made up."""

from __future__ import annotations

from threading import Event
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pynvml
import pytest

from watcherd.errors import ConfigError, UnavailableError, UsageError
from watcherd.inference.machine import devices
from watcherd.inference.machine.devices import GIB, MIB, cpu_has_bfloat16, inventory, parse_inventory, wait_released

if TYPE_CHECKING:
    from pathlib import Path

UUIDS = ("GPU-aaaa", "GPU-abbb", "GPU-cccc")


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[SimpleNamespace]]:
    """A driver with three GPUs of 24 GiB, 1 GiB of each in use; the processes on them can be set."""
    processes: dict[int, list[SimpleNamespace]] = {0: [], 1: [], 2: []}

    def memory(handle: int, version: int | None = None) -> SimpleNamespace:
        reserved = 0 if version == pynvml.nvmlMemory_v2 else 600 * MIB
        return SimpleNamespace(total=24 * GIB, free=23 * GIB, used=1 * GIB - 600 * MIB + reserved)

    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 3,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetHandleByUUID": UUIDS.index,
        "nvmlDeviceGetIndex": lambda handle: handle,
        "nvmlDeviceGetUUID": lambda handle: UUIDS[handle],
        "nvmlDeviceGetName": lambda handle: "Made-up GPU",
        "nvmlDeviceGetMemoryInfo": memory,
        "nvmlDeviceGetCudaComputeCapability": lambda handle: (7, 5) if handle == 2 else (8, 9),
        "nvmlDeviceGetComputeRunningProcesses": processes.__getitem__,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)
    return processes


def test_every_gpu_is_found_with_its_memory(three_gpus: object) -> None:
    found = inventory("auto", environ={})
    assert list(UUIDS) == [device.uuid for device in found]
    assert [(device.index, device.total_gib, device.free_gib) for device in found[:1]] == [(0, 24.0, 23.0)] * 1


def test_what_the_driver_keeps_to_itself_is_not_used_memory(three_gpus: object) -> None:
    """As nvidia-smi says."""
    assert 424 == devices.used_mib(UUIDS[0])


@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH])
def test_a_driver_that_knows_the_old_call_only_is_asked_by_it(
    three_gpus: object, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    ask = pynvml.nvmlDeviceGetMemoryInfo

    def old(handle: int, version: int | None = None) -> object:
        if version is not None:
            raise pynvml.NVMLError(error)
        return ask(handle)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", old)
    assert 1024 == devices.used_mib(UUIDS[0])
    assert [23.0] * 3 == [device.free_gib for device in inventory("auto", environ={})]


def test_a_gpu_older_than_ampere_has_no_bfloat16(three_gpus: object) -> None:
    assert [device.has_bfloat16 for device in inventory("auto", environ={})] == [True, True, False]


def test_a_list_chooses_by_index_and_by_the_beginning_of_a_uuid_in_its_order(three_gpus: object) -> None:
    assert [device.index for device in inventory((2, "GPU-aa"), environ={})] == [2, 0]


@pytest.mark.parametrize(
    ("use", "said"),
    [((7,), "7 is not a GPU"), (("GPU-a",), "several"), ((1, "GPU-abbb"), "twice"), (("",), "is not a GPU")],
)
def test_a_list_that_names_no_gpu_is_refused_with_those_that_there_are(
    three_gpus: object, use: tuple[int | str, ...], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        inventory(use, environ={})
    assert said in caught.value.message
    assert "GPU-cccc" in caught.value.hint


@pytest.mark.parametrize(("visible", "left"), [("", []), ("-1", []), ("1", [1]), ("2,0", [2, 0]), ("GPU-c,9,0", [2])])
def test_cuda_visible_devices_hides_gpus_as_from_every_cuda_program(
    three_gpus: object, visible: str, left: list[int]
) -> None:
    assert left == [device.index for device in inventory("auto", environ={"CUDA_VISIBLE_DEVICES": visible})]


@pytest.mark.parametrize("visible", ["MIG-377e0049-554c-540b-93c6-d0976f8426cb", "7", "GPU-zzzz,0"])
def test_names_of_no_gpu_do_not_put_the_model_on_the_cpu(three_gpus: object, visible: str) -> None:
    """Without a word, as a part of a GPU would."""
    with pytest.raises(UnavailableError, match="names no GPU of this machine") as caught:
        inventory("auto", environ={"CUDA_VISIBLE_DEVICES": visible})
    assert ("whole one" in caught.value.hint) == visible.startswith("MIG-")
    assert inventory("cpu", environ={"CUDA_VISIBLE_DEVICES": visible}) == ()


def test_a_gpu_that_is_visible_twice_is_refused(three_gpus: object) -> None:
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES names the same GPU twice"):
        inventory("auto", environ={"CUDA_VISIBLE_DEVICES": "0,0"})


LOST = pynvml.NVML_ERROR_GPU_IS_LOST
FORBIDDEN = pynvml.NVML_ERROR_NO_PERMISSION


def lose(monkeypatch: pytest.MonkeyPatch, indexes: set[int], *, at: str, error: int = LOST) -> None:
    """From now on these GPUs do not answer this question."""
    ask = getattr(pynvml, at)

    def answer(index: int, **version: int) -> object:
        if index in indexes:
            raise pynvml.NVMLError(error)
        return ask(index, **version)

    monkeypatch.setattr(pynvml, at, answer)


@pytest.mark.parametrize("error", [LOST, FORBIDDEN])
@pytest.mark.parametrize("at", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID", "nvmlDeviceGetMemoryInfo"])
@pytest.mark.parametrize(
    ("use", "environ"), [((0, 2), {}), (("GPU-aa", "GPU-c"), {}), ("auto", {"CUDA_VISIBLE_DEVICES": "0,2"})]
)
def test_a_lost_gpu_that_is_not_wanted_does_not_matter(
    three_gpus: object, monkeypatch: pytest.MonkeyPatch, use: Any, environ: dict[str, str], at: str, error: int
) -> None:
    """Whatever it does not answer, and why."""
    lose(monkeypatch, {1}, at=at, error=error)
    warnings: list[str] = []
    assert [0, 2] == [device.index for device in inventory(use, environ=environ, warn=warnings.append)]
    assert [] == warnings


@pytest.mark.parametrize("at", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetMemoryInfo"])
def test_where_all_are_wanted_a_lost_one_is_left_out_with_a_warning(
    three_gpus: object, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """The others work on."""
    lose(monkeypatch, {1}, at=at)
    warnings: list[str] = []
    assert [0, 2] == [device.index for device in inventory("auto", environ={}, warn=warnings.append)]
    assert ["GPU 1 does not answer (GPU is lost) and is left out; see what nvidia-smi says"] == warnings


@pytest.mark.parametrize(("use", "lost"), [((0, 1), {1}), (("GPU-abbb",), {1}), ("auto", {0, 1, 2})])
def test_a_lost_gpu_that_is_named_or_the_last_one_is_an_error(
    three_gpus: object, monkeypatch: pytest.MonkeyPatch, use: Any, lost: set[int]
) -> None:
    """Not a model on the CPU."""
    lose(monkeypatch, lost, at="nvmlDeviceGetHandleByIndex")
    with pytest.raises(UnavailableError, match="GPU is lost"):
        inventory(use, environ={})


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", _raises(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
    assert inventory("auto", environ={}) == ()


def test_a_driver_that_does_not_answer_is_not_taken_for_a_machine_without_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a driver update would silently put the model on the CPU."""
    monkeypatch.setattr(pynvml, "nvmlInit", _raises(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH))
    with pytest.raises(UnavailableError, match="driver does not answer"):
        inventory("auto", environ={})
    assert inventory("cpu", environ={}) == ()


def test_a_dead_process_is_waited_for_until_the_driver_has_forgotten_it(
    three_gpus: dict[int, list[SimpleNamespace]], monkeypatch: pytest.MonkeyPatch
) -> None:
    three_gpus[0] = [SimpleNamespace(pid=7, usedGpuMemory=None)]
    monkeypatch.setattr(devices, "POLL_SECONDS", 0.001)
    assert not wait_released(UUIDS[:1], 7, seconds=0.002)
    assert wait_released(UUIDS[1:], 7)
    stop = Event()
    stop.set()
    monkeypatch.setattr(devices, "POLL_SECONDS", 100.0)
    assert not wait_released(UUIDS[:1], 7, stop=stop)
    three_gpus[0] = []
    assert wait_released(UUIDS[:1], 7, stop=stop)


def test_what_the_driver_does_not_say_is_none(three_gpus: dict[int, list[SimpleNamespace]]) -> None:
    three_gpus[1] = [SimpleNamespace(pid=7, usedGpuMemory=None), SimpleNamespace(pid=8, usedGpuMemory=3 * 2**20)]
    assert devices.process_mib(UUIDS[1], 7) is None
    assert devices.process_mib(UUIDS[1], 9) is None
    assert devices.process_mib(UUIDS[1], 8) == 3.0
    assert devices.used_mib(UUIDS[1]) == 424.0


def test_a_made_up_inventory_has_the_gpus_that_were_asked_for() -> None:
    found = parse_inventory("2x24GiB, 12.5gib,80")
    assert [device.free_gib for device in found] == [24.0, 24.0, 12.5, 80.0]
    assert len({device.uuid for device in found}) == 4


@pytest.mark.parametrize("text", ["", "4x", "x24", "0x24GiB", "4x0GiB", "4x24MiB", "-1x24", "9999x24GiB", "4x24GiB,,"])
def test_nonsense_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_inventory(text)
    assert "4x24GiB" in caught.value.hint


def _raises(code: int) -> object:
    def answer() -> None:
        raise pynvml.NVMLError(code)

    return answer


@pytest.mark.parametrize(
    ("flags", "isa", "machine", "expected"),
    [
        ("fpu avx2 avx512f avx512_bf16", "", "x86_64", True),
        ("fpu amx_bf16 amx_tile", "", "x86_64", True),
        ("fpu avx2 avx512f avx512_bf16", "avx2", "x86_64", False),
        ("fpu avx2 avx512f avx512_bf16", "AVX512_CORE_BF16", "x86_64", True),
        ("fpu avx2 avx512f", "", "x86_64", False),
        ("fpu avx512_bf16", "", "aarch64", False),
    ],
)
def test_a_cpu_computes_in_bfloat16_where_it_has_units_for_it(
    tmp_path: Path, flags: str, isa: str, machine: str, expected: bool
) -> None:
    """And where nobody forbade their use; elsewhere bfloat16 is several times slower than float32."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    assert expected == cpu_has_bfloat16(environ={"ONEDNN_MAX_CPU_ISA": isa}, cpuinfo=cpuinfo, machine=machine)


def test_a_cpu_that_tells_nothing_is_taken_to_have_no_such_units(tmp_path: Path) -> None:
    assert not cpu_has_bfloat16(environ={}, cpuinfo=tmp_path / "none", machine="x86_64")
