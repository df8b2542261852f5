"""Pictures for people: bounded in size, with the right frames and numbers, whatever the scan's size."""

from __future__ import annotations

import builtins
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from PIL import Image

from watcherd.errors import InputError
from watcherd.formats.npy_frames import FrameFile
from watcherd.imaging.decode import Decoded
from watcherd.imaging.encode import RenderRequest, render
from watcherd.imaging.results import preview, sheets, video
from watcherd.imaging.results.views import numbered, overlay_of, scan_of

if TYPE_CHECKING:
    from pathlib import Path

    from watcherd.imaging.encode import Rendered

GREY = 128


def run(folder: Path, frames: int, height: int = 48, width: int = 64) -> tuple[Path, Path]:
    """A grey run in which frame k has a mask k pixels high, but for the last frame, which has none."""
    masks = np.zeros((frames, height, width), np.uint8)
    for index in range(frames - 1):
        masks[index, 4 : 5 + min(index, height - 12), 8 : width - 8] = 1
    np.save(folder / "pixels.npy", np.full(masks.shape, GREY, np.uint8))
    np.save(folder / "mask.npy", masks)
    return folder / "pixels.npy", folder / "mask.npy"


def files(folder: Path, frames: int, height: int = 48, width: int = 64) -> tuple[FrameFile, FrameFile]:
    pixels, mask = run(folder, frames, height, width)
    return FrameFile(pixels), FrameFile(mask)


def drawn(folder: Path, frames: int, kind: str, **told: Any) -> Path:
    """Render one kind; its path."""
    pixels, mask = run(folder, frames)
    scan = Decoded(
        path=pixels, frames=frames, height=48, width=64, colour=False, format="TIFF", bit_depth=8, window=None
    )
    request = RenderRequest(
        pixels=pixels, mask=mask, folder=folder, stem="7", kinds=(kind,), scan=replace(scan, **told)
    )
    found: Rendered = render(request)
    (file,) = found.files
    return file.path


def film(path: Path) -> tuple[list[np.ndarray], float]:
    """The frames of a film, and how many it shows in a second."""
    with av.open(str(path)) as opened:
        rate = opened.streams.video[0].average_rate
        assert rate is not None
        return [frame.to_ndarray(format="rgb24") for frame in opened.decode(video=0)], float(rate)


# ---------------------------------------------------------------------------------------------------------- one frame


@pytest.mark.parametrize(
    ("size", "side", "least", "shown"),
    [
        ((200, 100), 512, 256, (128, 256)),
        ((400, 300), 512, 256, (300, 400)),
        ((4000, 3000), 512, 256, (384, 512)),
        ((3, 900), 320, 200, (320, 1)),
    ],
)
def test_small_frames_are_enlarged_and_large_ones_shrunk(size, side, least, shown):
    """(height, width) in, (width, height) out; with the mask and without it alike."""
    pixels, labels = np.full(size, GREY, np.uint8), np.zeros(size, np.uint8)
    assert shown == scan_of(pixels, side, least).size == overlay_of(pixels, labels, side, least).size


def test_a_vessel_of_one_pixel_is_seen_in_a_picture_an_eighth_the_size():
    labels = np.zeros((4000, 4000), np.uint8)
    labels[:, 2001] = 1
    picture = np.asarray(overlay_of(np.full(labels.shape, GREY, np.uint8), labels, 500)).astype(int)
    coloured = (picture.max(axis=2) - picture.min(axis=2) > 60).any(axis=1)
    assert coloured.all()


@pytest.mark.parametrize("grey", [0, 255])
@pytest.mark.parametrize("side", [64, 200, 1600])
def test_numbers_can_be_read_on_dark_and_on_bright_pictures(grey, side):
    """Light on a dark plate in the lower left corner, and no larger than they need to be."""
    plain = np.full((side, side, 3), grey, np.uint8)
    picture = np.asarray(numbered(Image.fromarray(plain.copy()), "7 / 12")).astype(int)
    touched = np.argwhere((picture != plain).any(axis=2))
    assert touched[:, 0].min() > side * 0.6
    plate = picture[touched[:, 0].min() : touched[:, 0].max(), touched[:, 1].min() : touched[:, 1].max()]
    assert plate.max() > 200
    assert np.median(plate) < 110
    assert touched.shape[0] < 0.15 * side * side


