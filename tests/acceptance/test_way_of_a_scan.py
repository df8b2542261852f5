"""A dropped file becomes a mask, however it comes, through stops and starts; and its story can be read at any time."""

from __future__ import annotations

import io
import shutil
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data

from tests.acceptance.invariants import check_at_any_moment, check_invariants, documents
from tests.acceptance.service import Service, png

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

needs_sqlite3 = pytest.mark.skipif(shutil.which("sqlite3") is None, reason="the sqlite3 shell is not installed")


# ---------------------------------------------------------------------------------------------------------- real images


def retina(place: int, width: int = 160, height: int = 120) -> Image.Image:
    """Part of a real fundus photograph, which comes with scikit-image."""
    left, top = 300 + 97 * place, 400 + 61 * place
    return Image.fromarray(data.retina()).crop((left, top, left + width, top + height))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(pixels: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def turned() -> Image.Exif:
    """EXIF that says: to be shown turned by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def mixed(place: int) -> dict[str, tuple[bytes, tuple[int, int]]]:
    """A real image in the files of ten programs: name, bytes, and the size (width, height) that it is shown with."""
    image = retina(place)
    grey, size = image.convert("L"), image.size
    deep = (np.asarray(grey, np.uint16) * 40 + place).astype(np.uint16)
    frames = [retina(place + step, 64, 48).convert("L") for step in range(3)]
    run = np.stack([np.asarray(frame) for frame in frames])
    return {
        f"colour-{place}.png": (saved(image, "PNG"), size),
        f"ward 3/grey-{place}.jpg": (saved(grey, "JPEG"), size),
        f"turned-{place}.jpeg": (saved(image, "JPEG", exif=turned()), size[::-1]),
        f"print-{place}.jpg": (saved(image.convert("CMYK"), "JPEG"), size),
        f"palette-{place}.PNG": (saved(image.quantize(32), "PNG"), size),
        f"deep-{place}.png": (saved(Image.fromarray(deep), "PNG"), size),
        f"ward 3/run/float-{place}.tif": (tiff(deep.astype(np.float32) / 5000), size),
        f"pages-{place}.tiff": (tiff(run, photometric="minisblack"), (64, 48)),
        f"old-{place}.bmp": (saved(image, "BMP"), size),
        f"new-{place}.webp": (saved(image, "WEBP", lossless=True), size),
    }


def forty() -> dict[str, tuple[bytes, tuple[int, int]]]:
    return {name: value for place in range(4) for name, value in mixed(place).items()}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Forty real images in an inbox, and one run over them."""
    service = Service(tmp_path_factory.mktemp("library"), outbox={"outputs": ["mask", "overlay", "preview"]})
    service.environment = {"WATCHERD_MODEL__SEGMENTER": "fake"}
    for name, (content, _) in forty().items():
        service.drop(name, content)
    assert service.once() == 0, service.tail()
    yield service
    service.end()


def test_forty_mixed_images_become_forty_results(library: Service) -> None:
    """One job for each, everything in its place, the inbox empty and the archive full."""
    assert len(library.dropped) == 40
    assert library.states() == {"succeeded": 40}
    assert check_invariants(library) == []
    assert [path for path in library.inbox.rglob("*") if path.is_file()] == []
    assert sum(path.is_file() for path in library.archive.rglob("*")) == 40


def test_masks_have_the_size_of_their_scan_and_two_values(library: Service) -> None:
    """0 and 255, with the size and orientation that the scan is shown with; as many pages as the scan has."""
    sizes = {name: size for name, (_, size) in forty().items()}
    values: set[int] = set()
    for _, document in documents(library):
        path = next(output["path"] for output in document["outputs"] if output["kind"] == "mask")
        with Image.open(library.outbox / path) as mask:
            assert mask.size == sizes[document["source"]], document["source"]
            assert getattr(mask, "n_frames", 1) == (3 if "pages" in path else 1)
            values |= set(np.unique(np.asarray(mask)).tolist())
        assert (document["width"], document["height"]) == sizes[document["source"]]
    assert values == {0, 255}


def test_running_again_does_nothing(library: Service) -> None:
    """No new job, attempt or event; not a byte of the outbox changes."""
    before = visible(library), library.rows("SELECT count(*) FROM attempt"), library.rows("SELECT max(id) FROM event")
    assert library.once() == 0
    after = visible(library), library.rows("SELECT count(*) FROM attempt"), library.rows("SELECT max(id) FROM event")
    assert after == before


def test_the_same_files_under_other_names_are_duplicates(library: Service) -> None:
    """They get the results under their own names, and nothing is computed a second time."""
    attempts = library.rows("SELECT count(*) FROM attempt")
    for name, (content, _) in forty().items():
        library.drop(f"second visit/{name}", content)
    assert library.once() == 0
    assert library.rows("SELECT fate, count(*) FROM arrival GROUP BY fate") == [("duplicate", 40), ("queued", 40)]
    assert library.rows("SELECT count(*) FROM attempt") == attempts
    assert check_invariants(library) == []
    copies = [document for _, document in documents(library) if document["source"].startswith("second visit/")]
    assert len(copies) == 40
    assert all(document["duplicate_of"] == document["id"] for document in copies)


def test_the_same_file_under_its_own_name_again_gives_nothing_new(library: Service) -> None:
    """A name that has its result keeps it as it is; the arrival says that it is a duplicate."""
    before = visible(library)
    name, (content, _) = next(iter(forty().items()))
    library.drop(name, content)
    library.dropped.pop()  # it was dropped before
    assert library.once() == 0
    assert visible(library) == before
    fates = library.rows("SELECT fate FROM arrival WHERE path_text = ? ORDER BY id DESC", name)
    assert fates[0] == ("duplicate",)


def visible(service: Service) -> dict[str, int]:
    """Every file of the outbox with the time of its last change."""
    return {str(path): path.stat().st_mtime_ns for path in service.outbox.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------- however a file comes


@pytest.mark.slow
@pytest.mark.timeout(600)
@needs_sqlite3
def test_everything_is_found_and_finished_through_a_stop_and_a_kill(tmp_path: Path) -> None:
    """Slow copies, moves, folders and 2,000 files at once; stopped in the middle, killed, and started again."""
    service = Service(tmp_path, outbox={"outputs": ["mask"]}, limits={"workers": 2})
    try:
        service.start()
        service.ready()
        slow = threading.Thread(target=copy_slowly, args=(service,))
        slow.start()
        move_in(service)
        drop_at_once(service, 2000)
        service.wait(lambda: service.states().get("succeeded", 0) > 100, "the first results")
        assert_readable(service)

        assert service.stop() == 0
        slow.join()
        assert service.states().get("running", 0) == 0
        assert service.states()["queued"] > 0, "the stop came too late to prove anything"
        assert check_at_any_moment(service) == []
        assert_readable(service)

        done = service.states()["succeeded"]
        service.start()
        service.wait(lambda: service.states()["succeeded"] > done + 100, "more results")
        service.kill()
        assert check_at_any_moment(service) == []
        assert_readable(service)

        service.start()
        service.finished(len(service.dropped), seconds=400)
        assert service.stop() == 0
        assert check_invariants(service) == []
        assert service.states() == {"succeeded": len(service.dropped)}
        planned = "SELECT count(*) FROM job WHERE attempts > 1 AND interruptions = 0"
        assert service.rows(planned) == [(0,)], "a planned stop was counted as an attempt"
    finally:
        service.end()


def copy_slowly(service: Service) -> None:
    """A file that is written in three parts, with pauses ten times as long as the settle time."""
    content = png(1, 400, 300)
    third = len(content) // 3
    service.remember("slow.png", content)
    with (service.inbox / "slow.png").open("wb", buffering=0) as file:
        for part in (content[:third], content[third : 2 * third], content[2 * third :]):
            file.write(part)
            time.sleep(1.0)


def move_in(service: Service) -> None:
    """One file renamed into the inbox, and one folder with a file in a folder of its own."""
    outside = service.folder / "outside"
    (outside / "folder" / "deeper").mkdir(parents=True)
    (outside / "moved.png").write_bytes(png(2))
    (outside / "folder" / "deeper" / "inside.png").write_bytes(png(3))
    (outside / "moved.png").rename(service.inbox / "moved.png")
    (outside / "folder").rename(service.inbox / "folder")
    service.remember("moved.png", png(2))
    service.remember("folder/deeper/inside.png", png(3))


def drop_at_once(service: Service, count: int) -> None:
    for number in range(count):
        service.drop(f"many/scan {number:05}.png", png(10_000 + number))


def assert_readable(service: Service) -> None:
    """Both as an ordinary reader and read-only, `select * from jobs` gives a line for each job."""
    for options in ([], ["-readonly"]):
        shell = subprocess.run(
            ["sqlite3", *options, service.database, "select * from jobs; select count(*) from jobs;"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert shell.stderr == ""
        *lines, count = shell.stdout.splitlines()
        assert len(lines) <= int(count), "a job took more than one line"
        assert any("succeeded|" in line for line in lines)
