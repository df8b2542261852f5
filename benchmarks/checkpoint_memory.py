"""Host memory while a training's checkpoint of the full size is loaded: the highest RssAnon of this process.

    python -m benchmarks.checkpoint_memory [--folder DIR] [--device cuda:0]

Eight billion parameters as sparse files, so that no room is needed: a base, SAM2's file, and 536 trained tensors of
rank 64 in bfloat16. On a GPU the network is filled; without one each tensor goes through all that a load does to it,
and is dropped. Memory that belongs to this process alone counts; pages of the mapped files are the kernel's to reuse.
"""

from __future__ import annotations

import argparse
import json
import mmap
import shutil
import tempfile
import threading
import time
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.gpu_sa2va import FULL
from tests.sa2va_folder import DATA, spread
from tests.sa2va_training import CFG, GROWN, SAM2, trained_shapes
from watcherd.inference.segmenters.sa2va import config as configuration
from watcherd.inference.segmenters.sa2va import weights
from watcherd.inference.segmenters.sa2va.network import skeleton
from watcherd.inference.segmenters.sa2va.renames import needed
from watcherd.inference.segmenters.sa2va.trained import Trained

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

RANK = 64
ALLOWED = 1.3
"""Times the checkpoint's size that the memory may reach, besides the largest tensor."""

RANDOM = 2**22
"""Random numbers that are drawn once, and put in over and over, each time from another place on."""

LOOK_SECONDS = 0.002
"""How often the memory is looked at."""


class Peak:
    """The highest RssAnon of this process while it is looked at, in bytes."""

    def __init__(self) -> None:
        self.bytes = rss_anon()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self.bytes = max(self.bytes, rss_anon())


def rss_anon() -> int:
    """Anonymous memory of this process in bytes: the line RssAnon of proc(5)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def write(folder: Path, model: str = FULL, *, filled: bool = False) -> Trained:
    """The three parts of ``model`` in ``folder``, with zeros that take no room, or with random numbers."""
    values = json.loads((DATA / model / "config.json").read_text())
    shapes = needed(skeleton(configuration.parse(values, folder)).state_dict())
    base = folder / "InternVL3-8B"
    base.mkdir(parents=True)
    _write_base(base, values, shapes)
    sam2 = {k.removeprefix(SAM2).replace(".g_weight", ".gamma"): s for k, s in shapes.items() if k.startswith(SAM2)}
    save_sparse({"model": _empty(sam2, torch.float32)}, folder / "sam2_hiera_large.pt")
    cfg = CFG.replace("lora_alpha=8", f"lora_alpha={2 * RANK}").replace("r=4", f"r={RANK}")
    state = _empty(trained_shapes(shapes, RANK), torch.bfloat16)
    save_sparse({"state_dict": state, "meta": {"iter": 12192, "cfg": cfg}}, folder / "iter_12192.pth")
    if filled:
        _fill(folder)
    return Trained(base, folder / "iter_12192.pth", folder / "sam2_hiera_large.pt")


def save_sparse(content: dict[str, Any], path: Path) -> None:
    """A file of torch.save whose tensors are holes: torch leaves out the memory, as its skip_data says."""
    with torch.serialization.skip_data():
        torch.save(content, path)


def _empty(shapes: Mapping[str, Sequence[int]], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {name: torch.empty(tuple(shape), dtype=dtype) for name, shape in shapes.items()}


def _write_base(base: Path, values: dict[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    rows = values["llm_config"]["vocab_size"] - len(GROWN)
    config = values | {"model_type": "internvl_chat", "llm_config": values["llm_config"] | {"vocab_size": rows}}
    (base / "config.json").write_text(json.dumps(config))
    _write_tokenizer(base, rows)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        if name.startswith(("vision_model.", "language_model.", "mlp1.")):
            own = (rows, *shape[1:]) if name.endswith(("embed_tokens.weight", "lm_head.weight")) else shape
            begin, end = end, end + 2 * prod(own)
            header[name] = {"dtype": "BF16", "shape": own, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (base / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def _write_tokenizer(base: Path, rows: int) -> None:
    """The references' tokenizer with words put in until there are ``rows``."""
    tokenizer = json.loads((DATA / "tokenizer" / "tokenizer.json").read_text())
    kept = [each for each in tokenizer["added_tokens"] if each["content"] not in GROWN]
    vocabulary = tokenizer["model"]["vocab"]
    known = {each["id"] for each in kept} | set(vocabulary.values())
    vocabulary |= {f"word{number}": number for number in range(rows) if number not in known}
    (base / "tokenizer.json").write_text(json.dumps(tokenizer | {"added_tokens": kept}))
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(DATA / "tokenizer" / name, base / name)


