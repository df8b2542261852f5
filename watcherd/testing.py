"""The promises of a segmenter, as tests: for the author of one (docs/segmenters.md).

With pytest, derive a class from `SegmenterContract` and say how yours is made::

    class TestMine(SegmenterContract):
        def create(self) -> Segmenter:
            return MySegmenter(Model(segmenter="mine", path=Path("models/mine")))

Without it, ``SegmenterContract.run(create)`` does the same and raises `AssertionError` at the first broken promise.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from watcherd.inference.base import (
    AsyncSegmenter,
    Frame,
    Placeable,
    Placement,
    Prediction,
    RunSegmenter,
    Segmenter,
    Volume,
    VolumePrediction,
    VolumeSegmenter,
)
from watcherd.job import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["SegmenterContract"]


class SegmenterContract:
    """Derive from it, and override `create`; the rest where your segmenter needs other than the default.

    ``placement``: where it is loaded. ``options``: what frames are asked with. ``sizes``: of the frames, (height,
    width). ``same``: how far probabilities of one frame may be apart when it is computed again or in a batch.
    ``shapes`` and ``spacing_mm``: of the volumes, (slices, rows, columns), for one that takes volumes: it is given
    these in place of frames.
    """

    placement: ClassVar[Placement] = Placement()
    options: ClassVar[Options] = Options()
    sizes: ClassVar[Sequence[tuple[int, int]]] = ((64, 64), (97, 61), (50, 120))
    same: ClassVar[float] = 1e-3
    shapes: ClassVar[Sequence[tuple[int, int, int]]] = ((12, 40, 36), (5, 33, 47))
    spacing_mm: ClassVar[tuple[float, float, float]] = (2.5, 0.8, 0.8)

    _loaded: ClassVar[Segmenter | None] = None

    def create(self) -> Segmenter:
        """A new segmenter, not loaded yet."""
        raise NotImplementedError("Override create(): it gives a new segmenter that is not loaded yet.")

    @classmethod
    def run(cls, create: Callable[[], Segmenter]) -> None:
        """Check every promise of what ``create`` gives. Raises `AssertionError` at the first that is broken."""
        contract: SegmenterContract = type("Contract", (cls,), {"create": lambda _: create()})()
        for name in dir(contract):
            if name.startswith("test_"):
                getattr(contract, name)()

    # The promises

    def test_it_says_what_it_is_before_it_is_loaded(self) -> None:
        """`info` needs no weights in memory, and the same folder has the same revision every time."""
        one, other = self.create().info(), self.create().info()
        _must(bool(one.segmenter and one.revision), f"info() has an empty name or revision: {one}")
        _must(one.revision == other.revision, f"two of the same have revisions {one.revision} and {other.revision}")

    def test_it_loads_with_progress_between_0_and_1(self) -> None:
        """The fraction done is None or 0 to 1; the dtype it reports afterwards is the one it was told."""
        marks: list[float | None] = []
        segmenter = self.create()
        segmenter.load(self.placement, lambda _, fraction: marks.append(fraction))
        wrong = [fraction for fraction in marks if fraction is not None and not 0 <= fraction <= 1]
        _must(not wrong, f"progress was {wrong}")
        dtype = segmenter.info().dtype
        _must(dtype == self.placement.dtype, f"it was told {self.placement.dtype} and reports {dtype}")

    def test_frames_of_equal_shape_have_equal_batch_keys(self) -> None:
        """Keys can be hashed, and depend on a frame's shape and options, not on what is in the picture."""
        segmenter = self._segmenter()
        for one, other in zip(self._frames(seed=1), self._frames(seed=2), strict=True):
            keys = {segmenter.batch_key(one), segmenter.batch_key(other)}
            _must(len(keys) == 1, f"frames of {one.pixels.shape} have keys {keys}")

    def test_every_frame_gets_an_answer_of_its_own_size(self) -> None:
        """Grey and colour, any size: probabilities and masks have the frame's height and width, and sound values."""
        for frame in self._frames():
            _check_prediction(frame, self._one(frame))

    def test_a_mask_is_the_same_with_and_without_probabilities(self) -> None:
        """They may be left out beside a mask where nobody asks for them."""
        for frame in self._frames():
            quiet = replace(frame, options=self.options)
            one, other = self._one(frame), self._one(quiet)
            _check_prediction(quiet, other)
            labels, others = (each.label_values(self.options.threshold) for each in (one, other))
            same = others is None if labels is None else others is not None and np.array_equal(labels, others)
            _must(same, "the mask depends on whether probabilities are asked for")

    def test_the_same_frame_gives_the_same_answer(self) -> None:
        """Nothing of one frame stays behind for the next."""
        if self._takes_volumes:
            return
        first, *others = self._frames()
        before = self._one(first)
        for frame in others:
            self._one(frame)
        self._must_agree(before, self._one(first), "computed again")

    def test_a_batch_gives_what_its_frames_give_alone(self) -> None:
        """In the order of the frames."""
        if self._takes_volumes:
            return
        frames = [_frame(self.sizes[0], seed, colour=False, options=self._asking) for seed in range(3)]
        together = self._segmenter().predict(frames)
        _must(len(together) == len(frames), f"{len(together)} predictions for {len(frames)} frames")
        for frame, prediction in zip(frames, together, strict=True):
            self._must_agree(self._one(frame), prediction, "computed in a batch")

    def test_two_batches_may_be_under_way(self) -> None:
        """If it can be given a batch while it computes another: each gives what it gives by itself."""
        segmenter = self._segmenter()
        if not isinstance(segmenter, AsyncSegmenter):
            return
        frames = [_frame(self.sizes[0], seed, colour=False, options=self._asking) for seed in range(4)]
        batches = [segmenter.dispatch(frames[:2]), segmenter.dispatch(frames[2:])]
        found = [prediction for batch in batches for prediction in batch.result()]
        _must(all(batch.done() for batch in batches), "a batch whose result is there is not done")
        for frame, prediction in zip(frames, found, strict=True):
            self._must_agree(self._one(frame), prediction, "computed while another batch was under way")

    def test_frames_are_not_written_to(self) -> None:
        """Pixels are mapped from a file, read-only."""
        for frame in self._frames():
            before = frame.pixels.copy()
            frame.pixels.setflags(write=False)
            self._one(frame)
            _must(np.array_equal(before, frame.pixels), f"the pixels of a frame of {before.shape} were changed")

    def test_its_golden_image_gives_the_known_mask(self) -> None:
        """If it has one: this runs at every start, and decides whether the replica may work."""
        from watcherd.inference import checks

        with TemporaryDirectory() as cache:
            checks.golden(self._segmenter(), Path(cache))

    def test_its_skeleton_weighs_nothing(self) -> None:
        """If it can be planned: parameters on the meta device, as many as `info` says, and a growing reserve."""
        segmenter = self.create()
        if not isinstance(segmenter, Placeable):
            return
        skeleton = segmenter.skeleton()
        real = [name for name, parameter in skeleton.named_parameters() if not parameter.is_meta]
        _must(not real, f"parameters of the skeleton take memory: {real[:5]}")
        classes = {type(module).__name__ for module in skeleton.modules()}
        unknown = set(segmenter.no_split()) - classes
        _must(
            not unknown or bool(set(segmenter.no_split()) & classes), f"no module is of no_split's classes: {unknown}"
        )
        _must(0 < segmenter.reserve_gib(1) <= segmenter.reserve_gib(4), "reserve_gib() is 0 or shrinks with the batch")

    def test_a_run_gives_one_answer_for_each_frame(self) -> None:
        """If it follows runs: in order, each at its frame's size, and without reading all frames first."""
        segmenter = self._segmenter()
        if not isinstance(segmenter, RunSegmenter):
            return
        frames = [_frame(self.sizes[0], seed, colour=False, options=self._asking) for seed in range(4)]
        found = list(segmenter.predict_run(iter(frames)))
        _must(len(found) == len(frames), f"{len(found)} predictions for a run of {len(frames)} frames")
        for frame, prediction in zip(frames, found, strict=True):
            _check_prediction(frame, prediction)

    def test_a_volume_gets_an_answer_on_its_own_voxels(self) -> None:
        """If it takes volumes: label values for every voxel, whatever type the numbers are; its own probe too."""
        segmenter = self._segmenter()
        if not isinstance(segmenter, VolumeSegmenter):
            return
        _must(segmenter.files_per_case() > 0, f"{segmenter.files_per_case()} files make a case")
        for volume in self._volumes(segmenter):
            if segmenter.takes_whole(volume):
                self._must_fit(volume, segmenter.predict_volume(volume, lambda *_: None))
        probe = segmenter.probe_volume()
        self._must_fit(probe, segmenter.predict_volume(probe, lambda *_: None))

    def test_the_same_volume_gives_the_same_mask(self) -> None:
        """With and without probabilities, and whatever came in between; what it is given is not written to."""
        segmenter = self._segmenter()
        if not isinstance(segmenter, VolumeSegmenter):
            return
        volumes = [volume for volume in self._volumes(segmenter) if segmenter.takes_whole(volume)]
        before = [segmenter.predict_volume(volume, lambda *_: None).mask for volume in volumes]
        for volume, mask in zip(volumes, before, strict=True):
            quiet = replace(volume, options=self.options)
            same = np.array_equal(mask, segmenter.predict_volume(quiet, lambda *_: None).mask)
            _must(same, f"a volume of {volume.shape} has another mask when it is computed again")

    # How they are checked

    @property
    def _takes_volumes(self) -> bool:
        return isinstance(self._segmenter(), VolumeSegmenter)

    def _volumes(self, segmenter: VolumeSegmenter) -> Iterator[Volume]:
        for seed, shape in enumerate(self.shapes):
            for kind in (np.float32, np.int16, np.uint8):
                channels = [
                    _values(shape, 10 * seed + number, kind) for number in range(len(segmenter.probe_volume().channels))
                ]
                yield Volume(channels=tuple(channels), options=self._asking, spacing_mm=self.spacing_mm)

    def _must_fit(self, volume: Volume, found: VolumePrediction) -> None:
        mask, probability = found.mask, found.probability
        _must(
            mask.shape == volume.shape and mask.dtype == np.uint8,
            f"the mask is {mask.dtype} {mask.shape} for {volume.shape}",
        )
        highest = int(mask.max(initial=0))
        _must(not found.labels or highest <= len(found.labels), f"the mask has {highest}, which has no name")
        _must(
            probability is not None or not volume.options.asks_for_probability,
            "there is a mask but no probability, which was asked for",
        )
        if probability is not None:
            _must(
                probability.shape == volume.shape and probability.dtype == np.float32,
                f"probability is {probability.dtype} {probability.shape} for {volume.shape}",
            )
            low, high = float(probability.min()), float(probability.max())
            _must(low >= 0 and high <= 1, f"probability is {low:g} to {high:g}, not 0 to 1")

    @property
    def _asking(self) -> Options:
        return replace(self.options, outputs=(*self.options.outputs, "probability"))

    def _segmenter(self) -> Segmenter:
        """One loaded segmenter for all tests of the class."""
        owner = type(self)
        if owner._loaded is None:
            owner._loaded = self.create()
            owner._loaded.load(self.placement, lambda *_: None)
        return owner._loaded

    def _one(self, frame: Frame) -> Prediction:
        found = self._segmenter().predict([frame])
        _must(len(found) == 1, f"{len(found)} predictions for one frame")
        return found[0]

    def _frames(self, seed: int = 0) -> Iterator[Frame]:
        for size in () if self._takes_volumes else self.sizes:
            for colour in (False, True):
                yield _frame(size, seed, colour=colour, options=self._asking)

    def _must_agree(self, one: Prediction, other: Prediction, how: str) -> None:
        if one.probability is None or other.probability is None:
            _must(one.probability is other.probability, f"{how}, a frame gave a mask once and none once")
            return
        apart = float(np.abs(one.probability - other.probability).max())
        _must(apart <= self.same, f"{how}, a frame's probabilities are up to {apart:.2g} apart")


