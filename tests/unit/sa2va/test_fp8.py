"""The language model's MLPs at eight bits: what is rounded and how far that moves, what is refused, what it weighs."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import ValidationError

from tests import qwen_vl_tiny
from tests.sa2va_folder import DATA
from tests.sa2va_tiny import tiny_config, tiny_engine, tiny_network
from watcherd.config import Model, Sa2va
from watcherd.errors import UnavailableError
from watcherd.inference import checks
from watcherd.inference.base import Placement
from watcherd.inference.machine.devices import Device
from watcherd.inference.pool.placement import plan
from watcherd.inference.segmenters.sa2va import fp8
from watcherd.inference.segmenters.sa2va.decoder import layers_of
from watcherd.inference.segmenters.sa2va.network import skeleton
from watcherd.inference.segmenters.sa2va.segmenter import Sa2vaSegmenter
from watcherd.inference.segmenters.sa2va.weights import whole_layers
from watcherd.inference.split import ModelSizes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from watcherd.inference.segmenters.sa2va.network import Sa2vaNetwork

GPU = Placement(devices=("cuda:0",), device_map={"": "cuda:0"}, dtype=fp8.NAME)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield


def round_mlps(network: Sa2vaNetwork) -> None:
    for name, value in list(network.named_parameters()):
        if fp8.ROUNDED.fullmatch(name):
            fp8.put_rounded(network.get_submodule(name.rpartition(".")[0]), value)


def test_a_rounded_product_is_off_by_what_four_bits_of_a_value_leave() -> None:
    """Rows of very different sizes: each has a scale of its own, and none is lost in another's."""
    rows = torch.randn(33, 64) * torch.logspace(-6, 6, 33)[:, None]
    weight = torch.randn(48, 64) * torch.logspace(-3, 3, 48)[:, None]
    exact, found = rows @ weight.t(), fp8.product(rows, fp8.rounded(weight))
    apart = (found - exact).abs() / (rows.abs() @ weight.abs().t())
    assert 0.0 < float(apart.max()) < 0.03
    assert fp8.product(torch.zeros(2, 64), fp8.rounded(weight)).eq(0).all()


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_layers_with_rounded_mlps_are_near_those_that_they_were_made_of(family: str) -> None:
    """And their other weights are the same; each row of an MLP's weight can hold its largest value."""
    network, other = (tiny_network(seed=4, family=family, head_dim=8) for _ in range(2))
    round_mlps(other)
    names = {name for name, value in other.named_parameters() if value.dtype == fp8.VALUES}
    assert len(names) == 3 * len(network.language.model.layers)
    hidden = torch.randn(2, 7, 32)
    rotation = torch.ones(1, 7, 8), torch.zeros(1, 7, 8)
    for layer, rounded in zip(layers_of(network.language.model), layers_of(other.language.model), strict=True):
        expected, actual = layer(hidden, rotation, None, None), rounded(hidden, rotation, None, None)
        assert 0 < float((actual - expected).norm() / expected.norm()) < 0.1


class Whole:
    """A checkpoint that a network's own tensors stand in for."""

    def __init__(self, network: Sa2vaNetwork) -> None:
        self._tensors = OrderedDict(network.state_dict())

    def read(self, name: str) -> torch.Tensor:
        return self._tensors[name.replace("language_model", "language")]


