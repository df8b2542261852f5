"""A run of frames as a film: the scan beside itself with its mask, frame by frame."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from watcherd.errors import InputError
from watcherd.imaging.results.preview import FRAME_MS, SHORTEST_MS
from watcherd.imaging.results.sheets import evenly
from watcherd.imaging.results.views import PAPER, numbered, overlay_of, scan_of
from watcherd.outputs import VIDEO

if TYPE_CHECKING:
    from pathlib import Path

    from watcherd.formats.npy_frames import FrameFile

SIDE = 512
LEAST = 320
"""Bounds of the longer side of each of the two pictures."""

MOST_FRAMES = 300
"""Longer runs are thinned out evenly, and play as long as they did: about 12 seconds of one core."""

CODECS = (("libx264", {"preset": "superfast", "crf": "21"}), ("mpeg4", {"qscale": "3"}))
"""H.264 where PyAV's build has it, which browsers play; else MPEG-4, which players do."""


def write_video(path: Path, pixels: FrameFile, labels: FrameFile, frame_ms: float | None = None) -> None:
    """Write an MP4. ``frame_ms``: from one frame to the next; None: `FRAME_MS`.

    Raises `InputError` when PyAV is not installed (`config.load` says so before).
    """
    try:
        import av
    except ImportError as error:
        raise InputError(
            "A video cannot be written: PyAV is not installed.",
            hint=f"Install it ({VIDEO.command}), or take video out of the outputs.",
        ) from error
    count = len(pixels)
    chosen = evenly(count, MOST_FRAMES)
    duration = max(SHORTEST_MS, (frame_ms or FRAME_MS) * count / len(chosen))
    with av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as film:
        stream: Any = None
        for index in chosen:
            shown = _shown(pixels[index], labels[index], f"{index + 1} / {count}")
            if stream is None:
                stream = _stream(av, film, shown.size, Fraction(1000 / duration).limit_denominator(1001))
            film.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(shown), format="rgb24")))
        film.mux(stream.encode(None))


def _shown(pixels: Any, labels: Any, number: str) -> Image.Image:
    """Two pictures side by side; of even width and height, as the colours of a film are stored for pairs of pixels."""
    plain = scan_of(pixels, SIDE, LEAST)
    drawn = numbered(overlay_of(pixels, labels, SIDE, LEAST), number)
    both = np.concatenate([np.asarray(plain), np.asarray(drawn)], axis=1)
    sheet = Image.new("RGB", (both.shape[1] + both.shape[1] % 2, both.shape[0] + both.shape[0] % 2), PAPER)
    sheet.paste(Image.fromarray(both), (0, 0))
    return sheet


def _stream(av: Any, film: Any, size: tuple[int, int], rate: Fraction) -> Any:
    name, options = next((name, options) for name, options in CODECS if name in av.codecs_available)
    stream = film.add_stream(name, rate=rate, options=options)
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    stream.codec_context.thread_count = 1
    return stream