# ------------------------------------------------------------------------------------------------------------- sheets


def test_a_panel_of_a_run_is_of_the_frame_with_most_mask(tmp_path, monkeypatch):
    """The scan is left, untouched; the mask is on the right."""
    words = []
    monkeypatch.setattr(sheets, "_beside", lambda *parts: words.append(parts[1::2]) or parts[0])
    pixels, masks = files(tmp_path, 6)
    fullest = int(np.argmax([np.count_nonzero(mask) for mask in masks]))
    sheets.panel(pixels[fullest], masks[fullest], frame=fullest + 1, frames=6)
    assert [("frame 5 of 6", "mask: 7.8% of the frame")] == words
    monkeypatch.undo()
    with Image.open(drawn(tmp_path, 6, "panel")) as image:
        shown = np.asarray(image).astype(int)
    left, right = shown[:300, : shown.shape[1] // 2 - 20], shown[:300, shown.shape[1] // 2 + 20 :]
    assert abs(left - GREY).max() < 8
    assert (right.max(axis=2) - right.min(axis=2)).max() > 100


@pytest.mark.parametrize(("size", "beside"), [((200, 200), True), ((999, 960), True), ((180, 420), False)])
def test_wide_scans_stand_one_above_the_other(size, beside):
    picture = sheets.panel(np.full(size, GREY, np.uint8), np.zeros(size, np.uint8))
    assert beside == (picture.width > picture.height)


def test_a_panel_is_no_larger_than_needed():
    picture = sheets.panel(np.full((4000, 3000), GREY, np.uint8), np.zeros((4000, 3000), np.uint8))
    assert picture.width < 2 * 1200 + 100
    assert picture.height < 1600 + 150


@pytest.mark.parametrize("frames", [2, 5, 12, 30, 500])
def test_a_contact_sheet_has_a_bounded_number_of_tiles(tmp_path, frames, monkeypatch):
    """Evenly picked, the first and the last among them, each with its number from 1."""
    numbers: list[str] = []
    monkeypatch.setattr(sheets, "numbered", lambda picture, text: numbers.append(text) or picture)
    sheet = sheets.contact_sheet(*files(tmp_path, frames))
    assert min(frames, sheets.MOST_TILES) == len(numbers)
    assert ("1", str(frames)) == (numbers[0], numbers[-1])
    steps = np.diff([int(number) for number in numbers])
    assert steps.max() - steps.min() <= 1
    assert max(sheet.size) < 2600


def test_tiles_of_a_contact_sheet_do_not_cover_one_another(tmp_path):
    """Every tile shows its own mask, row by row."""
    pixels, masks = files(tmp_path, 6)
    sheet = np.asarray(sheets.contact_sheet(pixels, masks)).astype(int)
    coloured = sheet.max(axis=2) - sheet.min(axis=2) > 60
    tile = overlay_of(pixels[0], masks[0], sheets.TILE_SIDE, sheets.TILE_LEAST)
    columns = sheet.shape[1] // tile.width
    areas = []
    for index in range(6):
        top, left = 4 + index // columns * (tile.height + 4), 4 + index % columns * (tile.width + 4)
        areas.append(int(coloured[top : top + tile.height, left : left + tile.width].sum()))
    assert areas[:5] == sorted(areas[:5])
    assert 0 == areas[5]
    assert sum(areas) == int(coloured.sum())


# ---------------------------------------------------------------------------------------------------- moving pictures


@pytest.mark.parametrize(("frame_ms", "shown"), [(None, 67), (125.0, 125), (1.0, 20)])
def test_a_preview_plays_as_fast_as_the_run(tmp_path, frame_ms, shown):
    """By the file's own frame time; 15 frames a second where it does not say."""
    with Image.open(drawn(tmp_path, 3, "preview", frame_ms=frame_ms)) as image:
        assert 3 == image.n_frames
        image.load()
        assert shown == image.info["duration"]


def test_a_thinned_preview_lasts_as_long_as_its_run(tmp_path):
    frames = preview.MOST_FRAMES * 3
    with Image.open(drawn(tmp_path, frames, "preview", frame_ms=40.0)) as image:
        assert image.n_frames <= preview.MOST_FRAMES
        image.load()
        assert frames * 40 == pytest.approx(image.info["duration"] * image.n_frames, rel=0.02)


def test_frames_of_a_preview_have_their_numbers(tmp_path, monkeypatch):
    numbers: list[str] = []
    monkeypatch.setattr(preview, "numbered", lambda picture, text: numbers.append(text) or picture)
    preview.write_preview(tmp_path / "a.webp", *files(tmp_path, 3))
    assert ["1 / 3", "2 / 3", "3 / 3"] == numbers


def test_a_video_shows_the_scan_beside_its_mask_at_the_runs_own_rate(tmp_path):
    frames, rate = film(drawn(tmp_path, 5, "video", frame_ms=100.0))
    assert (5, 10.0) == (len(frames), rate)
    left, right = (part.astype(int) for part in np.split(frames[3][:150], 2, axis=1))
    assert abs(left - GREY).max() < 12
    assert (right.max(axis=2) - right.min(axis=2)).max() > 60


def test_a_video_of_odd_size_is_padded(tmp_path):
    """H.264 stores colours for pairs of pixels."""
    pixels, masks = files(tmp_path, 2, 333, 401)
    video.write_video(tmp_path / "a.mp4", pixels, masks)
    frames, _ = film(tmp_path / "a.mp4")
    assert (334, 802) == frames[0].shape[:2]


def test_a_long_video_is_thinned_and_lasts_as_long_as_its_run(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "MOST_FRAMES", 20)
    frames, rate = film(drawn(tmp_path, 60, "video", frame_ms=50.0))
    assert 20 == len(frames)
    assert 3.0 == pytest.approx(len(frames) / rate, rel=0.02)


def test_mpeg4_is_written_where_there_is_no_h264(tmp_path, monkeypatch):
    """Builds of PyAV without x264 exist."""
    monkeypatch.setattr(video, "CODECS", (("no such codec", {}), *video.CODECS[1:]))
    path = drawn(tmp_path, 3, "video")
    with av.open(str(path)) as opened:
        assert "mpeg4" == opened.streams.video[0].codec.name


def test_a_video_without_pyav_says_what_to_do(tmp_path, monkeypatch):
    real = builtins.__import__

    def without_av(name: str, *rest: Any, **more: Any) -> Any:
        if name == "av":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_av)
    with pytest.raises(InputError, match="PyAV is not installed") as caught:
        drawn(tmp_path, 3, "video")
    assert "watcherd[video]" in caught.value.hint


# ----------------------------------------------------------------------------------------------------------- measures


def test_measures_come_with_the_pictures_in_the_scans_units(tmp_path):
    """In millimetres where the scan says how large a pixel is; none where none are wanted."""
    pixels, mask = run(tmp_path, 4)
    scan = Decoded(
        path=pixels, frames=4, height=48, width=64, colour=False, format="DICOM", bit_depth=8, window=None,
        spacing_mm=(0.5, 0.5),
    )  # fmt: skip
    request = RenderRequest(pixels=pixels, mask=mask, folder=tmp_path, stem="7", kinds=("mask",), scan=scan)
    assert () == render(request).measures
    found = render(replace(request, measure_seconds=5)).measures
    assert [1, 2, 3, 4] == [one.frame for one in found]
    assert ("mm", 1.5, None) == (found[2].unit, found[2].max_width, found[3].max_width)
