"""Pictures that were made for the page: made once, kept in the state folder's cache, and bounded there."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import TimeoutError as TooSlowError
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watcherd.errors import InputError, JobError, UnavailableError, WatcherdError
from watcherd.file_names import unshow
from watcherd.imaging.limits import DecodeLimits
from watcherd.imaging.pool import ImagingPool, explained
from watcherd.store import leftovers, reader
from watcherd.web import drawing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from watcherd.config import Config
    from watcherd.web.drawing import Where

THUMBNAILS_OF = ("overlay", "mask")
"""Of which result a thumbnail is made: the first of these that there is."""
NAME = "web"
"""The folder of the cache."""
SPARE = 0.8
"""Part of its bound that the cache is cleared to, so that it is not cleared for each picture."""
AT_ONCE = 8
"""Pictures that wait for a worker at the same time; who comes later waits before that."""


class Pictures:
    """Makes pictures in imaging workers of its own, with the limits that the configuration sets for scans."""

    def __init__(self, settings: Config) -> None:
        self._settings = settings
        self._folder = settings.state.cache / NAME
        self._most = settings.web.cache_mib << 20
        self._pool = ImagingPool(workers=1, memory_mib=settings.limits.worker_memory_mib)
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._held: int | None = None
        self._making: dict[Path, asyncio.Future[Path]] = {}

    def stop(self) -> None:
        """End the workers."""
        self._pool.stop()

    async def thumbnail(self, record: Mapping[str, Any]) -> Path:
        """A small picture of a job's result. Raises `WatcherdError` when there is none."""
        output = next((o for kind in THUMBNAILS_OF for o in record["outputs"] if o["kind"] == kind), None)
        if output is None or str(output["path"]).endswith((".nii.gz", ".tif")):
            raise UnavailableError(f"Job {record['id']} has no picture.")
        target = self._folder / f"{output['sha256']}.small.jpg"
        return await self._made(target, drawing.thumbnail, self._place(output), target)

    async def layer(self, record: Mapping[str, Any], layer: str, frame: int) -> Path:
        """A frame of a scan (``scan``), or of its result of this kind (``mask``, ``probability``)."""
        if layer == "scan":
            return await self._scan(record, frame)
        output = next((o for o in record["outputs"] if o["kind"] == layer), None)
        if output is None:
            raise UnavailableError(f"Job {record['id']} has no {layer}.")
        target = self._folder / f"{output['sha256']}.{frame}.png"
        return await self._made(target, drawing.result_frame, self._place(output), layer, target, frame)

    async def _scan(self, record: Mapping[str, Any], frame: int) -> Path:
        sha256, limits = str(record["sha256"]), self._settings.limits
        size = (record["width"] or 0) * (record["height"] or 0) * (record["frames"] or 1)
        if 3 * size > self._most:
            raise UnavailableError(
                f"The scan has {size:,} pixels in all: its frames have no room in the page's cache.",
                hint="Raise web.cache_mib in the configuration.",
            )
        target = self._folder / f"{sha256}.{frame}.jpg"
        places = await asyncio.to_thread(self._places, record["id"])
        allowed = DecodeLimits(
            max_pixels=limits.max_pixels,
            max_frames=limits.max_frames,
            memory_mib=limits.worker_memory_mib,
            max_bytes=self._most,
        )
        npy = self._folder / f"{sha256}.npy"
        had = npy.exists()
        made = await self._made(target, drawing.scan_frame, places, npy, target, frame, allowed)
        if not had:
            self._held = None  # the decoded frames count too: what is held is counted anew
        return made

    def _place(self, output: Mapping[str, Any]) -> Where:
        path = self._settings.outbox.path / os.fsdecode(unshow(output["path"]))
        return str(path), output["sha256"], output["bytes"]

    def _places(self, job_id: int) -> list[Where]:
        """Where the scan's own bytes may lie: its copy in the spool, then where the history says that it went."""
        with reader(self._settings.state.database) as connection:
            scan = leftovers.scan_bytes(connection, job_id)
        inbox = self._settings.inbox
        found = [self._settings.state.spool / scan.spool_name] if scan.spool_name else []
        found += [inbox.archive_path / os.fsdecode(path) for path in scan.archived]
        found += [inbox.path / os.fsdecode(path) for path in scan.dropped]
        return [(str(path), scan.sha256, scan.size_bytes) for path in found]

    async def _made(self, target: Path, function: Callable[..., None], *arguments: Any) -> Path:
        """The picture, made now unless it is there; two who ask for it at once share it."""
        if target.exists():
            os.utime(target)
            return target
        if (making := self._making.get(target)) is not None:
            return await asyncio.shield(making)
        task = asyncio.ensure_future(self._make(target, function, *arguments))
        self._making[target] = task
        task.add_done_callback(lambda _: self._making.pop(target, None))
        return await asyncio.shield(task)

    async def _make(self, target: Path, function: Callable[..., None], *arguments: Any) -> Path:
        seconds = self._settings.limits.decode_seconds
        async with self._turn:
            await asyncio.to_thread(self._make_room)
            try:
                await asyncio.wrap_future(self._pool.run(function, *arguments, seconds=seconds))
            except WatcherdError:
                raise
            except (TooSlowError, OSError, ValueError, RuntimeError) as error:
                said = explained(error, doing="drawing", seconds=seconds)
                if isinstance(said, JobError):
                    raise said from error
                raise InputError(f"The picture could not be made: {type(error).__name__}.") from error
        if self._held is not None:
            self._held += target.stat().st_size
        return target

    def _make_room(self) -> None:
        """Keep the folder below its bound: what was looked at longest ago goes first."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._held is not None and self._held < self._most:
            return
        files = [(entry.stat(), entry.path) for entry in os.scandir(self._folder) if entry.is_file()]
        self._held = sum(status.st_size for status, _ in files)
        if self._held < self._most:
            return
        for status, path in sorted(files, key=lambda one: one[0].st_mtime_ns):
            if self._held < SPARE * self._most:
                break
            Path(path).unlink(missing_ok=True)
            self._held -= status.st_size


def has_picture(record: Mapping[str, Any]) -> bool:
    """Whether a thumbnail can be made of what a job left."""
    kinds = {output["kind"]: str(output["path"]) for output in record["outputs"]}
    first = next((kinds[kind] for kind in THUMBNAILS_OF if kind in kinds), "")
    return first.endswith((".jpg", ".png"))
