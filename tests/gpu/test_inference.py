"""On one real NVIDIA GPU: memory figures against torch and the driver, a true memory error, a true two-device split.

python -m pytest tests/gpu/test_inference.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.unit.inference.fakes import Told
from watcherd.config import Model
from watcherd.errors import OutOfMemoryError, UnavailableError
from watcherd.inference import checks, loading
from watcherd.inference.base import Frame, Placement, Prediction
from watcherd.inference.machine import devices
from watcherd.inference.replica import batching
from watcherd.inference.replica.batching import FrameOutcome, Probe
from watcherd.inference.replica.vram import Meter
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

MIB = 2**20
GPU = Placement(devices=("cuda:0",), device_map={"": "cuda:0"}, dtype="float32")


@pytest.fixture(scope="module")
def uuid() -> str:
    return f"GPU-{torch.cuda.get_device_properties(0).uuid}"


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.cuda.empty_cache()
    yield
    torch.cuda.empty_cache()


def frame(value: int = 0, shape: tuple[int, ...] = (64, 64)) -> Frame:
    return Frame(pixels=np.full(shape, value, np.uint8), options=Options())


def run(segmenter: Any, frames: Sequence[Frame], size: int, meter: Meter) -> list[FrameOutcome]:
    found = dict(batching.run(segmenter, frames, Probe(batch_size=size), meter))
    return [found[position] for position in range(len(frames))]


# What is there


def test_the_inventory_is_what_torch_sees(uuid: str) -> None:
    found = {device.uuid: device for device in devices.inventory("auto", environ={})}
    here = found[uuid]
    torch_total = torch.cuda.get_device_properties(0).total_memory / 2**30
    assert here.total_gib == pytest.approx(torch_total, abs=2.0)
    assert 0 < here.free_gib <= here.total_gib
    assert here.has_bfloat16 == torch.cuda.is_bf16_supported(including_emulation=False)


# Memory figures


class Allocates(Told):
    """Takes ``mib`` for each frame while it computes."""

    mib = 100

    def predict(self, frames: Sequence[Frame]) -> list[Prediction]:
        held = [torch.ones(self.mib * MIB, dtype=torch.uint8, device="cuda:0") for _ in frames]
        torch.cuda.synchronize()
        assert len(held) == len(frames)
        return super().predict(frames)


def test_a_batchs_figures_are_those_of_torch_within_1_mib(uuid: str) -> None:
    weights = torch.ones(300 * MIB, dtype=torch.uint8, device="cuda:0")
    meter = Meter(("cuda:0",), (uuid,))
    segmenter = Allocates()
    run(segmenter, [frame() for _ in range(6)], 6, meter)  # a larger batch before must not show in the next figures
    outcomes = run(segmenter, [frame() for _ in range(3)], 3, meter)
    stats = torch.cuda.memory_stats(0)
    (use,) = outcomes[0].devices
    assert use.vram_before_mib == pytest.approx(torch.cuda.memory_allocated(0) / MIB, abs=1)
    assert use.vram_peak_allocated_mib == pytest.approx(stats["allocated_bytes.all.peak"] / MIB, abs=1)
    assert use.vram_peak_allocated_mib - use.vram_before_mib == pytest.approx(300, abs=1)
    assert use.vram_peak_reserved_mib == pytest.approx(stats["reserved_bytes.all.peak"] / MIB, abs=1)
    assert {outcome.devices for outcome in outcomes} == {(use,)}
    assert weights.numel() == 300 * MIB


def _used_by_nvidia_smi(uuid: str) -> float:
    tool = ["nvidia-smi", "-i", uuid, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return float(subprocess.run(tool, check=True, capture_output=True, text=True).stdout)


def test_the_drivers_figures_are_those_of_its_own_tool_for_this_card(uuid: str) -> None:
    import pynvml

    held = torch.ones(500 * MIB, dtype=torch.uint8, device="cuda:0")
    meter = Meter(("cuda:0",), (uuid,))
    meter.before()
    (use,) = meter.after()
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    assert use.nvml_used_mib == pytest.approx(_used_by_nvidia_smi(uuid), abs=2)
    assert use.nvml_used_mib > 500
    assert use.device == f"cuda:{pynvml.nvmlDeviceGetIndex(handle)}"
    assert uuid[:12] in use.name
    # In a container the driver counts processes in other numbers: then nothing is claimed.
    assert use.nvml_process_mib is None or use.nvml_process_mib >= use.vram_peak_reserved_mib
    assert held.is_cuda


def test_a_dead_process_gives_its_memory_back(uuid: str) -> None:
    before = devices.used_mib(uuid)
    script = "import torch; x = torch.ones(2**31, dtype=torch.uint8, device='cuda'); print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        during = devices.used_mib(uuid)
        process.kill()
        process.wait()
    assert devices.wait_released((uuid,), process.pid)
    after = devices.used_mib(uuid)
    assert before is not None
    assert during is not None
    assert after is not None
    assert during - before > 2048
    assert after - before < 256


# Memory errors


class Greedy(Told):
    """Each frame takes 30 % of what is free: two fit, three do not."""

    def __init__(self, part: float = 0.3) -> None:
        super().__init__()
        torch.cuda.empty_cache()
        self.bytes = int(torch.cuda.mem_get_info(0)[0] * part)

    def predict(self, frames: Sequence[Frame]) -> list[Prediction]:
        self.batches.append(len(frames))
        held = [torch.empty(self.bytes, dtype=torch.uint8, device="cuda:0") for _ in frames]
        assert len(held) == len(frames)
        return [Prediction(probability=each.pixels.astype(np.float32) / 255) for each in frames]


def test_a_real_memory_error_halves_the_batch_and_loses_nothing(uuid: str) -> None:
    before = torch.cuda.memory_allocated(0)
    segmenter = Greedy()
    outcomes = run(segmenter, [frame(number) for number in range(8)], 8, Meter(("cuda:0",), (uuid,)))
    assert segmenter.batches == [8, 4, 2, 2, 2, 2]
    for number, outcome in enumerate(outcomes):
        assert isinstance(outcome.result, Prediction)
        assert outcome.result.probability is not None
        assert outcome.result.probability.max() == pytest.approx(number / 255)
    assert torch.cuda.memory_allocated(0) == before


def test_a_frame_that_can_never_fit_fails_with_the_figures_and_the_process_goes_on(uuid: str) -> None:
    meter = Meter(("cuda:0",), (uuid,))
    (outcome,) = run(Greedy(part=1.5), [frame()], 4, meter)
    assert isinstance(outcome.result, OutOfMemoryError)
    assert "MiB allocated" in outcome.result.message
    assert isinstance(run(Told(), [frame()], 4, meter)[0].result, Prediction)


def test_a_device_side_assert_is_sticky() -> None:
    """In a process of its own: it can do nothing afterwards, which is the point."""
    script = """
