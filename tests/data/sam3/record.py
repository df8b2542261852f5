"""Record what transformers' own processor of SAM 3 makes of pictures: it needs torchvision, which watcherd does not.

    python -m venv apart
    apart/bin/pip install torch==2.13.0 torchvision==0.28.0 transformers==5.23.0 pillow
    PYTHONPATH=. apart/bin/python -m tests.data.sam3.record

Writes ``prepared.npz`` beside itself: for each size ``<height>x<width>``, the levels (0 to 255) of the prepared picture
at a small size, from which its values follow exactly; and ``digest-<height>x<width>``, SHA-256 of the values at the
real size.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from tests.data.sam3.pictures import SIDE, SIZES, picture

try:
    # Only where torchvision was built for another torch: its operators are then missing, and none of them is used here.
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
except RuntimeError:
    pass


def main() -> None:
    from transformers import Sam3ImageProcessor

    small = Sam3ImageProcessor(size={"height": SIDE, "width": SIDE})
    real = Sam3ImageProcessor()
    recorded = {}
    for size in SIZES:
        name = f"{size[0]}x{size[1]}"
        values = small(picture(size), input_data_format="channels_last", return_tensors="pt")["pixel_values"][0]
        levels = (values * 127.5 + 127.5).round().to(torch.uint8)
        assert torch.equal((levels.float() - 127.5) / 127.5, values), "the levels do not say everything"
        recorded[name] = levels.numpy()
        prepared = real(picture(size), input_data_format="channels_last", return_tensors="pt")["pixel_values"][0]
        recorded[f"digest-{name}"] = np.frombuffer(hashlib.sha256(prepared.numpy().tobytes()).digest(), np.uint8)
    np.savez_compressed(Path(__file__).with_name("prepared.npz"), **recorded)


if __name__ == "__main__":
    main()
