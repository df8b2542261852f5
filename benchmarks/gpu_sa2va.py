"""Sa2VA at full size on one GPU: scans per second by batch, memory, where the time goes, and the service with it.

Weights are random, at the real shapes and dtype: speed does not depend on them. Only the language head is made up so
that the model says "Sure, [SEG]." to everything, as a fine-tuned one does; so greedy generation ends after six tokens,
and a drafted answer is truly checked and found right.

The baseline is the reference code's loop: one picture at a time, transformers' ``generate`` with eager attention and
all hidden states, the stop word looked for in decoded text, SAM2's memory encoder run and thrown away.
"""

from __future__ import annotations

import shutil
import statistics
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import StoppingCriteria, StoppingCriteriaList

from benchmarks.figure import Figure, Target
from benchmarks.gpu_limits import matrix_rates, on_gpu, seconds_of
from tests.sa2va_folder import DATA, write_tokenizer, write_weights
from watcherd.inference.base import Frame
from watcherd.inference.segmenters.sa2va import config as configuration
from watcherd.inference.segmenters.sa2va.compiled import compile_encoders
from watcherd.inference.segmenters.sa2va.engine import Engine
from watcherd.inference.segmenters.sa2va.grounding import enlarge, probability
from watcherd.inference.segmenters.sa2va.network import Sa2vaNetwork, skeleton
from watcherd.inference.segmenters.sa2va.preprocess import for_vision, squashed, tiles_of, upload
from watcherd.inference.segmenters.sa2va.prompt import Words
from watcherd.inference.segmenters.sa2va.renames import sources
from watcherd.inference.segmenters.sa2va.weights import place_buffers, put
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

FULL = "internvl3-8b"
ASK = Options(prompt="Please segment the blood vessel.", draft="Sure, [SEG].", decode="verify")
GIB = 2**30
SHARDS = 8


def by_batch(device: str, runs: int, batches: Sequence[int], *, full_size: bool) -> list[Figure]:
    """The chapter: every way of segmenting against the loop, operations, stages; with compiled encoders on a GPU."""
    config = configuration.read(DATA / FULL) if full_size else small()
    words = Words(DATA / "tokenizer")
    network = build(config, words, device, torch.bfloat16 if on_gpu(device) else torch.float32)
    engine = Engine(network, words, max_new_tokens=64)
    frames = pictures(max(batches))
    ways = Ways(engine, frames, runs, device)
    result = [*ways.against_the_loop(), *ways.by_batch("verify", batches)]
    result += ways.operations()
    result += ways.stages()
    if on_gpu(device):
        with in_24_gb():
            result += ways.by_batch("verify, in 24 GB", batches[-1:])
        began = time.perf_counter()
        parts = compile_encoders(network, lambda *_: None)
        seconds = time.perf_counter() - began
        result.append(
            Figure(name="compiling", unit="s", values=[seconds], definition=f"once, at the start; kept: {parts}")
        )
        result += ways.by_batch("verify, compiled", batches[-1:])
        result += ways.stages(", compiled")
    return result


def build(config: configuration.Sa2vaConfig, words: Words, device: str, dtype: torch.dtype) -> Sa2vaNetwork:
    """The network with random weights on ``device``, which says the draft."""
    network = random_network(config, device, dtype)
    _teach(network, words)
    return network


def random_network(config: configuration.Sa2vaConfig, device: str, dtype: torch.dtype) -> Sa2vaNetwork:
    """The same with weights that say nothing."""
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


def maps(engine: Engine, frames: Sequence[Frame]) -> list[Any]:
    """What a replica does with a batch: segment, and bring the probabilities to the host."""
    found = engine.segment(frames)
    happened = {"verify": "verified", "generate": "generated"}
    assert [happened[frame.options.decode] for frame in frames] == [one.reply.decode for one in found]
    assert all(len(one.logits) == 1 for one in found)
    return [one.probability(*frame.pixels.shape[:2]) for one, frame in zip(found, frames, strict=True)]