def test_the_start_compares_with_the_weights_as_they_are_block_by_block() -> None:
    """Near ones pass; of a model that does not bear it the start says so, with figures."""
    network = tiny_network(seed=2)
    engine, rounded = tiny_engine(seed=2), tiny_network(seed=2)
    checkpoint: Any = Whole(network)
    round_mlps(rounded)
    engine.network.language = rounded.language
    engine = type(engine)(engine.network, engine.words, max_new_tokens=4)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def judge(whole: torch.Tensor, other: torch.Tensor, states: tuple[torch.Tensor, torch.Tensor]) -> None:
        seen.append(states)
        fp8.judge(whole, whole + 0.01, states)
        with pytest.raises(UnavailableError, match=r"100.0 % of its pixels are on the other side"):
            fp8.judge(whole.sign() * 5, -whole, states)

    engine.compare_with(whole_layers(engine, checkpoint), checks.golden_picture(), judge)
    exact = tiny_engine(seed=2)
    (turn,) = exact._turns([[exact.eyes.prepare(checks.golden_picture().pixels)]], [checks.golden_picture().options])
    expected = exact.language.read([turn], check=False).states
    (whole, eight) = seen[0]
    torch.testing.assert_close(whole, expected, atol=1e-4, rtol=1e-4)
    assert 1e-4 < float((eight - whole).norm() / whole.norm()) < 0.3


def test_cards_before_ada_are_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "NVIDIA A40")
    family = tiny_config().built_on
    with pytest.raises(UnavailableError, match=r"NVIDIA A40 does not have: its compute capability is 8\.6"):
        fp8.refuse(GPU, family)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 9))
    fp8.refuse(GPU, family)
    with pytest.raises(UnavailableError, match="needs GPUs for all of the model"):
        fp8.refuse(Placement(dtype=fp8.NAME), family)
    with pytest.raises(UnavailableError, match="models on InternVL"):
        fp8.refuse(GPU, qwen_vl_tiny.tiny_config("qwen3_vl").built_on)


def test_other_segmenters_refuse_it_in_the_configuration() -> None:
    assert Model(segmenter="sa2va", dtype="fp8-mlp").dtype == "fp8-mlp"
    with pytest.raises(ValidationError, match="fp8-mlp' is for the segmenter sa2va"):
        Model(segmenter="semantic", dtype="fp8-mlp")


def test_it_is_planned_at_what_it_weighs_on_cards() -> None:
    """InternVL3-8B: 15.2 GiB in bfloat16; 8.9 with its MLPs at one byte and its embedding table in host memory, so that
    a card of 12 GB carries it, and with one of 8 GB it says how large it is."""
    model: Any = SimpleNamespace(path=DATA / "internvl3-8b", sa2va=Sa2va(), compile=False)
    segmenter = Sa2vaSegmenter(model)
    sizes = {
        dtype: ModelSizes(segmenter.skeleton_at(dtype), dtype=dtype, no_split=segmenter.no_split())
        for dtype in ("bfloat16", fp8.NAME)
    }
    assert 15.2 < sizes["bfloat16"].weights_gib < 15.3
    assert 8.8 < sizes[fp8.NAME].weights_gib < 9.0
    reserve = segmenter.reserve_gib(1)
    card = Device(index=0, uuid="GPU-a", name="a card", total_gib=12.0, free_gib=11.6)
    found = plan(sizes[fp8.NAME], [card], dtype=fp8.NAME, reserve_gib=reserve)
    assert "GiB in fp8-mlp" in found.reason
    with pytest.raises(UnavailableError, match="does not fit"):
        plan(sizes["bfloat16"], [card], dtype="bfloat16", reserve_gib=reserve)
    halves = [Device(index=place, uuid=f"GPU-{place}", name="x", total_gib=8, free_gib=7.6) for place in range(2)]
    split = plan(sizes[fp8.NAME], halves, dtype=fp8.NAME, reserve_gib=reserve)
    assert len(split.replicas[0].devices) == 2


def test_the_table_on_the_host_is_the_only_part_there() -> None:
    network = skeleton(tiny_config())
    fp8.shrink(network)
    weights = dict(network.named_parameters())
    assert weights["language.model.embed_tokens.weight"].numel() == 0
    assert weights["language.model.layers.0.mlp.up_proj.weight"].element_size() == 1
    assert weights["language.lm_head.weight"].element_size() == 4
    assert {"": "cuda:0", fp8.EMBEDDING: "cpu"} == fp8.with_table_on_host({"": "cuda:0"})
