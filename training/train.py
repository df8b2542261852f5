"""Train one network: ``python -m training.train --help``.

Binary cross-entropy plus soft Dice over the pixels that count, AdamW, a warm-up and a cosine, an exponential moving
average of the weights, which is what is kept.
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

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from training.augment import Batch, Mix, Source
from training.data import SIDES, TRAINING, chase, chase_arrays, training_part
from watcherd.inference.segmenters.vessel.network import build

if TYPE_CHECKING:
    from training.synth import Kind

NETWORK = {
    "init_filters": 16,
    "blocks_down": [1, 2, 2, 4],
    "blocks_up": [1, 1, 1],
    "norm": ["GROUP", {"num_groups": 8}],
}
CHECKPOINT_SECONDS = 90.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One training run. ``use``: both, real or synthetic. ``seconds``: an upper limit; the cosine ends with it."""

    use: str
    seed: int
    steps: int
    seconds: float
    batch: int
    rate: float
    device: str


def sources(plan: Plan, scenes: Path, chase_folder: Path) -> list[Source]:
    """What the network learns from. The real photographs also stand in for X-ray frames, as pictures of vessels."""
    device = plan.device
    out: list[Source] = []
    if plan.use != "real":
        kinds: tuple[tuple[Kind, tuple[float, float], float], ...] = (
            ("xray", (0.5, 1.1), 0.5),
            ("fundus", (0.7, 1.25), 0.18),
        )
        for kind, scale, share in kinds:
            images, labels = (torch.from_numpy(part).to(device) for part in training_part(kind).read(scenes))
            out.append(Source(images=images, labels=labels, is_xray=kind == "xray", scale=scale, share=share))
    if plan.use != "synthetic":
        arrays = chase_arrays(chase(chase_folder, TRAINING), SIDES["fundus"])
        images, labels = (torch.from_numpy(part).to(device) for part in arrays)
        out.append(Source(images=images, labels=labels, is_xray=False, scale=(0.7, 1.25), share=0.27))
        out.append(
            Source(
                images=images, labels=labels, is_xray=True, scale=(0.5, 1.2), share=0.5 if plan.use == "real" else 0.05
            )
        )
    return out


def loss_of(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy plus one minus soft Dice, each kind's crops pooled apart from the other's."""
    entropy = functional.binary_cross_entropy_with_logits(logits, batch.target, weight=batch.weight, reduction="sum")
    probability = torch.sigmoid(logits) * batch.weight
    target = batch.target * batch.weight
    kind = (batch.inputs[:, 3, 0, 0] > 0.5).float()
    pools = torch.stack([kind, 1 - kind])
    overlap = pools @ (probability * target).sum((1, 2, 3))
    total = pools @ (probability.sum((1, 2, 3)) + target.sum((1, 2, 3)))
    dice = 1 - (2 * overlap + 1) / (total + 1)
    return entropy / batch.weight.sum().clamp_min(1) + dice.mean()


def train(plan: Plan, mix: Mix, out: Path) -> nn.Module:
    """Train, writing the averaged weights to ``out`` now and then and at the end."""
    torch.manual_seed(plan.seed)
    [net] = build(NETWORK, members=1).to(plan.device)
    average = copy.deepcopy(net).requires_grad_(False)
    optimizer = torch.optim.AdamW(net.parameters(), lr=plan.rate, weight_decay=1e-3, betas=(0.9, 0.99))
    # Compiled, a step takes 60 % of the time on a GPU; channels-last would have to be undone for every group norm.
    quick = torch.compile(net) if plan.device.startswith("cuda") else net
    mixed = plan.device.startswith("cuda")
    started = saved = time.monotonic()
    for step in range(plan.steps):
        done = max(step / plan.steps, (time.monotonic() - started) / plan.seconds)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = plan.rate * min(1.0, (step + 1) / 150) * (0.5 + 0.5 * math.cos(math.pi * done))
        batch = mix.draw()
        with torch.autocast(plan.device.split(":")[0], torch.bfloat16, enabled=mixed):
            logits = quick(batch.inputs)
        loss = loss_of(logits.float(), batch)
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
    save(average, out, plan, step=step + 1, seconds=time.monotonic() - started)
    return average


@torch.no_grad()
def follow(average: nn.Module, net: nn.Module, *, decay: float) -> None:
    """Move the averaged weights a little towards the trained ones."""
    old: list[Tensor] = list(average.parameters())
    new: list[Tensor] = list(net.parameters())
    torch._foreach_lerp_(old, new, 1 - decay)


def save(net: nn.Module, out: Path, plan: Plan, *, step: int, seconds: float) -> None:
    """Weights, and beside them how they came about."""
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in net.state_dict().items()}
    save_file(tensors, out)
    record = {"plan": asdict(plan), "network": NETWORK, "steps": step, "seconds": round(seconds, 1)}
    out.with_suffix(".json").write_text(json.dumps(record, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=Path, required=True, help="folder that training.generate wrote")
    parser.add_argument("--chase", type=Path, required=True, help="folder of CHASE_DB1 (images, masks, fov)")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--use", choices=("both", "real", "synthetic"), default="both")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu: smaller batches, two hours on two cores")
    given = parser.parse_args()
    on_cpu = given.device == "cpu"
    plan = Plan(
        use=given.use,
        seed=given.seed,
        rate=given.rate,
        device=given.device,
        batch=given.batch or (8 if on_cpu else 32),
        steps=given.steps or 6000,
        seconds=given.seconds or (6600 if on_cpu else 3600),
    )
    generator = torch.Generator(plan.device).manual_seed(plan.seed)
    mix = Mix(sources(plan, given.scenes, given.chase), batch=plan.batch, generator=generator)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    train(plan, mix, given.out)


if __name__ == "__main__":
    main()
