"""Sa2VA at full size on one GPU: scans per second, memory, where the time goes.

    python -m benchmarks.gpu_sa2va            one GPU, InternVL3-8B's size, about six minutes
    python -m benchmarks.gpu_sa2va --tiny     the same code on the CPU, with a small model, to see that it runs

Weights are random, at the real shapes and dtype: speed does not depend on them. Only the language head is made up so
that the model says "Sure, [SEG]." to everything, as a fine-tuned one does; so greedy generation ends after six tokens,
and a drafted answer is truly checked and found right.

The baseline is the reference code's loop: one picture at a time, transformers' ``generate`` with eager attention and
all hidden states, the stop word looked for in decoded text, SAM2's memory encoder run and thrown away.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import StoppingCriteria, StoppingCriteriaList

from watcherd.inference.base import Frame
from watcherd.inference.segmenters.sa2va import config as configuration
from watcherd.inference.segmenters.sa2va.compiled import compile_encoders
from watcherd.inference.segmenters.sa2va.engine import Engine
from watcherd.inference.segmenters.sa2va.grounding import enlarge, probability
from watcherd.inference.segmenters.sa2va.network import Sa2vaNetwork, skeleton
from watcherd.inference.segmenters.sa2va.preprocess import for_vision, squashed, tiles_of, upload
from watcherd.inference.segmenters.sa2va.prompt import Words
from watcherd.inference.segmenters.sa2va.weights import place_buffers, put
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = Path(__file__).parent.parent / "tests" / "data" / "sa2va"
ASK = Options(prompt="Please segment the blood vessel.", draft="Sure, [SEG].", decode="verify")
GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """One way of segmenting, measured. Times are medians over ``rounds`` batches; memory is null without a GPU."""

    way: str
    batch: int
    rounds: int
    scans_per_second: float
    times_the_loop: float | None = None
    peak_allocated_gib: float | None = None
    peak_reserved_gib: float | None = None


def build(config: configuration.Sa2vaConfig, words: Words, device: str, dtype: torch.dtype) -> Sa2vaNetwork:
    """The network with random weights on ``device``, which says the draft."""
    network = skeleton(config)
    torch.manual_seed(0)
    for name, parameter in network.named_parameters():
        value = torch.empty(parameter.shape, device=device, dtype=dtype)
        if parameter.ndim == 1:
            value.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            value.normal_(std=0.02)
        put(network, name, value)
    place_buffers(network, {"": device})
    _teach(network, words)
    return network


def _teach(network: Sa2vaNetwork, words: Words) -> None:
    """Make every token of the draft the likeliest after the one before it, whatever was seen."""
    layers = network.language.model.layers
    for layer in layers:
        # What layers add stays small against the token's own embedding, with values as random as before.
        layer.self_attn.o_proj.weight.mul_(1e-3)
        layer.mlp.down_proj.weight.mul_(1e-3)
    embedding, head = network.language.model.embed_tokens.weight, network.language.lm_head.weight
    said = (words.prompt("", [1]).ids[-1], *words.draft(ASK.draft))
    for before, token in pairwise(said):
        head[token] = embedding[before] * 50


def pictures(count: int, side: int = 512) -> list[Frame]:
    """Grey noise with a vessel or two; no two alike."""
    rng = np.random.default_rng(0)
    frames = []
    for number in range(count):
        pixels = rng.integers(90, 160, (side, side), dtype=np.uint8)
        pixels[:, 20 + 13 * number % (side - 40) :][:, :9] = 40
        frames.append(Frame(pixels=pixels, options=ASK))
    return frames


class SaysStop(StoppingCriteria):
    """The reference code's way to stop: decode everything that was said, at every step."""

    def __init__(self, words: Words) -> None:
        self._words = words

    def __call__(self, input_ids: torch.Tensor, _scores: Any, **_: Any) -> bool:  # type: ignore[override]
        return self._words.decode(input_ids[0].tolist()).endswith("<|im_end|>")


