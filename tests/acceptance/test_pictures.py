"""Runs through the whole service: every kind of picture in its folder, and the same figures everywhere."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.acceptance.invariants import check_invariants
from tests.acceptance.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KINDS = ("mask", "overlay", "panel", "contact-sheet", "preview", "video", "probability")
FRAMES = 6


def frames() -> np.ndarray:
    """A dark bar (the fake segmenter's mask) that grows from frame to frame; the last frame has none."""
    run = np.full((FRAMES, 48, 64), 250, np.uint8)
    for index in range(FRAMES - 1):
        run[index, 20:24, 8 : 18 + 8 * index] = 5
    return run


def gif() -> bytes:
    file = io.BytesIO()
    first, *others = (Image.fromarray(frame) for frame in frames())
    first.save(file, "GIF", save_all=True, append_images=others, duration=120)
    return file.getvalue()


def tiff(levels: int) -> bytes:
    """A stack of 16 bits with pixels of 0.1 mm."""
    file = io.BytesIO()
    stack = frames().astype(np.uint16) * np.uint16(levels)
    tifffile.imwrite(file, stack, photometric="minisblack", resolution=(100, 100), resolutionunit="CENTIMETER")
    return file.getvalue()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("pictures"), model={"segmenter": "fake"}, outbox={"outputs": [*KINDS]})
    service.drop("run.gif", gif())
    service.drop("stack.tif", tiff(257))
    file = io.BytesIO()
    Image.fromarray(frames()[3]).save(file, "PNG")
    service.drop("one.png", file.getvalue())
    assert service.once() == 0, service.tail()
    service.drop("again.gif", gif())
    assert service.once() == 0, service.tail()
    yield service
    service.end()


def document(service: Service, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((service.outbox / "results" / f"{name}.json").read_bytes())
    return found


@pytest.mark.parametrize("name", ["run", "stack", "again"])
def test_a_run_has_every_kind_of_picture(service: Service, name: str) -> None:
    """Under its name, each kind in a folder of its own."""
    found = {output["kind"]: output["path"] for output in document(service, name)["outputs"]}
    assert {
        "mask": f"masks/{name}.tif",
        "overlay": f"overlays/{name}.jpg",
        "panel": f"panels/{name}.jpg",
        "contact-sheet": f"contact-sheets/{name}.jpg",
        "preview": f"previews/{name}.webp",
        "video": f"videos/{name}.mp4",
        "probability": f"probabilities/{name}.tif",
    } == found


def test_a_single_picture_has_those_that_make_sense(service: Service) -> None:
    kinds = [output["kind"] for output in document(service, "one")["outputs"]]
    assert ["mask", "overlay", "panel", "probability"] == kinds


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def test_pictures_open_and_the_preview_keeps_the_runs_pace(service: Service) -> None:
    preview = opened(service.outbox / "previews" / "run.webp")
    assert (FRAMES, 120) == (preview.n_frames, preview.info["duration"])  # type: ignore[attr-defined]
    for folder in ("panels", "contact-sheets", "overlays"):
        assert min(opened(service.outbox / folder / "run.jpg").size) >= 48


def test_probabilities_of_stacks_have_a_page_for_each_frame_and_16_bits(service: Service) -> None:
    pages = tifffile.imread(service.outbox / "probabilities" / "stack.tif")
    assert ((FRAMES, 48, 64), np.uint16) == (pages.shape, pages.dtype)
    assert 65535 == pages.max()
    single = np.asarray(opened(service.outbox / "probabilities" / "one.png"))
    assert ((48, 64), True) == (single.shape, int(single.max()) > 255)


@pytest.mark.parametrize("name", ["run", "again"])
def test_measures_of_every_frame_stand_in_the_json(service: Service, name: str) -> None:
    """The same for a duplicate; the fullest frame stands for the scan."""
    found = document(service, name)
    assert [10, 18, 26, 34, 42, 0] == [round(one["area_fraction"] * 48 * 64 / 4) for one in found["measures"]]
    assert [1, 1, 1, 1, 1, 0] == [one["components"] for one in found["measures"]]
    assert (5, 4.0, "px", 1) == tuple(found[key] for key in ("measured_frame", "max_width", "unit", "components"))
    assert 36 <= found["length"] <= 42
    assert None is found["measures"][5]["max_width"]


def test_the_history_has_the_same_figures(service: Service) -> None:
    """In the views, and in what `show` prints."""
    found = document(service, "run")
    names = ("measured_frame", "area_fraction", "components", "length", "mean_width", "max_width", "unit")
    (row,) = service.rows(f"SELECT {', '.join(names)} FROM jobs WHERE source = 'run.gif'")  # noqa: S608 - words of ours
    assert tuple(found[name] for name in names) == row
    lengths = service.rows("SELECT length FROM measures WHERE source = 'run.gif' ORDER BY frame")
    assert [one["length"] for one in found["measures"]] == [length for (length,) in lengths]
    shown = service.json("show", "run.gif")
    assert found["measures"] == shown["measures"]
    text = service.command("show", "run.gif").stdout
    assert f"1 piece, {found['length']:,.0f} px long" in text
    assert "4 at most (frame 5)" in text


def test_a_calibrated_stack_is_measured_in_millimetres(service: Service) -> None:
    found = document(service, "stack")
    assert ("mm", 0.4) == (found["unit"], pytest.approx(found["max_width"]))
    assert found["length"] == pytest.approx(document(service, "run")["length"] / 10)


def test_measures_can_be_switched_off(tmp_path: Path) -> None:
    service = Service(tmp_path, model={"segmenter": "fake"}, outbox={"measures": False})
    service.drop("run.gif", gif())
    assert service.once() == 0, service.tail()
    found = document(service, "run")
    assert ([], None, None) == (found["measures"], found["length"], found["unit"])
    assert [] == service.rows("SELECT * FROM measures")


def test_all_promises_hold(service: Service) -> None:
    check_invariants(service)