def _fill(folder: Path) -> None:
    """Random numbers in every tensor of the files, in place, of the mean and deviation that suit its name."""
    random = torch.randn(RANDOM, generator=torch.Generator().manual_seed(0))
    for number, (name, tensor) in enumerate(_writable(folder)):
        mean, deviation = spread(name, tuple(tensor.shape))
        flat = tensor.view(-1)
        for begin in range(0, len(flat), RANDOM // 2):
            part = flat[begin : begin + RANDOM // 2]
            start = (7919 * number + begin // 3) % (RANDOM // 2)
            part.copy_(random[start : start + len(part)] * deviation + mean)


def _writable(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the files by an exported folder's name, or its own; what is put into it is put into its file."""
    path = folder / "InternVL3-8B" / "model.safetensors"
    raw = torch.from_file(str(path), shared=True, size=path.stat().st_size, dtype=torch.uint8)
    start = 8 + int.from_bytes(bytes(raw[:8].tolist()), "little")
    for name, entry in json.loads(bytes(raw[8:start].tolist())).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            yield name, raw[start + begin : start + end].view(torch.bfloat16).view(entry["shape"])
    with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
        for file, key in (("sam2_hiera_large.pt", "model"), ("iter_12192.pth", "state_dict")):
            loaded = torch.load(folder / file, weights_only=True, mmap=True)[key]
            yield from ((name.replace(".gamma", ".g_weight"), tensor) for name, tensor in loaded.items())


def load(origin: Trained, device: str) -> None:
    """Fill the network on a GPU; without one, read every tensor as a load does and drop it."""
    network = skeleton(origin.config)
    tensors = origin.open(needed(network.state_dict()))
    if device != "cpu":
        weights.load(network, tensors, {"": device}, torch.bfloat16, lambda *_: None)
        return
    for name in sorted(tensors.shapes(), key=tensors.position):
        tensors.read(name).to(torch.bfloat16).contiguous().clone()


def measure(folder: Path, device: str) -> dict[str, float]:
    """The peak and what it may be, in bytes."""
    origin = write(folder)
    size = origin.path.stat().st_size
    largest = max(2 * prod(shape) for shape in origin.trained.values())
    before = rss_anon()
    began = time.perf_counter()
    with Peak() as peak:
        load(origin, device)
    return {
        "trained_tensors": len(origin.trained),
        "checkpoint_bytes": size,
        "largest_tensor_bytes": largest,
        "rss_anon_before": before,
        "rss_anon_peak": peak.bytes,
        "allowed_bytes": ALLOWED * size + largest,
        "seconds": time.perf_counter() - began,
    }


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--folder", type=Path, help="where the sparse files go; else a temporary folder")
    ask.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    said = ask.parse_args()
    with tempfile.TemporaryDirectory(dir=said.folder, prefix="watcherd-checkpoint-") as folder:
        found = measure(Path(folder), said.device)
    print(json.dumps(found, indent=1))
    if found["rss_anon_peak"] > found["allowed_bytes"]:
        raise SystemExit("more than allowed")


if __name__ == "__main__":
    main()
