"""Train one network: ``python -m training.train --help``.

Binary cross-entropy plus soft Dice over the pixels that count, AdamW, a warm-up and a cosine, an exponential moving
average of the weights, which is what is kept. Nothing is stopped early and nothing is chosen here.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from training.answers import keep, logits_of
from training.augment import Batch, Mix, Source
from training.data import SIDES, STRAYS, TRAINING, angiogram_arrays, angiograms, chase, chase_arrays, training_part
from watcherd.inference.segmenters.vessel.compact import Compact, fold
from watcherd.inference.segmenters.vessel.network import CHANNELS

if TYPE_CHECKING:
    from training.data import Bytes
    from training.synth import Kind

    Arrays = tuple[Bytes, Bytes]

NETWORK = {
    "widths": [32, 48, 80, 128, 144],
    "blocks_down": [1, 1, 2, 2, 2],
    "blocks_up": [1, 1, 1, 1],
}
CHECKPOINT_SECONDS = 90.0
SETTLING = 40
"""Batches over which the normalisation's statistics are taken anew at the end, for the averaged weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One training run. ``use``: both, real or synthetic. ``seconds``: an upper limit; the cosine ends with it.

    ``without``: blocks of the real angiograms that are not seen. ``start``: weights to begin with, a file of an earlier
    run; empty: random ones.
    """

    kind: Kind
    use: str
    seed: int
    steps: int
    seconds: float
    batch: int
    rate: float
    device: str
    start: str = ""
    without: tuple[int, ...] = ()


def sources(plan: Plan, scenes: Path, chase_folder: Path, coronary: Path | None) -> list[Source]:
    """What the network learns from; real photographs also stand in for X-ray frames, as pictures of vessels."""
    xray = plan.kind == "xray"
    out: list[Source] = []

    def add(arrays: Arrays, scale: tuple[float, float], share: float, *, turn: float = torch.pi, real: bool) -> None:
        images, labels = (torch.from_numpy(part).to(plan.device) for part in arrays)
        out.append(Source(images=images, labels=labels, is_xray=xray, scale=scale, share=share, turn=turn, real=real))

    if plan.use != "real":
        made_up = training_part(plan.kind).read(scenes)
        if xray:
            add(made_up, (0.6, 1.25), 0.4, turn=0.6, real=False)
        else:
            add(made_up, (0.55, 1.35), 0.3, real=False)
    if plan.use != ("real" if xray else "synthetic"):
        photographs = chase_arrays(chase(chase_folder, TRAINING), SIDES["fundus"])
        add(photographs, (0.5, 1.2) if xray else (0.5, 1.35), 0.05 if xray else 0.7, real=False)
    if xray and plan.use != "synthetic" and coronary is not None:
        seen = [frame for frame in angiograms(coronary) if frame.block not in plan.without]
        add(angiogram_arrays(seen, SIDES["xray"]), (0.7, 1.3), 0.55, turn=0.5, real=True)
    return out


def strays(plan: Plan, scenes: Path) -> Tensor | None:
    """What is laid over real angiograms; nothing in the control that knows nothing made up."""
    if plan.kind != "xray" or (plan.use == "real" and not plan.start):
        return None
    return torch.from_numpy(np.load(scenes / STRAYS)).to(plan.device)


def loss_of(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy plus one minus soft Dice, each kind's crops pooled apart from the other's."""
    entropy = functional.binary_cross_entropy_with_logits(logits, batch.target, weight=batch.weight, reduction="sum")
    probability = torch.sigmoid(logits) * batch.weight
    target = batch.target * batch.weight
    kind = (batch.inputs[:, 3, 0, 0] > 0.5).float()
    pools = torch.stack([kind, 1 - kind])
    overlap = pools @ (probability * target).sum((1, 2, 3))
    total = pools @ (probability.sum((1, 2, 3)) + target.sum((1, 2, 3)))
    dice = (1 - (2 * overlap + 1) / (total + 1)) * (pools.sum(1) > 0)
    return entropy / batch.weight.sum().clamp_min(1) + dice.sum() / (pools.sum(1) > 0).sum()


def network(*, folded: bool) -> Compact:
    """The network of `NETWORK`, with random weights."""
    return Compact(channels=CHANNELS, folded=folded, **NETWORK)  # type: ignore[arg-type]  # lists of numbers all