import torch
from watcherd.inference.replica.batching import is_memory_error, is_sticky
try:
    torch.zeros(4, device="cuda")[torch.tensor([9], device="cuda")].cpu()
except Exception as error:
    assert is_sticky(error) and not is_memory_error(error), repr(error)
    try:
        torch.ones(1, device="cuda").cpu()
    except Exception as later:
        assert is_sticky(later), repr(later)
        print("sticky")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, env=os.environ)
    assert "sticky" in done.stdout, done.stderr[-2000:]


# Two devices


class TwoParts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 64))
        self.second = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 8))
        self.register_buffer("scale", torch.linspace(0.5, 2.0, 8), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        said: torch.Tensor = self.second(self.first(x))
        return said * self.scale.to(said.device)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[TwoParts, Path]:
    torch.manual_seed(0)
    module = TwoParts().eval()
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(module.state_dict(), path)
    return module, path


@pytest.mark.parametrize(
    "placement",
    [
        Placement(devices=("cpu", "cuda:0"), device_map={"first": "cpu", "second": "cuda:0", "scale": "cuda:0"}),
        Placement(devices=("cuda:0", "cpu"), device_map={"first": "cuda:0", "second": "cpu", "scale": "cuda:0"}),
        Placement(devices=("cuda:0",), device_map={"": "cuda:0"}),
    ],
    ids=["split", "offloaded", "one"],
)
def test_a_model_over_two_devices_computes_what_it_does_on_one(
    weights: tuple[TwoParts, Path], placement: Placement
) -> None:
    original, path = weights
    module = loading.skeleton(TwoParts)
    loading.load_into(module, [path], placement)
    checks.after_load(module, TwoParts)
    where = {name.split(".")[0]: parameter.device.type for name, parameter in module.named_parameters()}
    assert where == {
        part: str(loading.device_of(part, placement.device_map)).split(":")[0] for part in ("first", "second")
    }
    module = loading.dispatch(module.eval(), placement)
    checks.after_load(module, TwoParts)
    x = torch.randn(16, 32)
    with torch.inference_mode():
        found = module(x.to(placement.devices[0])).cpu()
        assert torch.allclose(original(x), found, atol=1e-5)


def test_weights_go_straight_to_the_card_without_a_copy_on_the_host(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2**18, 1024)}, tmp_path / "model.safetensors")  # 1 GiB
    module = loading.skeleton(lambda: nn.Linear(1024, 2**18, bias=False))
    torch.ones(1, device="cuda:0")
    meter = Meter(("cuda:0",))
    meter.before()
    start = meter.host_peak_rss_mib() or 0.0
    loading.load_into(
        module, [tmp_path / "model.safetensors"], Placement(devices=("cuda:0",), device_map={"": "cuda:0"})
    )
    assert next(module.parameters()).is_cuda
    # The file's own pages, mapped, count as resident; a copy beside them would make it twice that.
    assert (meter.host_peak_rss_mib() or 0.0) - start < 1.5 * 1024


