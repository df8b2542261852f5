"""The baseline: a straight script that opens each scan, predicts, and saves the mask. No queue, no record, no sync.

    python -m benchmarks.straight SEGMENTER INBOX OUTBOX

Prints seconds and CPU seconds for all scans, the model's loading not counted, as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from watcherd.config import Model
from watcherd.inference import segmenters
from watcherd.inference.base import Frame, Placement
from watcherd.job import Options


def main() -> None:
    """Segment a folder."""
    name, inbox, outbox = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    segmenter = segmenters.create(Model(segmenter=name))
    segmenter.load(Placement(), lambda *_: None)
    options = Options()
    began, cpu = time.perf_counter(), _cpu()
    for path in sorted(inbox.iterdir()):
        frame = Frame(pixels=np.asarray(Image.open(path)), options=options)
        (prediction,) = segmenter.predict([frame])
        assert prediction.probability is not None
        mask = prediction.probability > options.threshold if prediction.mask is None else prediction.mask > 0
        Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(outbox / f"{path.stem}.png")
    print(json.dumps({"seconds": time.perf_counter() - began, "cpu_seconds": _cpu() - cpu}))


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
