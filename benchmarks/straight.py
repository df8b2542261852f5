"""The baselines: what a person would write instead of a service, and the model alone. No queue, no record, no sync.

    python -m benchmarks.straight SEGMENTER DEVICE [MODEL_FOLDER]

The model is loaded once; then each line of stdin asks for one round, as JSON: ``{"way": .., "inbox": .., "outbox": ..,
"batch": .., "repeats": ..}``. A line of JSON says that all is ready for it, an empty line on stdin has it begin, and
another line of JSON says that it is done: the CPU seconds of the round, the loader's processes included.

    script      open each scan, predict, save the mask, one after the other
    dataloader  the same, decoded by two processes of torch's DataLoader, which live on between rounds
    model       predict alone, in batches of ``batch`` frames that lie in memory, ``repeats`` times: the limit
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from PIL import Image

from watcherd.config import Model
from watcherd.imaging.worker import die_with_parent
from watcherd.inference import segmenters
from watcherd.inference.base import Frame, Placement
from watcherd.inference.replica import host_memory
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from watcherd.inference.base import Prediction, Segmenter

OPTIONS = Options(prompt="Please segment the blood vessel.", draft="Sure, [SEG].")  # what the service says by default


def main() -> None:
    """Load, then answer until stdin ends, or whoever started it, though this one may stand still."""
    die_with_parent()
    name, device, *rest = sys.argv[1:]
    segmenter = segmenters.create(Model(segmenter=name, path=Path(rest[0]) if rest else None))
    segmenter.load(placement(device), lambda *_: None)
    loader = Loader()
    for line in sys.stdin:
        work = prepared(segmenter, loader, **json.loads(line))
        print(json.dumps({"ready": True}), flush=True)
        sys.stdin.readline()
        before = cpu_seconds()
        work()
        print(json.dumps({"cpu_seconds": cpu_seconds() - before}), flush=True)


def placement(device: str) -> Placement:
    """All of the model on one device: in bfloat16 on a GPU, as the service does it."""
    dtype = "float32" if device == "cpu" else "bfloat16"
    return Placement(devices=(device,), device_map={"": device}, dtype=dtype)


def prepared(
    segmenter: Segmenter, loader: Loader, *, way: str, inbox: str, outbox: str, batch: int = 1, repeats: int = 1
) -> Callable[[], None]:
    """One round over a folder; what does not count is done already."""
    paths = sorted(Path(inbox).iterdir())
    if way == "model":
        host_memory.keep_freed()  # as a replica does
        frames = [Frame(pixels=opened(path), options=OPTIONS) for path in paths]
        return lambda: predict_all(segmenter, frames * repeats, batch)
    if way == "dataloader":
        return lambda: save_all(segmenter, loader.pictures(paths), paths, Path(outbox))
    return lambda: save_all(segmenter, map(opened, paths), paths, Path(outbox))


def predict_all(segmenter: Segmenter, frames: Sequence[Frame], batch: int) -> None:
    """Predict and save nothing."""
    for start in range(0, len(frames), batch):
        segmenter.predict(frames[start : start + batch])


def save_all(segmenter: Segmenter, pictures: Iterable[NDArray[np.uint8]], paths: Iterable[Path], outbox: Path) -> None:
    """Predict and save, one by one."""
    for path, pixels in zip(paths, pictures, strict=True):
        (prediction,) = segmenter.predict([Frame(pixels=pixels, options=OPTIONS)])
        Image.fromarray(mask_of(prediction)).save(outbox / f"{path.stem}.png")


def mask_of(prediction: Prediction) -> NDArray[np.uint8]:
    """0 and 255."""
    labels = prediction.label_values(OPTIONS.threshold)
    assert labels is not None
    return (labels > 0).astype(np.uint8) * np.uint8(255)


def opened(path: Path) -> NDArray[np.uint8]:
    """Decoded."""
    return np.asarray(Image.open(path))


class Decoding:
    """A data set whose indexes are paths."""

    def __getitem__(self, path: Path) -> NDArray[np.uint8]:
        return opened(path)


class Loader:
    """torch's DataLoader with two processes, made when it is first needed; it is shown new paths in every round."""

    def __init__(self) -> None:
        self._paths: list[Path] = []
        self._loader: Any = None

    def pictures(self, paths: list[Path]) -> Iterator[NDArray[np.uint8]]:
        """Decoded, in this order."""
        self._paths[:] = paths
        if self._loader is None:
            from torch.utils.data import DataLoader

            self._loader = DataLoader(
                Decoding(),  # type: ignore[arg-type]
                batch_size=None,
                sampler=self._paths,  # type: ignore[arg-type]
                num_workers=2,
                persistent_workers=True,
                collate_fn=as_it_is,
            )
        return iter(self._loader)


def as_it_is(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """No tensor is made of it."""
    return picture


def cpu_seconds() -> float:
    """Of this process, its threads and the loader's processes."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    children = (child.cpu_times() for child in psutil.Process().children())
    return usage.ru_utime + usage.ru_stime + sum(times.user + times.system for times in children)


if __name__ == "__main__":
    main()