def test_garbage_in_a_buffer_on_the_card_is_caught(weights: tuple[TwoParts, Path]) -> None:
    module = loading.skeleton(TwoParts)
    loading.load_into(module, [weights[1]], GPU)
    module.scale[3] = float("nan")  # type: ignore[index]
    with pytest.raises(UnavailableError, match="scale has other values"):
        checks.after_load(module, TwoParts)


# A real model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    from tests.unit.inference.semantic_folders import labels, save

    torch.manual_seed(0)
    model = SegformerForSemanticSegmentation(SegformerConfig(**labels(("background", "vessel"))))
    return save(model, tmp_path_factory.mktemp("segformer-b0"), size={"height": 512, "width": 512})


def semantic(folder: Path, placement: Placement) -> Any:
    from watcherd.inference.segmenters import semantic

    segmenter = semantic.create(Model(segmenter="semantic", path=folder))
    segmenter.load(placement, lambda *_: None)
    return segmenter


ASKING = Options(outputs=("mask", "probability"))


def noise(seed: int, shape: tuple[int, ...] = (512, 512)) -> Frame:
    return Frame(pixels=np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), options=ASKING)


def test_the_semantic_segmenter_gives_on_the_card_what_it_gives_on_the_cpu(folder: Path) -> None:
    frames = [noise(0), noise(1, (512, 512, 3)), noise(2, (300, 400))]
    expected = semantic(folder, Placement()).predict(frames)
    exact = semantic(folder, GPU).predict(frames)
    rounded = semantic(folder, Placement(devices=GPU.devices, device_map=GPU.device_map, dtype="bfloat16"))
    for one, other, near in zip(expected, exact, rounded.predict(frames), strict=True):
        assert np.abs(one.probability - other.probability).max() < 1e-4
        assert np.abs(one.probability - near.probability).mean() < 0.02


def test_the_semantic_segmenter_keeps_its_promises_on_the_card(folder: Path) -> None:
    from watcherd.inference.segmenters import semantic
    from watcherd.testing import SegmenterContract

    class OnTheCard(SegmenterContract):
        placement = Placement(devices=("cuda:0",), device_map={"": "cuda:0"}, dtype="bfloat16")
        same = 0.05

    OnTheCard.run(lambda: semantic.create(Model(segmenter="semantic", path=folder)))


def test_the_probe_finds_a_batch_that_fits_and_says_what_it_takes(folder: Path, tmp_path: Path, uuid: str) -> None:
    segmenter = semantic(folder, GPU)
    found = batching.probe(segmenter, Model(segmenter="semantic", path=folder), GPU, tmp_path)
    assert found.batch_size > 1
    assert found.reserve_mib is not None
    assert found.batch_mib is not None
    assert 0 < found.reserve_mib <= found.batch_mib
    assert batching.probe(segmenter, Model(segmenter="semantic", path=folder), GPU, tmp_path) == found
    frames = [noise(0, (512, 512, 3)) for _ in range(found.batch_size)]
    outcomes = run(segmenter, frames, found.batch_size, Meter(("cuda:0",), (uuid,)))
    (use,) = outcomes[0].devices
    assert use.vram_peak_allocated_mib is not None
    assert use.vram_before_mib is not None
    assert {outcome.batch_size for outcome in outcomes} == {found.batch_size}
    assert use.vram_peak_allocated_mib - use.vram_before_mib <= found.batch_mib + 1