def _frame(size: tuple[int, int], seed: int, *, colour: bool, options: Options) -> Frame:
    """Dark bent lines on a noisy ground."""
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    distance = np.abs(columns - size[1] / (2 + seed) - 6 * np.sin(rows / 9 + seed))
    ground = np.random.default_rng(seed).normal(160, 6, size)
    grey: NDArray[np.uint8] = (ground - 90 * np.exp(-((distance / 3) ** 2))).clip(0, 255).astype(np.uint8)
    return Frame(pixels=np.stack([grey, grey // 2, grey // 3], axis=-1) if colour else grey, options=options)


def _values(shape: tuple[int, int, int], seed: int, kind: type[np.generic]) -> NDArray[np.generic]:
    """A bright ball on a noisy ground, read-only."""
    grid = np.indices(shape, np.float32)
    middle = np.array(shape, np.float32)[:, np.newaxis, np.newaxis, np.newaxis]
    distance = np.sqrt((((grid - middle / 2) / (middle / 3)) ** 2).sum(axis=0))
    values = np.random.default_rng(seed).normal(100, 8, shape) + 80 * (distance < 1)
    found: NDArray[np.generic] = values.clip(0, 255).astype(kind)
    found.setflags(write=False)
    return found


def _check_prediction(frame: Frame, prediction: Prediction) -> None:
    """What `Prediction` promises."""
    size = frame.pixels.shape[:2]
    probability, mask = prediction.probability, prediction.mask
    if probability is not None:
        _must(
            probability.shape[-2:] == size and probability.ndim in (2, 3), f"probability {probability.shape} for {size}"
        )
        _must(probability.dtype == np.float32, f"probability is {probability.dtype}, not float32")
        _must(bool(np.isfinite(probability).all()), "probability holds values that are not numbers")
        low, high = float(probability.min()), float(probability.max())
        _must(low >= 0 and high <= 1, f"probability is {low:g} to {high:g}, not 0 to 1")
        if probability.ndim == 3 and prediction.labels:
            _must(
                len(prediction.labels) == len(probability), f"{len(prediction.labels)} labels, {len(probability)} maps"
            )
    if mask is not None:
        asked = frame.options.asks_for_probability
        _must(probability is not None or not asked, "there is a mask but no probability, which was asked for")
        _must(mask.shape == size and mask.dtype == np.uint8, f"the mask is {mask.dtype} {mask.shape} for {size}")
        highest = int(mask.max(initial=0))
        _must(not prediction.labels or highest <= len(prediction.labels), f"the mask has {highest}, which has no name")


def _must(kept: bool, broken: str) -> None:
    if not kept:
        raise AssertionError(f"A segmenter's promise is broken: {broken}.")
