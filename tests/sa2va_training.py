"""Writing what a Sa2VA training leaves and needs: its base folder, SAM2's file and ``iter_20.pth``.

Names, shapes and values are those of which the official export was recorded (`RECORDED`); with another trunk of SAM2
only the image encoder's differ. ``zero3`` is what DeepSpeed gathers, ``runner`` what mmengine's
own Runner writes: no buffer, and float32 but for the projector.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.sa2va_folder import DATA, fill, values, write_tokenizer
from tests.sa2va_golden import arrays, frames_of
from watcherd.config import Model, Sa2va
from watcherd.inference.base import Placement
from watcherd.inference.segmenters.sa2va import config as configuration
from watcherd.inference.segmenters.sa2va import pickled
from watcherd.inference.segmenters.sa2va.network import skeleton
from watcherd.inference.segmenters.sa2va.renames import needed
from watcherd.inference.segmenters.sa2va.segmenter import Sa2vaSegmenter
from watcherd.inference.segmenters.sa2va.trained import Trained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from watcherd.inference.segmenters.sa2va.config import Hiera

RECORDED = {
    "zero3": {"": (969, "1e1d23d2211133e8"), "image encoder": (375, "d9a401efb2d3c0fc")},
    "runner": {"": (969, "8467b8d77034a345"), "image encoder": (375, "6870374cb55d77a5")},
}
"""What `digest` gives of the official export of each kind: of all of it, and without SAM2's image encoder."""

IMAGE_ENCODER = "grounding_encoder.sam2_model.image_encoder."
GROWN = ("[SEG]", "<p>", "</p>", "<vp>", "</vp>")
RANK, ALPHA, SEED = 4, 8, 7
LINEARS = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
LLM = "mllm.model.language_model.base_model.model."
SAM2 = "grounding_encoder.sam2_model."
GAUSSIAN = f"{SAM2}sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
EMBEDDING = f"{LLM}model.embed_tokens.modules_to_save.default.weight"
DOWN = f"{LLM}model.layers.0.self_attn.q_proj.lora_A.default.weight"

CFG = f"""model = dict(
    arch_type='internvl',
    mllm=dict(
        llm_lora=dict(
            bias='none',
            lora_alpha={ALPHA},
            lora_dropout=0.1,
            modules_to_save=[
                'embed_tokens',
                'lm_head',
            ],
            r={RANK},
            task_type='CAUSAL_LM',
            type='peft.LoraConfig'),
        model_path='/somewhere/InternVL3-8B'),
    special_tokens=[
        '[SEG]',
        '<p>',
        '</p>',
        '<vp>',
        '</vp>',
    ])
path = '/somewhere/InternVL3-8B'
template = 'qwen_chat'
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """Where the parts lie."""

    base: Path
    sam2: Path
    checkpoint: Path

    @property
    def settings(self) -> Sa2va:
        return Sa2va(checkpoint=self.checkpoint, sam2=self.sam2, max_new_tokens=16)

    def trained(self) -> Trained:
        return Trained(self.base, self.checkpoint, self.sam2)

    def content(self) -> dict[str, Any]:
        """What the checkpoint holds, without the log."""
        read = pickled.read(self.checkpoint)
        # Copies: the file that they are read from is written anew.
        return {"state_dict": {k: each.clone() for k, each in read["state_dict"].items()}, "meta": dict(read["meta"])}

    def change(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Write the checkpoint anew, with ``change`` made to what it holds."""
        content = self.content()
        change(content)
        torch.save(content, self.checkpoint)


def small_sam2(monkeypatch: Any, trunk: Hiera) -> None:
    """Have every Sa2VA folder taken for one whose SAM2 has ``trunk``."""
    parse = configuration.parse
    monkeypatch.setattr(configuration, "parse", lambda *said: replace(parse(*said), hiera=trunk))


def loaded(origin: Trained, device_map: Mapping[str, str], dtype: str) -> Sa2vaSegmenter:
    """The segmenter of a checkpoint on its base, with its parts where the map says."""
    sa2va = Sa2va(checkpoint=origin.path, sam2=origin.sam2, max_new_tokens=16)
    segmenter = Sa2vaSegmenter(Model(segmenter="sa2va", path=origin.folder, sa2va=sa2va))
    segmenter.load(Placement(device_map=device_map, dtype=dtype), lambda *_: None)
    return segmenter


def probability_of(segmenter: Sa2vaSegmenter) -> NDArray[np.float32]:
    """What the model gives for the golden picture, its answer forced."""
    (found,) = segmenter.predict(frames_of(arrays("image"), "image"))
    assert found.probability is not None
    return found.probability


def write_training(folder: Path, kind: str = "zero3") -> Training:
    """Write all three parts into ``folder``, of which the base is called as the configuration names it."""
    values_ = json.loads((DATA / "layer-norm" / "config.json").read_text())
    shapes = needed(skeleton(configuration.parse(values_, folder)).state_dict())
    written = Training(
        base=folder / "InternVL3-8B", sam2=folder / "sam2_hiera_large.pt", checkpoint=folder / "iter_20.pth"
    )
    _write_base(written.base, values_, shapes)
    sam2 = {k.removeprefix(SAM2).replace(".g_weight", ".gamma"): list(s) for k, s in shapes.items() if SAM2 in k}
    torch.save({"model": fill(sam2, SEED)}, written.sam2)
    weights = fill(trained_shapes(shapes), SEED + 1)
    weights[GAUSSIAN] = values(GAUSSIAN.removeprefix(SAM2), (2, 128), SEED)  # not trained: SAM2's own
    if kind == "runner":
        del weights[GAUSSIAN]
    state = OrderedDict((name, tensor.to(_dtype(name, kind))) for name, tensor in weights.items())
    meta = {"epoch": 0, "iter": 20, "cfg": CFG, "experiment_name": "tiny", "seed": 42, "mmengine_version": "0.10.7"}
    with mmengine() as buffer:
        torch.save({"state_dict": state, "meta": meta, "message_hub": log(buffer)}, written.checkpoint)
    return written