class Loop:
    """The reference code's loop over single pictures, with the same weights."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._network = engine.network

    @torch.inference_mode()
    def segment(self, frame: Frame) -> np.ndarray[Any, Any]:
        network, words, grounding = self._network, self._engine.words, self._engine.grounding
        device, dtype = grounding.device, grounding.dtype
        pixels = np.repeat(frame.pixels[..., None], 3, axis=2)
        visual = network.see(for_vision(upload(list(tiles_of(pixels)), device), dtype)).flatten(0, 1)
        prompt = words.prompt(frame.options.prompt, [len(visual) // 256])
        embedded = network.language.model.embed_tokens(torch.tensor([prompt.ids], device=device))
        embedded[0, torch.tensor(prompt.visual)] = visual
        said = network.language.generate(
            inputs_embeds=embedded,
            attention_mask=torch.ones(embedded.shape[:2], dtype=torch.bool, device=device),
            do_sample=False,
            max_new_tokens=64,
            eos_token_id=words.end,
            pad_token_id=words.end,
            output_hidden_states=True,
            return_dict_in_generate=True,
            stopping_criteria=StoppingCriteriaList([SaysStop(words)]),
        )
        states = torch.cat([step[-1][0] for step in said.hidden_states])
        tokens = said.sequences[0][:-1]
        vector = network.text_hidden_fcs(states[-len(tokens) :][tokens == words.seg])
        features = grounding.encode([squashed(pixels, 1024)])
        masks = grounding.decode(grounding.prompted(features), features, vector)
        network.sam2.memory_encoder(features.coarse, (enlarge(masks.logits)[:, None].sigmoid() * 20 - 10).to(dtype))
        probability_map = probability(masks.logits, *frame.pixels.shape[:2])
        return (probability_map > 0.5).cpu().numpy()


def seconds_of(work: Callable[[], Any], rounds: int, device: str) -> float:
    """Median wall time of one call, the device's work included, after one call to warm up."""
    work()
    times = []
    for _ in range(rounds):
        wait(device)
        begin = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def measure(
    way: str, work: Callable[[], Any], batch: int, rounds: int, device: str, loop: float | None = None
) -> Speed:
    """Time ``work``, which segments ``batch`` scans, and its memory."""
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    rate = batch / seconds_of(work, rounds, device)
    speed = Speed(way=way, batch=batch, rounds=rounds, scans_per_second=rate, times_the_loop=loop and rate / loop)
    if device != "cpu":
        speed = replace(
            speed,
            peak_allocated_gib=torch.cuda.max_memory_allocated() / GIB,
            peak_reserved_gib=torch.cuda.max_memory_reserved() / GIB,
        )
    say(speed)
    return speed


def say(speed: Speed) -> None:
    times = "" if speed.times_the_loop is None else f"  {speed.times_the_loop:5.1f}x the loop"
    memory = "" if speed.peak_allocated_gib is None else f"  peak {speed.peak_allocated_gib:.1f} GiB"
    print(f"{speed.way:28} batch {speed.batch:2}  {speed.scans_per_second:7.2f} scans/s{times}{memory}", flush=True)


def maps(engine: Engine, frames: list[Frame]) -> list[Any]:
    """What a replica does with a batch: segment, and bring the probabilities to the host."""
    found = engine.segment(frames)
    happened = {"verify": "verified", "generate": "generated"}
    assert [happened[frame.options.decode] for frame in frames] == [one.reply.decode for one in found]
    assert all(len(one.logits) == 1 for one in found)
    return [one.probability(*frame.pixels.shape[:2]) for one, frame in zip(found, frames, strict=True)]


@torch.inference_mode()
def shares(engine: Engine, frames: list[Frame], rounds: int, device: str) -> dict[str, float]:
    """Milliseconds per scan in each part, each waited for; in a batch they overlap where they can."""
    network, grounding = engine.network, engine.grounding
    vision_device, dtype = torch.device(device), grounding.dtype
    tiles = [tiles_of(frame.pixels) for frame in frames]
    squares = [squashed(frame.pixels, 1024) for frame in frames]
    flat = [tile for block in tiles for tile in block]
    started: list[Any] = []
    features = grounding.encode(squares)
    replies = engine._ask([[block] for block in tiles], [frame.options for frame in frames])()
    vectors = torch.cat([reply.vectors for reply in replies])
    coarse = grounding.prompted(features)
    logits = grounding.decode(coarse, features, vectors).logits
    parts: dict[str, Callable[[], Any]] = {
        "resize (one thread)": lambda: [(tiles_of(f.pixels), squashed(f.pixels, 1024)) for f in frames],
        "vision tower": lambda: network.see(for_vision(upload(flat, vision_device), dtype)),
        "vision and language": lambda: started.append(
            engine._ask([[block] for block in tiles], [frame.options for frame in frames])()
        ),
        "SAM2 encoder": lambda: grounding.encode(squares),
        "SAM2 decoder": lambda: grounding.decode(coarse, features, vectors),
        "maps to the host": lambda: [probability(one[None], 512, 512).cpu() for one in logits],
    }
    times = {name: 1000 * seconds_of(work, rounds, device) / len(frames) for name, work in parts.items()}
    times["language model"] = times.pop("vision and language") - times["vision tower"]
    for name, value in times.items():
        print(f"  {name:24} {value:7.2f} ms per scan", flush=True)
    return times


def count_flops(engine: Engine, frames: list[Frame]) -> float:
    """Floating-point operations of a batch, as torch counts them; causal attention counts whole."""
    aten = torch.ops.aten
    attention = (
        aten._scaled_dot_product_flash_attention,
        aten._scaled_dot_product_efficient_attention,
        aten._scaled_dot_product_cudnn_attention,
        aten._scaled_dot_product_flash_attention_for_cpu,
    )
    with FlopCounterMode(display=False, custom_mapping=dict.fromkeys(attention, attention_flops)) as counter:
        maps(engine, frames)
    return float(counter.get_total_flops())


