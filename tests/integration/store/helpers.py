"""What the store's tests share: a clock that does not tick, made-up arrivals, and the way of a job in one call."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from watcherd.job import ErrorClass, Options, State
from watcherd.retry import Decision
from watcherd.store import (
    Answer,
    Claim,
    ClaimedJob,
    Enqueued,
    Failure,
    InUse,
    Measured,
    ModelIdentity,
    NewArrival,
    PathSignature,
    StagedJob,
    arrivals,
    queue,
    runs,
)
from watcherd.values import DeviceUse, Intent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
MODEL = ModelIdentity(segmenter="vesselness", model="vesselness", revision="1", dtype="float32")
OPTIONS = Options()
IN_USE = InUse(identity=MODEL, options=lambda _path, _overrides: OPTIONS)


def later(**parts: float) -> datetime:
    """`NOW` and so much more."""
    return NOW + timedelta(**parts)


def damage_quietly(path: Path) -> None:
    """Wipe the cells of a leaf that holds rows: nothing but a check of the whole file finds that."""
    content = bytearray(path.read_bytes())
    leaves = [start for start in range(0, len(content), 4096) if content[start] == 0x0D]
    content[leaves[-3] + 8 : leaves[-3] + 4096] = bytes(4088)
    path.write_bytes(content)


def start_run(connection: Connection, now: datetime = NOW) -> int:
    return runs.start_run(connection, pid=1, host="host", boot_id="boot", version="0.1.0", now=now)


def scan(name: str | bytes, content: int | None = None, *, options: Options = OPTIONS, mtime: int = 1) -> NewArrival:
    """A file in the spool; equal ``content`` means equal bytes, by default nobody else's."""
    path = name if isinstance(name, bytes) else name.encode()
    content = hash(path) % 2**60 if content is None else content
    return NewArrival(
        signature=PathSignature(path, 1000, mtime, 2**63 + 7, 2**64 - 1),
        sha256=f"{content:064x}",
        spool_name=f"{content:064x}",
        options=options,
        seen_at=NOW,
    )


def enqueue(connection: Connection, run_id: int, *scans: NewArrival, now: datetime = NOW) -> list[Enqueued]:
    return arrivals.enqueue(connection, scans, model=MODEL, run_id=run_id, now=now)


def claim(connection: Connection, run_id: int, limit: int = 1, now: datetime = NOW) -> list[ClaimedJob]:
    return queue.claim(connection, run_id=run_id, limit=limit, now=now, in_use=IN_USE)


def claim_one(connection: Connection, run_id: int, now: datetime = NOW) -> Claim:
    (job,) = claim(connection, run_id, now=now)
    return job.claim


def intents(name: str, kinds: Sequence[str] = ("mask", "result")) -> list[Intent]:
    return [
        Intent(
            kind=kind, staged=Path("/staging") / name / kind, final=f"{kind}/{name}".encode(), sha256="0" * 64, bytes=7
        )
        for kind in kinds
    ]


def staged(claim: Claim, name: str | None = None) -> StagedJob:
    """Results for a claimed job, measured on two devices."""
    return StagedJob(
        claim=claim,
        intents=intents(name or f"scan-{claim.job_id}"),
        measured=Measured(
            decode_ms=3,
            inference_ms=40,
            render_ms=5,
            batch_size=2,
            host_peak_rss_mib=512.5,
            width=640,
            height=480,
            frames=1,
            format="PNG",
            devices=(
                DeviceUse(device="cuda:0", name="Card", vram_before_mib=10.0, vram_peak_allocated_mib=800.5),
                DeviceUse(device="cuda:1", name="Card", vram_before_mib=20.0, vram_peak_allocated_mib=400.0),
            ),
        ),
        answer=Answer(answer="Sure, [SEG].", decode="verified", threshold=0.25, mask_fraction=0.125),
    )


def succeed(connection: Connection, claim: Claim, name: str | None = None, now: datetime = NOW) -> None:
    queue.begin_delivery(connection, [staged(claim, name)], now=now)
    queue.finish_delivery(connection, [claim], now=now)


def failure(error_class: ErrorClass = ErrorClass.INPUT, error: str = "it is no picture") -> Failure:
    return Failure(error_class=error_class, error=error, advice="look at the file")


def later_decision(
    seconds: float = 30, *, solo: bool = False, crashes_alone: int = 0, counted: bool = True
) -> Decision:
    """What ``retry.py`` may decide: once more, after a while."""
    return Decision(
        state=State.QUEUED,
        why="may pass by itself",
        not_before=later(seconds=seconds),
        solo=solo,
        crashes_alone=crashes_alone,
        counted=counted,
    )