def train(plan: Plan, mix: Mix, out: Path) -> nn.Module:
    """Train, writing the averaged weights to ``out`` now and then and at the end; returns them folded."""
    torch.manual_seed(plan.seed)
    net = network(folded=False)
    if plan.start:
        net.load_state_dict(load_file(plan.start))
    net = net.to(plan.device, memory_format=torch.channels_last)
    average = copy.deepcopy(net).requires_grad_(False)
    optimizer = torch.optim.AdamW(net.parameters(), lr=plan.rate, weight_decay=1e-2, betas=(0.9, 0.99))
    mixed = plan.device.startswith("cuda")
    parts = mix.apart()
    started = saved = time.monotonic()
    for step in range(plan.steps):
        done = max(step / plan.steps, (time.monotonic() - started) / plan.seconds)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = plan.rate * min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * done))
        batches = [part.draw() for part in parts]
        with torch.autocast(plan.device.split(":")[0], torch.bfloat16, enabled=mixed):
            logits = [net(batch.inputs.contiguous(memory_format=torch.channels_last)) for batch in batches]
        losses = [loss_of(each.float(), batch) * len(each) for each, batch in zip(logits, batches, strict=True)]
        loss = torch.stack(losses).sum() / sum(len(each) for each in logits)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        follow(average, net, decay=min(0.998, (step + 1) / (step + 20)))
        if step % 100 == 0:
            print(f"{out.stem} step {step} loss {loss.item():.4f} {time.monotonic() - started:.0f} s", flush=True)
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            saved = time.monotonic()
            save(average, out, plan, step=step, seconds=saved - started)
    settle(average, parts[0])
    save(average, out, plan, step=step + 1, seconds=time.monotonic() - started)
    folded = network(folded=True).to(plan.device)
    fold(average.eval(), folded)
    return folded.eval().requires_grad_(False)


@torch.no_grad()
def follow(average: nn.Module, net: nn.Module, *, decay: float) -> None:
    """Move the averaged weights a little towards the trained ones."""
    old: list[Tensor] = list(average.parameters())
    new: list[Tensor] = list(net.parameters())
    torch._foreach_lerp_(old, new, 1 - decay)


@torch.no_grad()
def settle(average: nn.Module, mix: Mix) -> None:
    """Take the normalisation's statistics of the averaged weights, over pictures like those that will come."""
    for module in average.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    average.train()
    for _ in range(SETTLING):
        average(mix.draw().inputs)


def save(net: nn.Module, out: Path, plan: Plan, *, step: int, seconds: float) -> None:
    """Weights, and beside them how they came about."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    save_file(tensors, out)
    record = {"plan": asdict(plan), "network": NETWORK, "steps": step, "seconds": round(seconds, 1)}
    out.with_suffix(".json").write_text(json.dumps(record, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=("xray", "fundus"), required=True)
    parser.add_argument("--scenes", type=Path, required=True, help="folder that training.generate wrote")
    parser.add_argument("--chase", type=Path, required=True, help="folder of CHASE_DB1 (images, masks, fov)")
    parser.add_argument("--coronary", type=Path, help="folder of real angiograms (images, masks)")
    parser.add_argument("--without", type=int, nargs="*", default=[], help="blocks of them that are left out")
    parser.add_argument("--answers", type=Path, help="an .npz file for the answers on the blocks left out")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--use", choices=("both", "real", "synthetic"), default="both")
    parser.add_argument("--start", type=Path, help="weights of an earlier run to begin with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu: smaller batches, hours")
    given = parser.parse_args()
    on_cpu = given.device == "cpu"
    plan = Plan(
        kind=given.kind,
        use=given.use,
        seed=given.seed,
        rate=given.rate,
        device=given.device,
        batch=given.batch or (8 if on_cpu else 32),
        steps=given.steps,
        seconds=given.seconds or (6600 if on_cpu else 3600),
        start=str(given.start or ""),
        without=tuple(given.without),
    )
    torch.backends.cudnn.benchmark = True
    generator = torch.Generator(plan.device).manual_seed(plan.seed)
    learnt = sources(plan, given.scenes, given.chase, given.coronary)
    mix = Mix(learnt, batch=plan.batch, generator=generator, strays=strays(plan, given.scenes))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    folded = train(plan, mix, given.out)
    if given.answers:
        frames = [frame for frame in angiograms(given.coronary) if frame.block in plan.without]
        keep(given.answers, frames, [logits_of(folded, frame.image, device=plan.device) for frame in frames])


if __name__ == "__main__":
    main()
