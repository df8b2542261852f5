"""Open every file below a folder, and compare its first frame with what other people's readers make of it.

    python -m tools.compare_readers FOLDER ...         # counts, and what failed or differs
    python -m tools.compare_readers FOLDER ... --list  # each file's hash and what came of it, too

For files of other projects' test suites, thousands of them, of which none is kept here. OpenCV, SimpleITK (ITK with
GDCM) and nibabel are asked; a file counts as opened by others when one of them opens it. Ours are decoded as the
service does it, in a worker with a limit of memory and time; one that dies is counted. The others have limits too: one
that does not keep to them does not open the file.
"""

from __future__ import annotations

import hashlib
import resource
import sys
from collections import Counter
from concurrent.futures import TimeoutError as TooLateError
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from pebble import ProcessExpired, ProcessPool

from watcherd.errors import JobError
from watcherd.formats.dicom import without_pictures
from watcherd.formats.sniff import HEAD, describe, image_format
from watcherd.imaging import decode as decoding
from watcherd.imaging.decode import DecodeLimits, decode
from watcherd.imaging.readers.scan import over_black, turned
from watcherd.imaging.worker import start_worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SECONDS = 60.0
"""Seconds that a reader has for one file."""

MEMORY_MIB = 2048
"""MiB that a worker of ours has, as by default in the service."""

OTHERS_BYTES = 6 << 30
"""Bytes of address space that a worker of the others has."""

ALIKE = 0.99
"""Correlation from which two pictures show the same."""


VERDICTS = ("equal", "alike", "over black", "turned", "inverted", "another size", "differs")
"""What `verdict` says, the best first: of several readers that counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What came of a file. ``ours``: ``opened``, or why not; ``theirs``: who opens it; ``verdict``: see `verdict`."""

    path: Path
    sha256: str
    format: str
    ours: str
    theirs: tuple[str, ...]
    verdict: str


def ours(path: Path, target: Path) -> str:
    """``opened`` or the reason; the first frame's values go into ``target``."""
    with path.open("rb") as file:
        head = file.read(HEAD)
        reason = without_pictures(file)
    if reason:
        return f"ignored: {reason}"
    if image_format(head) is None:
        return f"no scan: {describe(head)}" if head else "no scan: is empty"
    try:
        decode(path, target.with_suffix(".frames"), DecodeLimits())
        scan = decoding._member(path, DecodeLimits())
        np.save(target, scan.read(0))
        scan.close()
    except JobError as error:
        return f"failed: {error.message}"
    return "opened"


def limited() -> None:
    """Keep a worker of the others from taking the machine's memory."""
    resource.setrlimit(resource.RLIMIT_AS, (OTHERS_BYTES, OTHERS_BYTES))


def theirs(path: Path, target: Path | None) -> dict[str, str]:
    """By each reader that opens the file, the `verdict` on our first frame in ``target``; empty where there is none."""
    mine = np.load(target) if target is not None else None
    found: dict[str, str] = {}
    for name, reader in {"opencv": _opencv, "simpleitk": _simpleitk, "nibabel": _nibabel}.items():
        try:
            pixels = reader(path)
        except Exception:  # noqa: S112 - whatever it raises, it does not open it
            continue
        if pixels is not None:
            found[name] = "" if mine is None else verdict(mine, pixels)
    return found


def _opencv(path: Path) -> NDArray[Any] | None:
    import cv2

    # as it is stored, where that has transparency; else turned by EXIF, as ours
    for flags in (cv2.IMREAD_UNCHANGED, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR):
        done, pages = cv2.imreadmulti(str(path), 0, 1, flags=flags)
        if done and pages and (pages[0].shape[2:] == (4,) or flags != cv2.IMREAD_UNCHANGED):
            return np.asarray(pages[0] if pages[0].ndim == 2 else _red_first(pages[0]))
    return None


def _red_first(pixels: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([pixels[..., 2::-1], pixels[..., 3:]], axis=2)


def _simpleitk(path: Path) -> NDArray[Any]:
    import SimpleITK as sitk  # noqa: N813 - as everybody calls it

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    image = sitk.ReadImage(str(path))
    if image.GetDimension() == 3 and path.name.endswith((".nii", ".nii.gz")):
        image = sitk.DICOMOrient(image, "LPS")
    pixels: NDArray[Any] = sitk.GetArrayFromImage(image)
    return pixels[0] if image.GetDimension() > 2 else pixels


def _nibabel(path: Path) -> NDArray[Any]:
    import nibabel

    return np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj).T[0, ::-1, ::-1]


