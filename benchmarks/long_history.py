"""A database as a long time leaves it: as many jobs as asked for, made by SQL alone.

The rows are those that the daemon would have written for jobs that arrive evenly: four events, three outputs and one
attempt for each, on four cards. One in fifty fails, one in a hundred scans is dropped a second time under another
name, the last of the jobs still wait, and a few files settle. Scan 17 is called ``ward-17/scan-17.jpg``.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from watcherd.job import Options
from watcherd.store import Database, InUse, ModelIdentity
from watcherd.store.records import stamp
from watcherd.store.rules import TRIGGERS

if TYPE_CHECKING:
    from pathlib import Path

MODEL = ModelIdentity(segmenter="vesselness", model="vesselness", revision="1", dtype="float32")
OPTIONS = Options()
IN_USE = InUse(identity=MODEL, options=lambda _path, _overrides: OPTIONS)

MOST_CHECKED = 100_000
"""A longer history is made without the tables' own checks, at two thirds of the time: its rows are those of a short
one, only more."""

NUMBERS = """
CREATE TEMP TABLE number AS
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :jobs)
SELECT i, strftime('%Y-%m-%dT%H:%M:%fZ', :start + :span * i / :jobs, 'unixepoch') AS at,
    printf('ward-%d/scan-%d.jpg', i % 20, i) AS path,
    printf('%064x', i) AS sha256,
    CASE WHEN i > :jobs - :waiting THEN 'queued' WHEN i % 50 = 0 THEN 'failed' ELSE 'succeeded' END AS state,
    10 + i % 30 AS decode_ms, 80 + i % 900 AS inference_ms
FROM n
"""

HISTORY = (
    """
INSERT INTO scan (id, sha256, size_bytes, width, height, frames, format, spool_name)
SELECT i, sha256, 40000 + i % 9000, 512, 512, 1, 'JPEG', sha256 FROM number
""",
    """
INSERT INTO job (id, scan_id, arrival_id, source, profile, options, options_key, segmenter, model, model_revision,
                 dtype, state, error, error_class, attempts, run_id, attempt_id, moved_why, moved_at, created_at,
                 queued_at, started_at, finished_at, threshold, mask_fraction, queue_ms, decode_ms, inference_ms,
                 render_ms, batch_size)
SELECT i, i, i, path, 'default', :options, :key, 'vesselness', 'vesselness', '1', 'float32', state,
    CASE state WHEN 'failed' THEN 'The picture is truncated.' END, CASE state WHEN 'failed' THEN 'input' END, 1, 1,
    CASE state WHEN 'queued' THEN NULL ELSE i END, 'delivered', at, at, at, at,
    CASE state WHEN 'queued' THEN NULL ELSE at END, 0.5, 0.1, i % 5000, decode_ms, inference_ms, 20, 8
FROM number
""",
    """
INSERT INTO arrival (id, run_id, path, path_text, fate, seen_at, ingested_at, size_bytes, mtime_ns, device, inode,
                     ctime_ns, job_id, present, delivery, disposal, disposed_at)
SELECT i, 1, CAST(path AS BLOB), path, 'queued', at, at, 40000, i, 1, i, 0, i, state = 'queued',
    CASE state WHEN 'queued' THEN 'waiting' ELSE 'delivered' END,
    CASE state WHEN 'queued' THEN 'pending' ELSE 'archived' END, at
FROM number
""",
    """
INSERT INTO arrival (run_id, path, path_text, fate, seen_at, ingested_at, size_bytes, mtime_ns, device, inode, ctime_ns,
                     job_id, duplicate_of, present, delivery, disposal, disposed_at)
SELECT 1, CAST('again/' || path AS BLOB), 'again/' || path, 'duplicate', at, at, 40000, i, 1, i, 0, i, i, 0,
    'delivered', 'archived', at
FROM number WHERE i % 100 = 1 AND state = 'succeeded'
""",
    """
