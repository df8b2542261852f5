"""What the comparison of masks with drawn ones gives: the part of `evaluate` that reads their pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

from watcherd.errors import InputError, JobError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from watcherd.evaluation.drawn import Drawn
    from watcherd.evaluation.figures import Histogram, Judged, Score, Unit
    from watcherd.evaluation.frame_figures import Tolerance
    from watcherd.evaluation.pairing import Made, Pair, Pairs

    Mask = NDArray[np.bool_]
    Spacing = tuple[float, float]
    Watch = Callable[[Iterable[str]], Iterable[str]]
    Frames = Callable[[int], tuple[Mask, Mask]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How to judge. ``thresholds``: to look at in the probability maps; ``by``: the figure that is wanted there.

    ``inverted``: see `drawn.read_drawn`; None: it is found out. ``figures``: those of shapes that are wanted; None:
    all.
    """

    tolerance: Tolerance
    thresholds: Sequence[float] = ()
    by: str = "dice"
    inverted: bool | None = None
    figures: Sequence[str] | None = None


@dataclass(kw_only=True, slots=True)
class Report:
    """Everything found out, of each scan by its key. ``failed``: scans that were to be judged and could not be.

    ``sweeps``: scores at each of the thresholds; ``swept``: there the figure that is wanted.
    """

    judged: dict[str, Judged] = field(default_factory=dict)
    pairs: dict[str, tuple[Pair, Made]] = field(default_factory=dict)
    sweeps: list[list[Score]] = field(default_factory=list)
    swept: list[list[float | None]] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    pixels: Histogram | None = None
    problems: list[str] = field(default_factory=list)
    failed: int = 0
    models: list[str] = field(default_factory=list)
    threshold: float | None = None


def judge(
    pairs: Pairs, made: Mapping[str, Made], folder: Path, options: Options, watch: Watch = lambda keys: keys
) -> Report:
    """Compare each pair, one scan at a time. ``folder``: for what is unpacked; ``watch``: sees each key come."""
    report = Report(problems=list(pairs.problems))
    for key in watch(pairs.scans):
        pair = pairs.scans[key]
        try:
            _judge_one(report, key, pair, made[key], folder, options)
        except JobError as error:
            report.problems.append(f"{pair.image or pair.name}: {error.message}")
            report.failed += 1
    return report


def _judge_one(report: Report, key: str, pair: Pair, one: Made, folder: Path, options: Options) -> None:
    from watcherd.evaluation.figures import Judged

    with _Opened(pair, one, folder, options.inverted) as opened:
        score, figures, pixels = _compared(opened, options, opened.masks)
        classes = {label: _compared(opened, options, opened.of_class(label)) for label in opened.classes()}
        swept = _swept(opened, pixels, options) if pixels is not None else None
    report.problems += [note for note in opened.notes if note not in report.problems]
    unit: Unit = "mm" if opened.spacing else "px"
    report.judged[key] = Judged(
        name=pair.name,
        score=score,
        figures=figures,
        unit=unit,
        group=pair.group,
        classes={
            label: Judged(name=pair.name, score=found[0], figures=found[1], unit=unit, group=pair.group)
            for label, found in classes.items()
        },
    )
    report.pairs[key] = (pair, one)
    if one.model not in report.models:
        report.models.append(one.model)
    if pixels is not None and swept is not None:
        report.sweeps.append([pixels.at(threshold) for threshold in options.thresholds])
        report.swept.append(swept)
        report.groups.append(pair.group)
        report.pixels = pixels if report.pixels is None else report.pixels + pixels


class _Opened:
    """A pair's files. Masks are read frame by frame. Raises `InputError` when they are not of one size."""

    def __init__(self, pair: Pair, made: Made, folder: Path, inverted: bool | None = None) -> None:
        from watcherd.evaluation.drawn import check_shape, read_drawn
        from watcherd.evaluation.figures import as_mask

        if made.mask is None:
            raise InputError(made.error)
        own = read_drawn(made.mask, folder / "mask.npy", inverted=False if made.own else None)
        truth = read_drawn(pair.mask, folder / "truth.npy", inverted=inverted)
        check_shape(pair.mask, truth.shape, own.shape)
        self.counted: Mask | None = None
        if pair.fov:
            view = read_drawn(pair.fov, folder / "fov.npy", inverted=False)
            check_shape(pair.fov, view.shape, (1, *own.shape[1:]))
            self.counted = as_mask(view.frames[0])
        self.spacing = _spacing(pair, folder, own, truth)
        self.notes = (() if made.own else own.notes) + truth.notes
        self.count = own.shape[0]
        self._own, self._truth = own, truth
        self._maps = _Maps(made.probability, own.shape) if made.probability else None

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        if self._maps is not None:
            self._maps.close()

    @property
    def has_maps(self) -> bool:
        return self._maps is not None

    def masks(self, index: int) -> tuple[Mask, Mask]:
        """A frame's mask, and the drawn one."""
        return self._own.frame(index), self._truth.frame(index)

    def classes(self) -> list[int]:
        """The labels of both; none where one of them is no label map, or there is but one."""
        own, truth = self._own.labels, self._truth.labels
        return sorted(own | truth) if own and truth and len(own | truth) > 1 else []

    def of_class(self, label: int) -> Frames:
        """As `masks`, of one label."""
        return lambda index: (self._own.of_class(index, label), self._truth.of_class(index, label))

    def truth(self, index: int) -> Mask:
        return self._truth.frame(index)

    def probability(self, index: int) -> NDArray[np.uint16]:
        assert self._maps is not None
        return self._maps.frame(index)


