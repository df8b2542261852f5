"""The seam between watcherd and a model: what a segmenter is given, and what it gives back.

A segmenter lives in a replica's process and nowhere else. Built-in ones are named in
``segmenters/__init__.py``; others come through the entry-point group ``watcherd.segmenters``,
whose entries are callables ``(ModelConfig) -> Segmenter``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from watcherd.formats.volumes import Grid

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from watcherd.job import Options

Mark = Callable[[str, float | None], None]
"""Progress: a stage in plain words and the fraction done, 0 to 1, or None where it is not known.
Called from the thread that does the work, so that silence means that nothing moves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One picture to segment.

    ``pixels``: uint8, (height, width) for grey or (height, width, 3) for RGB, upright as displayed.
    ``modality``: DICOM's word for what took it (``XA``, ``OP``); empty where nobody knows.
    """

    pixels: NDArray[np.uint8]
    options: Options
    modality: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What the model computed for one frame, at the frame's own size.

    ``probability``: float32 in 0..1, (height, width) for one class or (classes, height, width) for several. It may be
    left out beside a mask unless the frame's options ask for it (`Options.asks_for_probability`).
    ``mask``: uint8 (height, width) of label values, 0 for background, when the segmenter decides itself
    (its own clean-up, or a device that is quicker); None: the pixels whose probability is greater than the options'
    threshold. With neither the model gave no mask, which is never replaced by anything.
    ``labels``: the names of the label values 1, 2, ...
    ``answer``: the model's own words, if it speaks.
    ``decode``: how the answer came about: ``verified``, ``generated`` or ``forced``.
    ``note``: anything a reader of the record must know.
    """

    probability: NDArray[np.float32] | None
    mask: NDArray[np.uint8] | None = None
    labels: tuple[str, ...] = ()
    answer: str | None = None
    decode: str | None = None
    note: str | None = None

    def label_values(self, threshold: float) -> NDArray[np.uint8] | None:
        """The mask that is written, uint8 (height, width): the segmenter's own, or 1 where one class's probability is
        greater than ``threshold``, of several the likeliest. None when the model gave no mask."""
        if self.mask is not None or self.probability is None:
            return self.mask
        if self.probability.ndim == 2:
            return (self.probability > threshold).view("uint8")
        likeliest: NDArray[np.uint8] = (self.probability.argmax(axis=0) + 1).astype("uint8")
        likeliest[~(self.probability.max(axis=0) > threshold)] = 0
        return likeliest


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where one replica's model goes.

    ``devices``: torch device names as the replica's process sees them, for example ``("cuda:0", "cuda:1")``.
    ``device_map``: module name to device; ``{"": "cpu"}`` puts everything on one.
    ``dtype``: the run dtype, for example ``bfloat16``; it is ours, never the checkpoint's accident.
    """

    devices: tuple[str, ...] = ("cpu",)
    device_map: Mapping[str, str] = field(default_factory=lambda: {"": "cpu"})
    dtype: str = "float32"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """What goes into every job's record about the model. ``revision`` changes whenever masks may.

    ``warning``: what is doubtful about the model, in a sentence for the log; no part of the record.
    """

    segmenter: str
    model: str
    revision: str
    dtype: str
    parameters: int = 0
    warning: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Golden:
    """A frame whose mask is known: the loaded model must give a Dice of at least ``min_dice`` against it."""

    frame: Frame
    mask: NDArray[np.uint8]
    min_dice: float = 0.95


class Segmenter(Protocol):
    """Turns frames into masks. One thread calls it, one batch at a time."""

    def info(self) -> ModelInfo:
        """Name, model and revision; cheap, and known before `load`."""

    def load(self, placement: Placement, mark: Mark) -> None:
        """Put the model onto the devices of ``placement``.

        Raises `UnavailableError` with names and figures when the model cannot be loaded as asked.
        """

    def batch_key(self, frame: Frame) -> Hashable:
        """Frames with equal keys may share a batch (the same shape after preprocessing)."""

    def predict(self, frames: Sequence[Frame]) -> list[Prediction]:
        """One prediction for each frame, in order; frames share a `batch_key`.

        Raises `InputError` for a frame it cannot take. Memory errors go through as torch raises them.
        """

    def golden(self) -> Golden | None:
        """A frame with its known mask; None when only the model's own first answer can be compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """A batch that was started. ``done``: whether the devices have computed it. ``result``: waits for it and gives
    what `Segmenter.predict` gives, or raises what that raises; called once. ``worked_again``: whether that needed more
    of the devices' memory than was allocated when it was started, because a guess did not hold."""

    done: Callable[[], bool]
    result: Callable[[], list[Prediction]]
    worked_again: Callable[[], bool] = lambda: False


@runtime_checkable
class AsyncSegmenter(Protocol):
    """A segmenter whose devices compute while the host does something else: `Segmenter.predict` in two halves.

    The replica finishes the masks of one batch and prepares the next while a batch is on the devices. One that lacks
    this is as good on a CPU, where the host is the device.
    """

    def dispatch(self, frames: Sequence[Frame]) -> Pending:
        """Start a batch. At most one more is started before its result is asked for.

        Raises what `Segmenter.predict` raises; the devices' memory is allocated here.
        """


