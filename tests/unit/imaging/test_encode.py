"""Results are files that hold exactly the mask, and their hashes are those of the files."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from watcherd.errors import InputError, TransientError
from watcherd.formats.npy_frames import FrameFile
from watcherd.imaging import encode
from watcherd.imaging.encode import Rendered, RenderRequest, render
from watcherd.imaging.results.preview import LONGEST_SIDE, MOST_FRAMES

if TYPE_CHECKING:
    from pathlib import Path

ALL = ("mask", "overlay", "panel", "contact-sheet", "preview", "video", "probability")


def rendered(folder: Path, mask: np.ndarray, **options: Any) -> dict[str, Any]:
    """Render random pixels with this mask; the files by their kinds, and the whole answer under ``all``."""
    chance = np.random.default_rng(0)
    colour = options.pop("colour", False)
    np.save(folder / "pixels.npy", chance.integers(0, 255, mask.shape + ((3,) if colour else ()), np.uint8))
    np.save(folder / "mask.npy", mask)
    np.save(folder / "probability.npy", chance.integers(0, 65535, mask.shape, np.uint16))
    request = RenderRequest(
        pixels=folder / "pixels.npy",
        mask=folder / "mask.npy",
        probability=folder / "probability.npy",
        folder=folder,
        stem="7",
        **{"kinds": ALL} | options,
    )
    found: Rendered = render(request)
    return {file.kind: file for file in found.files} | {"all": found}


def squares(frames: int = 1, height: int = 50, width: int = 70) -> np.ndarray:
    """A square that is larger on every frame."""
    mask = np.zeros((frames, height, width), np.uint8)
    for index in range(frames):
        mask[index, 5 : 10 + 5 * index, 5:20] = 1
    return mask


def test_hashes_and_sizes_are_those_of_the_files(tmp_path):
    for frames in (1, 3):
        for file in rendered(tmp_path, squares(frames))["all"].files:
            data = file.path.read_bytes()
            assert (hashlib.sha256(data).hexdigest(), len(data)) == (file.sha256, file.bytes)


def test_a_mask_of_one_class_is_0_and_255_in_the_scans_size(tmp_path):
    mask = squares()
    files = rendered(tmp_path, mask)
    assert files["mask"].path.name == "7.mask.png"
    with Image.open(files["mask"].path) as image:
        assert image.mode == "L"
        assert np.array_equal(mask[0] * 255, np.asarray(image))
    assert files["all"].mask_fraction == pytest.approx(mask.mean())


def test_several_classes_keep_their_label_values(tmp_path):
    mask = squares()
    mask[0, 30:40, 30:40] = 2
    with Image.open(rendered(tmp_path, mask, classes=2)["mask"].path) as image:
        assert np.array_equal(mask[0], np.asarray(image))


def test_a_run_gives_a_tiff_with_a_page_for_each_frame(tmp_path):
    mask = squares(4)
    files = rendered(tmp_path, mask)
    assert np.array_equal(mask * 255, tifffile.imread(files["mask"].path))
    with Image.open(files["mask"].path) as image:
        assert (image.n_frames, image.info["compression"]) == (4, "tiff_adobe_deflate")
    assert files["probability"].path.suffix == ".tif"
    assert np.array_equal(np.load(tmp_path / "probability.npy"), tifffile.imread(files["probability"].path))


def test_probabilities_keep_their_16_bits(tmp_path):
    with Image.open(rendered(tmp_path, squares())["probability"].path) as image:
        assert np.array_equal(np.load(tmp_path / "probability.npy")[0], np.asarray(image))


def test_the_overlay_of_a_run_shows_the_frame_with_the_largest_mask(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(encode, "overlay", lambda pixels, labels: shown.append(labels) or np.zeros((4, 4, 3), np.uint8))
    mask = squares(4)[::-1].copy()
    rendered(tmp_path, mask, kinds=("overlay",))
    assert np.array_equal(mask[0], shown[0])


@pytest.mark.parametrize("colour", [False, True])
def test_overlay_and_preview_can_be_opened(tmp_path, colour):
    files = rendered(tmp_path, squares(5, 700, 900), colour=colour)
    with Image.open(files["overlay"].path) as image:
        assert (image.format, image.size) == ("JPEG", (900, 700))
    with Image.open(files["preview"].path) as image:
        assert (image.format, image.n_frames, max(image.size)) == ("WEBP", 5, LONGEST_SIDE)


def test_a_long_run_has_a_thinned_preview_that_lasts_as_long(tmp_path):
    with Image.open(rendered(tmp_path, squares(250, 16, 24), kinds=("preview",))["preview"].path) as image:
        assert image.n_frames <= MOST_FRAMES


def test_a_single_frame_has_no_pictures_of_runs_and_unknown_kinds_are_left_out(tmp_path):
    kinds = [file.kind for file in rendered(tmp_path, squares(), kinds=(*ALL, "dicom-seg"))["all"].files]
    assert ["mask", "overlay", "panel", "probability"] == kinds


def test_only_what_was_asked_for_is_written(tmp_path):
    rendered(tmp_path, squares(), kinds=("mask",))
    assert ["7.mask.png"] == sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".npy")


def test_a_folder_that_cannot_be_written_is_not_the_scans_fault(tmp_path):
    scan = saved(tmp_path)
    with pytest.raises(TransientError, match="cannot be written"):
        render(RenderRequest(pixels=scan, mask=scan, folder=tmp_path / "gone", stem="7"))


def saved(folder: Path) -> Path:
    np.save(folder / "one.npy", squares())
    return folder / "one.npy"


def test_lack_of_memory_names_the_limit(tmp_path, monkeypatch):
    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(encode, "_mask", no_memory)
    with pytest.raises(InputError, match="The mask of 70 x 50 pixels needs more than the 2,048 MiB"):
        rendered(tmp_path, squares())


def test_a_picture_for_which_there_is_no_memory_costs_that_picture(tmp_path, monkeypatch):
    """The mask is delivered, and the note says what is missing and why."""

    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    kinds = ("mask", "overlay", "panel")
    monkeypatch.setattr(encode, "_overlay", no_memory)
    result = rendered(tmp_path, squares()[:1], kinds=kinds)["all"]
    assert ["mask", "panel"] == [file.kind for file in result.files]
    words = "there is no overlay: it needs more than the 2,048 MiB that a worker has (limits.worker_memory_mib)"
    assert words == result.note


def test_a_picture_that_is_too_long_for_its_format_costs_that_picture(tmp_path, monkeypatch):
    """It was called a full disk, and tried again and again."""
    monkeypatch.setattr(encode, "LONGEST_JPEG", 60)
    result = rendered(tmp_path, squares()[:1], kinds=("mask", "panel"))["all"]
    assert ["mask"] == [file.kind for file in result.files]
    assert "there is no panel: its longer side has more than 60 pixels" in str(result.note)


@pytest.mark.parametrize("colour", [False, True])
def test_an_overlay_in_pieces_is_the_same_to_the_pixel(monkeypatch, colour):
    """Large scans are drawn piece by piece."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 255, (900, 1400, 3) if colour else (900, 1400), np.uint8)
    labels = np.kron(rng.random((90, 140)) < 0.1, np.ones((10, 10))).astype(np.uint8)
    labels[:, 700:] *= 2
    whole = encode._overlay([pixels], Frames([labels]), 0)
    monkeypatch.setattr(encode, "BAND", 1400 * 37)
    assert np.array_equal(np.asarray(whole), np.asarray(encode._overlay([pixels], Frames([labels]), 0)))