def _spacing(pair: Pair, folder: Path, own: Drawn, truth: Drawn) -> Spacing | None:
    """How large a pixel is: as the scan says it, else as either of the masks does."""
    if pair.image is not None and (found := spacing_of(pair.image, folder)) is not None:
        return found
    return own.spacing_mm or truth.spacing_mm


def spacing_of(image: Path, folder: Path) -> Spacing | None:
    """Only formats that say how large a pixel is are decoded for it."""
    from watcherd.formats.sniff import image_format
    from watcherd.imaging.decode import DecodeLimits, decode

    with image.open("rb") as file:
        kind = image_format(file.read(512))
    if kind not in ("DICOM", "NIFTI", "TIFF", "GZIP", "ZIP"):
        return None
    return decode(image, folder / "scan.npy", DecodeLimits()).spacing_mm


class _Maps:
    """A probability map of 16 bits as the service writes it, one page at a time."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        import tifffile

        self._path, self._shape = path, shape
        self._tiff = None if path.suffix == ".png" else tifffile.TiffFile(path)

    def frame(self, index: int) -> NDArray[np.uint16]:
        """Raises `InputError` when it is none."""
        import numpy as np
        from PIL import Image

        if self._tiff is None:
            with Image.open(self._path) as image:
                found: NDArray[Any] = np.asarray(image)
        else:
            found = self._tiff.pages[index].asarray()
        if found.dtype != np.uint16 or found.shape != self._shape[1:]:
            raise InputError(
                f"{self._path} is no probability map of 16 bits and of its mask's size.",
                hint="They are what the output `probability` writes.",
            )
        return found

    def close(self) -> None:
        if self._tiff is not None:
            self._tiff.close()


def _compared(
    opened: _Opened, options: Options, masks: Frames
) -> tuple[Score, dict[str, float | None], Histogram | None]:
    """Score, figures and histogram of one scan: pixels of all its frames together, shapes as means over them.

    ``masks``: of a frame. Probabilities are of all classes together, so that one class has no histogram.
    """
    from watcherd.evaluation.figures import Score, compare, histogram
    from watcherd.evaluation.frame_figures import EVERY, OF_RUNS, of_frame, of_scan
    from watcherd.evaluation.ranking import auc, average_precision

    names = options.figures or ((*EVERY, *OF_RUNS) if opened.count > 1 else EVERY)
    scores, frames, counts = [], [], []
    for index in range(opened.count):
        mask, truth = masks(index)
        scores.append(compare(mask, truth, opened.counted))
        frames.append(
            of_frame(mask, truth, opened.counted, spacing=opened.spacing, tolerance=options.tolerance, names=names)
        )
        if opened.has_maps and masks == opened.masks:
            counts.append(histogram(opened.probability(index), truth, opened.counted))
            counts[:] = [reduce(add, counts)]
    total = Score(
        both=sum(score.both for score in scores),
        invented=sum(score.invented for score in scores),
        missed=sum(score.missed for score in scores),
    )
    pixels = counts[0] if counts else None
    found: dict[str, float | None] = dict.fromkeys((*OF_RUNS, "auc", "ap"))
    found |= of_scan(frames)
    if pixels is not None:
        found |= {"auc": auc(pixels), "ap": average_precision(pixels)}
    return total, found, pixels


def _swept(opened: _Opened, pixels: Histogram, options: Options) -> list[float | None]:
    """The figure that is wanted at each threshold of the map; those of shapes need a mask of each."""
    from watcherd.evaluation.figures import FIGURES, LEVELS
    from watcherd.evaluation.frame_figures import of_frame, of_scan

    if options.by in FIGURES:
        return [float(getattr(pixels.at(threshold), options.by)) for threshold in options.thresholds]
    found = []
    for threshold in options.thresholds:
        frames = [
            of_frame(
                opened.probability(index) > int(threshold * LEVELS),
                opened.truth(index),
                opened.counted,
                spacing=opened.spacing,
                tolerance=options.tolerance,
                names=(options.by,),
            )
            for index in range(opened.count)
        ]
        found.append(of_scan(frames)[options.by])
    return found


def frames(
    pair: Pair, made: Made, folder: Path, inverted: bool | None = None
) -> Iterator[tuple[Mask, Mask, Mask | None]]:
    """Mask, truth and field of view of each frame. Raises `InputError` when they are not of one size."""
    with _Opened(pair, made, folder, inverted) as opened:
        for index in range(opened.count):
            yield (*opened.masks(index), opened.counted)
