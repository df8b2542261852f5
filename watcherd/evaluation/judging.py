"""Which scan belongs to which drawn mask, and what their comparison gives: the part of `evaluate` that reads files."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watcherd.errors import InputError, JobError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from watcherd.evaluation.figures import Histogram, Judged, Score
    from watcherd.formats.npy_frames import FrameFile
    from watcherd.service.trial import Segmented

    Mask = NDArray[np.bool_]

EXTENSIONS = (".gz",)
"""Endings that stand behind another one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    image: Path
    mask: Path
    fov: Path | None = None


@dataclass(kw_only=True, slots=True)
class Pairs:
    """What belongs together, and in ``problems`` what stands alone."""

    scans: list[Pair]
    problems: list[str]


def pair_up(images: Path, masks: Path, fov: Path | None, suffix: str | None) -> Pairs:
    """Raises `InputError` when nothing belongs together, and `UsageError` for a folder that is none."""
    from watcherd.evaluation.figures import match

    scans, drawn, fields = _files(images), _files(masks), _files(fov) if fov else {}
    matched = match(list(scans), list(drawn), suffix)
    views = match(list(scans), list(fields)) if fov else None
    problems = [f"{scans[name]} has no mask in {masks}, so it is left out." for name in matched.images]
    problems += [f"{drawn[name]} belongs to no scan in {images}, so it is left out." for name in matched.masks]
    for name, several in matched.ambiguous.items():
        problems.append(
            f"{scans[name]} has several masks ({', '.join(several)}): choose with --suffix. It is left out."
        )
    pairs = []
    for name, mask in matched.pairs.items():
        if views is not None and name not in views.pairs:
            problems.append(f"{scans[name]} has no field of view in {fov}, so it is left out.")
            continue
        view = fields[views.pairs[name]] if views is not None else None
        pairs.append(Pair(image=scans[name], mask=drawn[mask], fov=view))
    if not pairs:
        raise InputError(
            f"No scan in {images} has a mask in {masks}.",
            hint="A mask is called as its scan, perhaps with something like _manual behind; see --suffix.\n"
            + "\n".join(problems[:10]),
        )
    return Pairs(scans=pairs, problems=problems)


def _files(folder: Path) -> dict[str, Path]:
    """The files of a folder by their names without extension. Raises `UsageError` for two of the same name."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name.startswith(".") or path.name == "Thumbs.db":
            continue
        stem = Path(path.stem).stem if path.suffix in EXTENSIONS else path.stem
        if stem in found:
            raise UsageError(f"{path} and {found[stem]} have the same name.", hint="Move one of them away.")
        found[stem] = path
    return found


@dataclass(kw_only=True, slots=True)
class Report:
    """Everything found out. ``failed``: scans that were to be judged and could not be."""

    judged: list[Judged] = field(default_factory=list)
    pairs: dict[str, tuple[Pair, Segmented]] = field(default_factory=dict)
    sweeps: list[list[Score]] = field(default_factory=list)
    pixels: Histogram | None = None
    problems: list[str] = field(default_factory=list)
    failed: int = 0
    model: str = ""
    threshold: float = 0.0


def judge(pairs: Pairs, found: Mapping[str, Segmented], folder: Path) -> Report:
    from watcherd.evaluation.figures import THRESHOLDS, Judged

    report = Report(problems=list(pairs.problems))
    for pair in pairs.scans:
        segmented = found[pair.image.name]
        try:
            score, pixels = _compared(pair, segmented, folder)
        except JobError as error:
            report.problems.append(f"{pair.image}: {error.message}")
            report.failed += 1
            continue
        report.judged.append(Judged(name=pair.image.name, score=score))
        report.sweeps.append([pixels.at(threshold) for threshold in THRESHOLDS])
        report.pixels = pixels if report.pixels is None else report.pixels + pixels
        report.pairs[pair.image.name] = (pair, segmented)
        report.model = segmented.model
    return report


def _compared(pair: Pair, segmented: Segmented, folder: Path) -> tuple[Score, Histogram]:
    """Score and histogram of one scan, all its frames together."""
    from watcherd.evaluation.figures import Score, compare, histogram

    if segmented.mask is None or segmented.probability is None:
        raise InputError(segmented.error)
    scores, counts = [], []
    probability = _stack(segmented.probability)
    for index, (mask, truth, counted) in enumerate(frames(pair, segmented, folder)):
        scores.append(compare(mask, truth, counted))
        counts.append(histogram(probability[index], truth, counted))
    total = Score(
        both=sum(score.both for score in scores),
        invented=sum(score.invented for score in scores),
        missed=sum(score.missed for score in scores),
    )
    return total, reduce(add, counts)


def frames(pair: Pair, segmented: Segmented, folder: Path) -> Iterator[tuple[Mask, Mask, Mask | None]]:
    """Mask, truth and field of view of each frame. Raises `InputError` when they are not of one size."""
    from watcherd.evaluation.figures import as_mask

    assert segmented.mask is not None
    masks = _stack(segmented.mask)
    truth = _read(pair.mask, folder / "truth.npy", masks.shape[:3])
    view = _read(pair.fov, folder / "fov.npy", (1, *masks.shape[1:3])) if pair.fov else None
    counted = as_mask(view[0]) if view else None
    for index in range(len(masks)):
        yield masks[index] != 0, as_mask(truth[index]), counted


def _read(path: Path, target: Path, shape: tuple[int, ...]) -> FrameFile:
    """A drawn mask, by the same readers as the scans."""
    from watcherd.formats.npy_frames import FrameFile
    from watcherd.imaging.decode import DecodeLimits, decode

    decoded = decode(path, target, DecodeLimits())
    size = (decoded.frames, decoded.height, decoded.width)
    if size != shape:
        of, to = (
            "{2} x {1} with {0} frames".format(*one) if one[0] > 1 else "{2} x {1}".format(*one)
            for one in (size, shape)
        )
        raise InputError(f"{path} is {of}, its scan {to}: they do not belong together, and nothing is scaled to fit.")
    return FrameFile(target)


def _stack(path: Path) -> NDArray[Any]:
    """One of our own results, of one frame or many: (frames, height, width)."""
    import numpy as np

    if path.suffix == ".png":
        from PIL import Image

        with Image.open(path) as image:
            return np.asarray(image)[np.newaxis]
    import tifffile

    pages: NDArray[Any] = tifffile.imread(path)
    return pages if pages.ndim == 3 else pages[np.newaxis]