class Frames(list[np.ndarray]):
    """Frames as `FrameFile` has them."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self[0].shape)


def test_a_mask_of_another_size_is_never_drawn(tmp_path):
    np.save(tmp_path / "other.npy", squares(1, 50, 71))
    with pytest.raises(ValueError, match="shape"):
        render(RenderRequest(pixels=saved(tmp_path), mask=tmp_path / "other.npy", folder=tmp_path, stem="7"))


def test_frames_are_read_one_by_one(tmp_path):
    mask = squares(3)
    np.save(tmp_path / "mask.npy", mask)
    frames = FrameFile(tmp_path / "mask.npy")
    assert (3, mask.shape) == (len(frames), frames.shape)
    assert all(np.array_equal(mask[index], frame) for index, frame in enumerate(frames))
    with pytest.raises(IndexError):
        frames[3]


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize(("height", "width"), [(12, 70_000), (70_000, 12), (1, 65_501), (2, 65_500)])
def test_an_overlay_that_jpeg_cannot_hold_is_made_smaller_and_said_to_be(tmp_path, height, width, colour):
    mask = np.zeros((1, height, width), np.uint8)
    mask[:, :, :4] = 1
    found = rendered(tmp_path, mask, colour=colour, kinds=("mask", "overlay", "panel"))
    with Image.open(found["overlay"].path) as shown:
        assert min(65_500, max(height, width)) == max(shown.size)
        shown.load()
    with Image.open(found["mask"].path) as drawn:
        assert (width, height) == drawn.size
    note = found["all"].note
    assert "smaller than the scan" in note if max(height, width) > 65_500 else note is None