@runtime_checkable
class RunSegmenter(Protocol):
    """A segmenter that also follows vessels through the frames of a run, with memory."""

    def predict_run(self, frames: Iterable[Frame]) -> Iterator[Prediction]:
        """One prediction for each frame, in order, holding a bounded window of frames at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    """One scan as numbers, in the order of the file's voxels.

    ``channels``: of each channel (slices, rows, columns), of any integer or floating type of up to 32 bits, read-only
    and read from a file as it is used: the file's own values, not those of its 8-bit picture. Colours are 3 channels;
    the channels of a case that come as files of their own are in the order of their numbers. ``spacing_mm``: from slice
    to slice, row to row, column to column; the first is None where the slices do not lie behind one another in space (a
    single plane, a run over time), all of it where the file says nothing. ``affine``: float64 (4, 4), from (column,
    row, slice, 1) to mm, right-anterior-superior as in NIfTI; None where the file does not say. ``format``: the file's,
    such as ``NIFTI``. ``modality``: as `Frame` has it.
    """

    channels: tuple[NDArray[Any], ...]
    options: Options
    spacing_mm: tuple[float | None, float, float] | None = None
    affine: NDArray[np.float64] | None = None
    format: str = ""
    modality: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        slices, rows, columns = self.channels[0].shape
        return slices, rows, columns

    @property
    def is_sheared(self) -> bool:
        """Whether two axes of its grid are not at right angles, as in scans of a tilted gantry."""
        if self.affine is None:
            return False
        first, second, third = (tuple(map(float, row)) for row in self.affine[:3])
        grid = Grid(spacing_mm=(None, 1.0, 1.0), affine=(first, second, third))  # type: ignore[arg-type]
        return grid.is_sheared

    def plane(self, index: int) -> Volume:
        """One slice by itself: a plane, which has no neighbours and no affine."""
        spacing = None if self.spacing_mm is None else (None, *self.spacing_mm[1:])
        only = tuple(channel[index : index + 1] for channel in self.channels)
        return replace(self, channels=only, spacing_mm=spacing, affine=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class VolumePrediction:
    """What the model computed for a volume, on the volume's own voxels.

    ``mask``: uint8 (slices, rows, columns) of label values, 0 for background. ``probability``: float32 in 0..1, of the
    likeliest class but the background, of the mask's shape; it may be left out unless the volume's options ask for it.
    ``labels``, ``note``: as `Prediction` has them.
    """

    mask: NDArray[np.uint8]
    probability: NDArray[np.float32] | None = None
    labels: tuple[str, ...] = ()
    note: str | None = None


@runtime_checkable
class VolumeSegmenter(Protocol):
    """A segmenter that takes scans as volumes of numbers: it is never given frames (`Segmenter.predict`).

    An error that is none of ours (`watcherd.errors.JobError`) ends the replica's process behind the scan that met it:
    nobody knows what it has left there. Another one is started.
    """

    def files_per_case(self) -> int:
        """How many files make a case, known before `Segmenter.load`: more than one where each channel has its own file.

        Files are then one case whose names differ in ``_0000``, ``_0001``, ... before their extension alone.
        """

    def takes_whole(self, volume: Volume) -> bool:
        """Whether all slices are to be given together; else each is given by itself, as a volume of one slice."""

    def predict_volume(self, volume: Volume, mark: Mark) -> VolumePrediction:
        """Label values for every voxel. ``mark``: to be called now and then, as a sign of life.

        Raises `InputError` for a volume that it cannot take. Memory errors go through as torch raises them.
        """

    def probe_volume(self) -> Volume:
        """The most demanding volume to be expected, always the same: its memory is measured, and the answer to it is
        remembered and compared at every start."""


@runtime_checkable
class Wears(Protocol):
    """A segmenter that notices by itself that its process should not go on."""

    def worn(self) -> str:
        """Why, after a prediction; empty as long as all is well. The answers so far are sound."""


@runtime_checkable
class OwnDtype(Protocol):
    """A segmenter that runs in one dtype only, whatever the devices could do."""

    def own_dtype(self) -> str:
        """Its name, as torch has it."""


@runtime_checkable
class Timed(Protocol):
    """A `Placeable` model that knows how long its modules take: a split over devices then gives each as much to do."""

    def milliseconds(self) -> Mapping[str, float]:
        """Of one frame, by the names of modules that stay whole; others take none. Only their ratios matter."""


@runtime_checkable
class OwnSizes(Protocol):
    """A `Placeable` model whose tensors have other sizes on devices at some run dtypes."""

    def skeleton_at(self, dtype: str) -> nn.Module:
        """`Placeable.skeleton`, with tensors of the sizes that they have on devices at the run dtype of this name."""


@runtime_checkable
class Placeable(Protocol):
    """A segmenter whose model can be planned and split: it can show its modules without weights."""

    def skeleton(self) -> nn.Module:
        """The model's modules on the meta device, at any dtype; needs the folder's ``config.json`` only."""

    def no_split(self) -> tuple[str, ...]:
        """Class names of modules that must stay on one device."""

    def reserve_gib(self, batch_size: int) -> float:
        """Estimated activation memory of one device for a batch, before the probe has measured it."""