INSERT INTO arrival (run_id, path, path_text, fate, reason, seen_at, size_bytes, mtime_ns, device, inode, ctime_ns)
SELECT 1, CAST('new/' || i AS BLOB), 'new/' || i, 'settling', 'It still changes.', at, 9, i, 1, i, 0
FROM number WHERE i > :jobs - 3
""",
    """
INSERT INTO attempt (id, job_id, number, run_id, started_at, ended_at, outcome, decode_ms, inference_ms, render_ms,
                     batch_size)
SELECT i, i, 1, 1, at, at, state, decode_ms, inference_ms, 20, 8 FROM number WHERE state <> 'queued'
""",
    """
INSERT INTO attempt_device (attempt_id, device, name, vram_before_mib, vram_peak_allocated_mib)
SELECT i, printf('GPU-%d', i % 4), 'Card', 15000.0, 15000.0 + i % 4000 FROM number WHERE state <> 'queued'
""",
    """
INSERT INTO output (job_id, arrival_id, attempt_id, kind, path, path_text, staged_path, sha256, bytes, state,
                    delivered_at)
SELECT i, i, i, kind, CAST(kind || i AS BLOB), kind || '/' || i, x'00', sha256, 9000, 'delivered', at
FROM number, (SELECT 'mask' AS kind UNION SELECT 'overlay' UNION SELECT 'result') WHERE state = 'succeeded'
""",
    """
INSERT INTO event (at, job_id, kind, from_state, to_state, run_id)
SELECT at, i, kind, a, b, 1
FROM number, (SELECT 'ingested' AS kind, NULL AS a, 'queued' AS b UNION ALL SELECT 'claimed', 'queued', 'running'
              UNION ALL SELECT 'staged', 'running', 'delivering'
              UNION ALL SELECT 'delivered', 'delivering', 'succeeded')
""",
    "INSERT INTO total SELECT 'job.' || state, count(*) FROM job GROUP BY state",
    "INSERT INTO total SELECT 'arrival.' || fate, count(*) FROM arrival GROUP BY fate",
    """
INSERT INTO hour
SELECT substr(finished_at, 1, 13), sum(state = 'succeeded'), sum(state = 'failed'), sum(queue_ms), sum(decode_ms),
    sum(inference_ms), sum(render_ms)
FROM job WHERE finished_at IS NOT NULL GROUP BY 1
""",
    """
INSERT INTO device_hour
SELECT substr(ended_at, 1, 13), device, name, count(*), sum(inference_ms), max(vram_peak_allocated_mib)
FROM attempt JOIN attempt_device ON attempt_id = attempt.id GROUP BY 1, 2, 3
""",
    "DROP TABLE number",
)


def make(path: Path, jobs: int, *, now: datetime, days: float = 30, waiting: int = 1000) -> None:
    """A database at ``path`` with ``jobs`` jobs over the ``days`` before ``now``; the last ``waiting`` are queued."""
    Database.open(path).close()
    begun = now - timedelta(days=days)
    values = {
        "jobs": jobs,
        "start": begun.timestamp(),
        "span": days * 86400.0,
        "waiting": waiting,
        "options": OPTIONS.to_json(),
        "key": OPTIONS.key(MODEL.key),
    }
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -400000", "temp_store = MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        if jobs > MOST_CHECKED:
            connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("BEGIN")
        for name in TRIGGERS:  # they would count row by row what is added up at the end; opening puts them back
            connection.execute(f"DROP TRIGGER {name}")
        indexes = connection.execute(
            "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql <> ''"
        ).fetchall()
        for name, _ in indexes:  # made at the end, at a third of the time
            connection.execute(f"DROP INDEX {name}")
        connection.execute("INSERT INTO run VALUES (1, ?, NULL, NULL, 1, 'h', 'b', '0')", (stamp(begun),))
        for statement in (NUMBERS, *HISTORY):
            connection.execute(statement, values)
        for _, statement in indexes:
            connection.execute(statement)
        connection.execute("COMMIT")
    Database.open(path).close()
