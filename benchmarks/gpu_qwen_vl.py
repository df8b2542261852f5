"""Sa2VA on Qwen3-VL-4B at full size on one GPU: scans per second by batch, and memory.

Weights are random, made on the card at the published shapes; the language head says the draft to everything, as in
`benchmarks.gpu_sa2va`, so that it is truly checked and found right.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from benchmarks.figure import Figure
from benchmarks.gpu_limits import on_gpu, seconds_of
from benchmarks.gpu_sa2va import ASK, GIB, maps, pictures, random_network
from tests import qwen_vl_tiny as tiny
from tests.sa2va_folder import DATA
from watcherd.inference.segmenters.sa2va import config as configuration
from watcherd.inference.segmenters.sa2va.engine import Engine
from watcherd.inference.segmenters.sa2va.network import Sa2vaNetwork, place, skeleton
from watcherd.inference.segmenters.sa2va.prompt import Words
from watcherd.inference.segmenters.sa2va.weights import place_buffers, put

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from watcherd.inference.base import Frame

BASE = "qwen3_vl"


def by_batch(device: str, runs: int, batches: Sequence[int], *, full_size: bool) -> list[Figure]:
    """The chapter."""
    engine = engine_of(build(device, full_size=full_size))
    frames = pictures(max(batches))
    return [figure for batch in batches for figure in _measured(engine, frames[:batch], runs, device)]


def engine_of(network: Sa2vaNetwork) -> Engine:
    """The network, ready to be asked."""
    return Engine(network, words(), max_new_tokens=64)


def words() -> Words:
    """A small tokenizer, whose words are the first rows of the model's table."""
    return Words(DATA / "tokenizer", template=configuration.PATCHED_TEMPLATE)


def build(device: str, *, full_size: bool = True) -> Sa2vaNetwork:
    """The network with random weights, made on ``device``, in bfloat16 on a GPU; it says the draft to everything."""
    dtype = torch.bfloat16 if on_gpu(device) else torch.float32
    network = random_network(network_config(full_size=full_size), device, dtype)
    _teach(network)
    return network


def moved(network: Sa2vaNetwork, device_map: Mapping[str, str], *, full_size: bool = True) -> Sa2vaNetwork:
    """A copy of ``network`` with its parts where the map says."""
    copy = skeleton(network_config(full_size=full_size))
    for name, parameter in network.named_parameters():
        put(copy, name, parameter.detach().to(str(place(name, device_map)), copy=True))
    place_buffers(copy, device_map)
    # Some buffers are random, as SAM2's of positions.
    for of_copy, buffer in zip(copy.buffers(), network.buffers(), strict=True):
        of_copy.copy_(buffer)
    return copy


def network_config(*, full_size: bool) -> configuration.Sa2vaConfig:
    """The configuration at the published size, or a tiny one."""
    if not full_size:
        return tiny.tiny_config(BASE, vocab_size=tiny.WORDS)
    return replace(configuration.parse(tiny.published(BASE), DATA), hiera=configuration.LARGE)


def _teach(network: Sa2vaNetwork) -> None:
    """Make every token of the draft the likeliest after the one before it, whatever was seen."""
    for layer in network.language.model.layers:
        # What layers add stays small against the token's own embedding, with values as random as before.
        layer.self_attn.o_proj.weight.mul_(1e-3)
        layer.mlp.down_proj.weight.mul_(1e-3)
    embedding, head, known = network.language.model.embed_tokens.weight, network.language.lm_head.weight, words()
    said = (known.prompt("", [(1, 1)]).ids[-1], *known.draft(ASK.draft))
    for before, token in pairwise(said):
        head[token] = embedding[before] * 50


def _measured(engine: Engine, frames: Sequence[Frame], runs: int, device: str) -> list[Figure]:
    if on_gpu(device):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = seconds_of(lambda: maps(engine, frames), runs, device)
    result = [
        Figure(
            name=f"verify, batch {len(frames)}",
            unit="scans/s",
            values=[len(frames) / each for each in seconds],
            definition="512 x 512 frames in memory to probabilities on the host",
        )
    ]
    if on_gpu(device):
        peak = torch.cuda.max_memory_allocated() / GIB
        result.append(
            Figure(name="  peak VRAM", unit="GiB", values=[peak], definition="allocated, the weights included")
        )
    return result