class Ways:
    """One model, measured in several ways, each ``runs`` times."""

    def __init__(self, engine: Engine, frames: Sequence[Frame], runs: int, device: str) -> None:
        self._engine = engine
        self._frames = frames
        self._runs = runs
        self._device = device
        self._loop = 0.0
        self._last: Sequence[float] = ()
        """Scans a second: of the loop, and of what was measured last."""

    def against_the_loop(self) -> list[Figure]:
        """The baseline, whether its mask is ours, and greedy generation with our code."""
        engine, first = self._engine, self._frames[0]
        loop, language = Loop(engine), engine.network.language
        warm = maps(engine, [first])
        language.set_attn_implementation("eager")
        (reference,) = loop.segment(first)
        seconds = seconds_of(lambda: loop.segment(first), self._runs, self._device)
        language.set_attn_implementation("sdpa")
        self._loop = 1 / statistics.median(seconds)
        generate = [replace(first, options=replace(ASK, decode="generate"))]
        parameters = sum(parameter.numel() for parameter in engine.network.parameters())
        return [
            Figure(
                name="reference loop, one at a time",
                unit="scans/s",
                values=[1 / each for each in seconds],
                definition=f"as in the module's docstring, {parameters / 1e9:.2f} billion parameters in bfloat16",
            ),
            Figure(
                name="  pixels on which loop and engine agree",
                unit="ratio",
                values=[float((reference == (warm[0] > 0.5)).mean())],
                definition="masks of the same picture",
            ),
            *self._measure("generate", generate),
        ]

    def by_batch(self, way: str, batches: Sequence[int]) -> list[Figure]:
        """The answer drafted and checked, the frames in batches."""
        found = []
        for batch in batches:
            target = Target(least=10) if batch == max(batches) > 1 and way == "verify" else None
            found += self._measure(f"{way}, batch {batch}", self._frames[:batch], target)
        return found

    def _measure(self, name: str, frames: Sequence[Frame], target: Target | None = None) -> list[Figure]:
        if on_gpu(self._device):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        seconds = seconds_of(lambda: maps(self._engine, frames), self._runs, self._device)
        self._last = [len(frames) / each for each in seconds]
        result = [
            Figure(
                name=f"{name}: times the loop",
                unit="ratio",
                values=[rate / self._loop for rate in self._last],
                definition="scans a second over the median of the reference loop",
                target=target,
            ),
            Figure(
                name="  rate",
                unit="scans/s",
                values=self._last,
                definition="512 x 512 frames in memory to probabilities on the host",
            ),
        ]
        if on_gpu(self._device):
            peak = torch.cuda.max_memory_allocated() / GIB
            result.append(
                Figure(name="  peak VRAM", unit="GiB", values=[peak], definition="allocated, the weights included")
            )
        return result

    def operations(self) -> list[Figure]:
        """Of the largest batch, which was measured last, against the card's own rate."""
        each = count_flops(self._engine, self._frames) / len(self._frames)
        product = statistics.median(matrix_rates(self._device, self._runs))
        return [
            Figure(
                name="operations at the largest batch",
                unit="TFLOP/s",
                values=[rate * each / 1e12 for rate in self._last],
                definition=f"{each / 1e12:.2f} TFLOP for a scan, as torch counts them, by the rate",
            ),
            Figure(
                name="  over a matrix product",
                unit="ratio",
                values=[rate * each / product for rate in self._last],
                definition="over the median of a large bfloat16 product in the same chapter",
            ),
        ]

    @torch.inference_mode()
    def stages(self, suffix: str = "") -> list[Figure]:
        """Milliseconds per scan in each part, each waited for; in a batch they overlap where they can."""
        engine, frames = self._engine, self._frames
        network, grounding = engine.network, engine.grounding
        vision_device, dtype = torch.device(self._device), grounding.dtype
        tiles = [tiles_of(frame.pixels) for frame in frames]
        squares = [squashed(frame.pixels, 1024) for frame in frames]
        flat = [tile for block in tiles for tile in block]
        options = [frame.options for frame in frames]
        features = grounding.encode(squares)

        def answers() -> Any:
            return engine._ask([[block] for block in tiles], options)()

        vectors = torch.cat([reply.vectors for reply in answers()])
        coarse = grounding.prompted(features)
        logits = grounding.decode(coarse, features, vectors).logits
        parts: dict[str, Callable[[], Any]] = {
            "resize (one thread)": lambda: [(tiles_of(f.pixels), squashed(f.pixels, 1024)) for f in frames],
            "vision tower": lambda: network.see(for_vision(upload(flat, vision_device), dtype)),
            "vision tower and language model": answers,
            "SAM2 encoder": lambda: grounding.encode(squares),
            "SAM2 decoder": lambda: grounding.decode(coarse, features, vectors),
            "maps to the host": lambda: [probability(one[None], 512, 512).cpu() for one in logits],
        }
        return [
            Figure(
                name=f"  stage: {name}{suffix}",
                unit="ms a scan",
                values=[1000 * each / len(frames) for each in seconds_of(work, self._runs, self._device)],
                definition=f"in a batch of {len(frames)}, waited for",
            )
            for name, work in parts.items()
        ]


def count_flops(engine: Engine, frames: Sequence[Frame]) -> float:
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


@contextmanager
def in_24_gb() -> Iterator[None]:
    """The card pretends to have 24 GB."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(24e9 / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def small() -> configuration.Sa2vaConfig:
    """The references' small language model with a narrow SAM2, to see on a CPU that everything runs."""
    config = configuration.read(DATA / "layer-norm")
    return replace(config, hiera=configuration.Hiera(width=16, heads=1, blocks=(1, 1, 2, 1), global_blocks=(3,)))


# ------------------------------------------------------------------------------------------------------ a model folder


def write_full_model(folder: Path, device: str, model: str = FULL) -> Path:
    """A folder with the full-size model's weights in bfloat16, 16 GB, as `build` makes them on ``device``."""
    folder.mkdir(parents=True)
    shutil.copyfile(DATA / model / "config.json", folder / "config.json")
    write_tokenizer(folder)
    network = build(configuration.read(folder), Words(folder), device, torch.bfloat16)
    write_weights(folder, as_checkpoint(network.state_dict()), shards=SHARDS)
    return folder


def as_checkpoint(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our tensors under the checkpoint's names: what `watcherd.inference.segmenters.sa2va.weights` undoes."""
    found: dict[str, torch.Tensor] = {}
    thirds: dict[str, dict[int, torch.Tensor]] = {}
    for name, origin in sources(tensors).items():
        if origin.third is not None:
            thirds.setdefault(origin.names[0], {})[origin.third] = tensors[name]
        else:
            found |= zip(origin.names, tensors[name].chunk(len(origin.names)), strict=True)
    found |= {name: torch.cat([parts[third] for third in range(3)]) for name, parts in thirds.items()}
    return {name: tensor.contiguous().cpu() for name, tensor in found.items()}
