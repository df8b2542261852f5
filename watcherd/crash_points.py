"""Named places where a test may kill the process, to prove that nothing is lost there.

Only the environment variable ``WATCHERD_CRASH_AT`` arms one: ``ingest.copied`` dies there the first time,
``ingest.copied:3`` the third time. A process that is killed like this has no chance to tidy up, as in a power cut.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter

VARIABLE = "WATCHERD_CRASH_AT"

CRASH_POINTS: dict[str, str] = {
    # a file becomes a job
    "ingest.begun": "a batch of settled files is about to be copied",
    "ingest.copied": "one file is copied to a temporary name in the spool",
    "ingest.renamed": "one copy has its final name in the spool; nothing of the batch is synced",
    "ingest.synced": "the batch is durable in the spool; no row knows of it",
    "enqueue.begun": "arrivals and jobs are written, not committed",
    "enqueue.committed": "arrivals and jobs are committed",
    # a job is tried
    "claim.begun": "a batch is claimed, not committed",
    "claim.committed": "the claim is committed, nothing has been done",
    "decode.begun": "a scan is about to be decoded",
    "decode.done": "a scan is decoded",
    "segment.begun": "a batch is about to go to a replica",
    "segment.done": "a batch came back from a replica",
    "render.begun": "results are about to be drawn",
    "render.done": "results are drawn into the staging folder",
    # results reach the outbox
    "stage.written": "one result file is staged",
    "stage.synced": "all results of the scan are staged and synced",
    "deliver.begun": "the intents are written, not committed",
    "deliver.intended": "final names and hashes are committed, no result is visible",
    "deliver.renamed": "one result has its final name",
    "deliver.json-renamed": "the JSON has its final name",
    "deliver.synced": "the outbox is synced",
    "record.begun": "the outcome is written, not committed",
    "record.committed": "the outcome is committed",
    # the source leaves the inbox
    "dispose.begun": "the job is recorded, its source untouched",
    "dispose.copied": "the source is copied to a temporary name on the archive's file system",
    "dispose.published": "that copy has its final name in the archive, the source is still there",
    "dispose.set-aside": "the source has the hidden name under which it is checked once more before it is removed",
    "dispose.moved": "the source is renamed into the archive",
    "dispose.removed": "the source is removed",
    "dispose.synced": "the folders that were touched are synced, no row knows",
    "dispose.recorded": "the disposal is committed",
    "spool.removed": "the spool's copy of a finished scan is removed",
    # somebody is told
    "hook.called": "a hook was called and went well, no row knows",
    # a start after any of these
    "recover.begun": "the lock is held, nothing has been put right",
    "recover.requeued": "what was claimed by the last run is queued again",
    "recover.delivered": "what the last run meant to deliver is delivered",
    "recover.swept": "leftovers in spool, staging and run folder are removed",
}
"""Every crash point and what has happened when it is reached, in the order of a scan's way."""

_ARMED = os.environ.get(VARIABLE)
"""Name of the point at which to die, read once: a job passes a dozen points."""
_reached: Counter[str] = Counter()
_counting = threading.Lock()


def crash_point(name: str) -> None:
    """Die here by SIGKILL if a test has asked for it; otherwise do nothing.

    Raises ValueError for a name that is not in `CRASH_POINTS`, here or in the environment: a misspelt crash point
    would make its test pass without having crashed.
    """
    if name not in CRASH_POINTS:
        raise ValueError(f"{name!r} is not one of watcherd.crash_points.CRASH_POINTS")
    if _ARMED:
        _maybe_die(name, _ARMED)


def _maybe_die(name: str, armed: str) -> None:
    wanted, _, nth = armed.partition(":")
    if wanted not in CRASH_POINTS or not (nth or "1").isdecimal():
        raise ValueError(f"{VARIABLE}={armed} names no crash point; it must be a name or name:number")
    if wanted != name:
        return
    with _counting:
        _reached[name] += 1
        if _reached[name] == int(nth or "1"):
            os.kill(os.getpid(), signal.SIGKILL)