def trained_shapes(shapes: dict[str, tuple[int, ...]], rank: int = RANK) -> dict[str, list[int]]:
    """The names that a run with frozen parameters left out writes, in the order of the modules."""
    embedding, head = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
    found = {EMBEDDING: list(shapes[embedding])}
    layers = 1 + max(int(name.split(".")[3]) for name in shapes if name.startswith("language_model.model.layers."))
    for layer in range(layers):
        for linear in LINEARS:
            out, into = shapes[f"language_model.model.layers.{layer}.{linear}.weight"]
            found[f"{LLM}model.layers.{layer}.{linear}.lora_A.default.weight"] = [rank, into]
            found[f"{LLM}model.layers.{layer}.{linear}.lora_B.default.weight"] = [out, rank]
    found[f"{LLM}lm_head.modules_to_save.default.weight"] = list(shapes[head])
    found |= {f"mllm.model.{name}": list(shape) for name, shape in shapes.items() if name.startswith("mlp1.")}
    kept = (GAUSSIAN, f"{SAM2}sam_mask_decoder.", "text_hidden_fcs.")
    return found | {name: list(shape) for name, shape in shapes.items() if name.startswith(kept)}


@contextmanager
def mmengine() -> Iterator[type]:
    """A class that pickles as mmengine's HistoryBuffer does, without mmengine; it is gone afterwards."""
    modules = {name: ModuleType(name) for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer")}
    kind = type("HistoryBuffer", (), {"mean": lambda self: 0.0, "__module__": "mmengine.logging.history_buffer"})
    kind.mean.__qualname__ = "HistoryBuffer.mean"  # type: ignore[attr-defined] # as a method has
    kind.mean.__module__ = kind.__module__  # type: ignore[attr-defined]
    modules["mmengine.logging.history_buffer"].HistoryBuffer = kind  # type: ignore[attr-defined]
    sys.modules.update(modules)
    try:
        yield kind
    finally:
        for name in modules:
            del sys.modules[name]


def log(buffer: type) -> dict[str, Any]:
    """A log as mmengine's: buffers of arrays, functions by their names, a number of numpy's."""
    loss = buffer()
    loss.__dict__ |= {
        "_max_length": 1000000,
        "_log_history": np.array([3.0, 2.0, 1.5]),
        "_statistics_methods": OrderedDict(mean=buffer.mean),  # type: ignore[attr-defined]
    }
    info = {"iter": 20, "last": np.float64(1.5)}
    return {"log_scalars": OrderedDict({"train/loss": loss}), "runtime_info": OrderedDict(info)}


def digest(folder: Path, leave_out: str = "\0") -> tuple[int, str]:
    """How many tensors a folder holds, and a hash over each one's name, dtype, shape and hash of its bytes; those
    whose names begin with ``leave_out`` are not looked at."""
    found: dict[str, list[Any]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - no mapping
                tensor = opened.get_tensor(name).contiguous()
                raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
                dtype = str(tensor.dtype).removeprefix("torch.")
                found[name] = [dtype, list(tensor.shape), hashlib.sha256(raw).hexdigest()[:16]]
    return summed(found, leave_out)


def summed(found: dict[str, list[Any]], leave_out: str) -> tuple[int, str]:
    """How many of the recorded tensors are looked at, and one hash of them."""
    kept = {name: said for name, said in sorted(found.items()) if not name.startswith(leave_out)}
    return len(kept), hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:16]


def _dtype(name: str, kind: str) -> torch.dtype:
    return torch.bfloat16 if kind == "zero3" or name.startswith("mllm.model.mlp1.") else torch.float32


def _write_base(folder: Path, exported: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    folder.mkdir(parents=True)
    write_tokenizer(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [each for each in tokenizer["added_tokens"] if each["content"] not in GROWN]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    added = json.loads((folder / "added_tokens.json").read_text())
    (folder / "added_tokens.json").write_text(json.dumps({k: i for k, i in added.items() if k not in GROWN}))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    known = settings["added_tokens_decoder"]
    settings["added_tokens_decoder"] = {i: each for i, each in known.items() if each["content"] not in GROWN}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = exported | {"model_type": "internvl_chat", "architectures": ["InternVLChatModel"]}
    rows = exported["llm_config"]["vocab_size"] - len(GROWN)
    config |= {"template": "internvl2_5", "llm_config": exported["llm_config"] | {"vocab_size": rows}}
    config.pop("auto_map", None)
    (folder / "config.json").write_text(json.dumps(config))
    wanted = {k: list(s) for k, s in shapes.items() if k.startswith(("vision_model.", "language_model.", "mlp1."))}
    for name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        wanted[name][0] = rows
    weights = {name: tensor.bfloat16() for name, tensor in fill(wanted, SEED).items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