def verdict(mine: NDArray[Any], other: NDArray[Any]) -> str:
    """One of `VERDICTS`. ``alike``: in other units; ``over black``, ``turned``: alike once theirs is laid over black
    and turned by its orientation, as ours is."""
    told = _plain_verdict(mine, other)
    if told in ("equal", "alike"):
        return told
    laid = _laid(other)
    if _plain_verdict(mine, laid) in ("equal", "alike"):
        return "over black"
    turns = (turned(laid, orientation) for orientation in range(2, 9))
    return "turned" if any(_plain_verdict(mine, one) in ("equal", "alike") for one in turns) else told


def _laid(pixels: NDArray[Any]) -> NDArray[Any]:
    """Without alpha, where there is any."""
    if pixels.ndim != 3 or pixels.shape[2] not in (2, 4):
        return pixels
    colours = pixels[..., 0] if pixels.shape[2] == 2 else pixels[..., :3]
    return over_black(colours, pixels[..., -1])


def _plain_verdict(mine: NDArray[Any], other: NDArray[Any]) -> str:
    a, b = (_grey(pixels) for pixels in (mine, other))
    if a.shape != b.shape:
        return "another size"
    a, b = a.ravel()[np.isfinite(a.ravel())], b.ravel()[np.isfinite(a.ravel())]
    if np.array_equal(a, b):
        return "equal"
    if not (a.size and a.std() and b.std()):
        return "alike" if not a.std() and not b.std() else "differs"
    correlation = float(np.corrcoef(a, b)[0, 1])
    return "alike" if correlation > ALIKE else "inverted" if correlation < -ALIKE else "differs"


def _grey(pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Channels side by side; alpha is left out, and equal channels are one."""
    values = pixels.astype(np.float64)
    if values.ndim == 3:
        values = values[..., :3]
        values = values[..., 0] if (values == values[..., :1]).all() else values.reshape(len(values), -1)
    return values


def rows(folders: list[Path]) -> Iterator[Row]:
    """Of every file once, by its bytes."""
    seen: set[str] = set()
    spawning = get_context("spawn")
    with (
        TemporaryDirectory() as folder,
        ProcessPool(1, initializer=start_worker, initargs=(MEMORY_MIB,), context=spawning) as own,
        ProcessPool(1, initializer=limited, context=spawning) as others,
    ):
        for path in sorted(path for each in folders for path in each.rglob("*") if path.is_file()):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if digest not in seen:
                seen.add(digest)
                yield _row(path, digest, Path(folder) / "mine.npy", own, others)


def _row(path: Path, digest: str, target: Path, own: ProcessPool, others: ProcessPool) -> Row:
    with path.open("rb") as file:
        kind = image_format(file.read(HEAD)) or "none of ours"
    mine = str(_result(own.schedule(ours, (path, target), timeout=SECONDS), "died: "))
    opened = target if mine == "opened" else None
    found = _result(others.schedule(theirs, (path, opened), timeout=SECONDS), "")
    readers: dict[str, str] = found if isinstance(found, dict) else {}
    told = min(readers.values(), key=VERDICTS.index) if opened and readers else ""
    return Row(path=path, sha256=digest, format=kind, ours=mine, theirs=tuple(readers), verdict=told)


def _result(future: Any, why: str) -> Any:
    try:
        return future.result()
    except (ProcessExpired, TooLateError) as error:
        return f"{why}{type(error).__name__}"
    except Exception as error:  # told with the file's name
        return f"raised {type(error).__name__}: {error}"


def main(arguments: list[str]) -> None:
    """Print each file that only others open, or that differs, or with ``--list`` every file; then counts."""
    found: list[Row] = []
    for row in rows([Path(each) for each in arguments if not each.startswith("--")]):
        found.append(row)
        if "--list" in arguments:
            print(row.sha256, row.path, row.format, row.ours, ",".join(row.theirs), row.verdict, sep="\t", flush=True)
        elif (row.theirs and row.ours != "opened") or row.verdict not in ("", "equal", "alike"):
            print(row.path, row.format, row.ours, ",".join(row.theirs), row.verdict, sep=" | ", flush=True)
    print(len(found), "files;", Counter((row.ours.partition(":")[0], bool(row.theirs)) for row in found))
    print("opened by both:", Counter(row.verdict for row in found if row.verdict))
    print("by format:", Counter(row.format for row in found))


if __name__ == "__main__":
    main(sys.argv[1:])