def attention_flops(query: torch.Size, key: torch.Size, *_: Any, **__: Any) -> int:
    """Two products of (batch, heads, tokens, width); torch's own count refuses keys that heads share."""
    batch, heads, tokens, width = query
    return 4 * batch * heads * tokens * key[2] * width


def matrix_rate(device: str) -> float:
    """FLOP/s of a large bfloat16 product of random matrices: what the card can do."""
    side = 8192 if device != "cpu" else 512
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: a @ b, 10, device)


def main() -> None:
    """Measure, print a table, and write all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a small model on the CPU")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--compile", action="store_true", help="also measure with compiled encoders")
    arguments = parser.parse_args()
    device = "cpu" if arguments.tiny else "cuda:0"
    figures = run(device, tiny=arguments.tiny, compiled=arguments.compile)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


def run(device: str, *, tiny: bool, compiled: bool) -> dict[str, Any]:
    """All measurements."""
    begin = time.perf_counter()
    config, words = small() if tiny else full(), Words(DATA / "tokenizer")
    network = build(config, words, device, torch.float32 if tiny else torch.bfloat16)
    engine = Engine(network, words, max_new_tokens=64)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    print(f"{parameters / 1e9:.2f} B parameters, built in {time.perf_counter() - begin:.0f} s", flush=True)
    batches, rounds = ((1, 2), 1) if tiny else ((1, 2, 4, 8, 16), 8)
    frames = pictures(max(batches))
    warm = maps(engine, frames[:1])
    loop = Loop(engine)
    network.language.set_attn_implementation("eager")
    reference = loop.segment(frames[0])
    speeds = [measure("reference loop", lambda: loop.segment(frames[0]), 1, max(rounds, 2), device)]
    network.language.set_attn_implementation("sdpa")
    agree = float((reference[0] == (warm[0] > 0.5)).mean())
    print(f"  pixels on which the loop and the engine agree: {agree:.4%}", flush=True)
    base = speeds[0].scans_per_second
    generate = [replace(frame, options=replace(ASK, decode="generate")) for frame in frames]
    speeds.append(measure("generate", lambda: maps(engine, generate[:1]), 1, rounds, device, base))
    speeds += [measure("verify", lambda n=n: maps(engine, frames[:n]), n, rounds, device, base) for n in batches]
    peak = matrix_rate(device)
    flops = count_flops(engine, frames)
    achieved = flops / len(frames) * speeds[-1].scans_per_second
    print(
        f"{flops / len(frames) / 1e12:.2f} TFLOP per scan; {achieved / 1e12:.0f} TFLOP/s of {peak / 1e12:.0f}",
        flush=True,
    )
    times = shares(engine, frames, rounds, device)
    figures: dict[str, Any] = {
        "parameters": parameters,
        "flops_per_scan": flops / len(frames),
        "achieved_flops": achieved,
        "matrix_flops": peak,
        "milliseconds": times,
        "agreement": agree,
    }
    if device != "cpu":
        figures["device"] = torch.cuda.get_device_name()
        speeds.append(in_24_gib(engine, frames, rounds, device, base))
    if compiled:
        started = time.perf_counter()
        figures["compiled"] = compile_encoders(network, lambda *_: None)
        print(f"compiled {figures['compiled']} in {time.perf_counter() - started:.0f} s", flush=True)
        speeds += [
            measure("verify, compiled", lambda n=n: maps(engine, frames[:n]), n, rounds, device, base)
            for n in batches[-2:]
        ]
        figures["milliseconds_compiled"] = shares(engine, frames, rounds, device)
    figures["speeds"] = [asdict(speed) for speed in speeds]
    return figures


def in_24_gib(engine: Engine, frames: list[Frame], rounds: int, device: str, base: float) -> Speed:
    """The largest batch again, on a card that pretends to have 24 GB."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(24e9 / torch.cuda.get_device_properties(0).total_memory)
    try:
        return measure("verify, in 24 GB", lambda: maps(engine, frames), len(frames), rounds, device, base)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def full() -> configuration.Sa2vaConfig:
    """InternVL3-8B: 8.18 billion parameters."""
    return configuration.read(DATA / "internvl3-8b")


def small() -> configuration.Sa2vaConfig:
    """The references' small language model with a narrow SAM2."""
    config = configuration.read(DATA / "layer-norm")
    return replace(config, hiera=configuration.Hiera(width=16, heads=1, blocks=(1, 1, 2, 1), global_blocks=(3,)))


if __name__ == "__main__":
    sys.exit(main())
