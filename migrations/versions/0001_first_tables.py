"""The first tables.

A released migration is never edited; the tables as they are now stand in watcherd/store/tables.py.
"""

from __future__ import annotations

from inspect import cleandoc

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE command (
        id TEXT NOT NULL,
        received_at TEXT NOT NULL CHECK (received_at LIKE '____-__-__T__:__:__.___Z'),
        verb TEXT NOT NULL,
        arguments TEXT NOT NULL,
        outcome TEXT,
        error TEXT,
        finished_at TEXT CHECK (finished_at LIKE '____-__-__T__:__:__.___Z'),
        PRIMARY KEY (id)
    ) STRICT
    """,
    """
    CREATE TABLE device_hour (
        hour TEXT NOT NULL,
        device TEXT NOT NULL,
        name TEXT NOT NULL,
        attempts INTEGER DEFAULT 0 NOT NULL,
        busy_ms INTEGER DEFAULT 0 NOT NULL,
        vram_peak_allocated_mib REAL,
        PRIMARY KEY (hour, device, name)
    ) WITHOUT ROWID, STRICT
    """,
    """
    CREATE TABLE event (
        id INTEGER NOT NULL,
        at TEXT NOT NULL CHECK (at LIKE '____-__-__T__:__:__.___Z'),
        job_id INTEGER,
        arrival_id INTEGER,
        kind TEXT NOT NULL,
        from_state TEXT,
        to_state TEXT,
        run_id INTEGER,
        detail TEXT,
        PRIMARY KEY (id)
    ) STRICT
    """,
    """
    CREATE INDEX event_job ON event (job_id)
    """,
    """
    CREATE TABLE hour (
        hour TEXT NOT NULL,
        succeeded INTEGER DEFAULT 0 NOT NULL,
        failed INTEGER DEFAULT 0 NOT NULL,
        queue_ms INTEGER DEFAULT 0 NOT NULL,
        decode_ms INTEGER DEFAULT 0 NOT NULL,
        inference_ms INTEGER DEFAULT 0 NOT NULL,
        render_ms INTEGER DEFAULT 0 NOT NULL,
        PRIMARY KEY (hour)
    ) WITHOUT ROWID, STRICT
    """,
    """
    CREATE TABLE run (
        id INTEGER NOT NULL,
        started_at TEXT NOT NULL CHECK (started_at LIKE '____-__-__T__:__:__.___Z'),
        ended_at TEXT CHECK (ended_at LIKE '____-__-__T__:__:__.___Z'),
        end_reason TEXT,
        pid INTEGER NOT NULL,
        host TEXT NOT NULL,
        boot_id TEXT,
        version TEXT NOT NULL,
        PRIMARY KEY (id)
    ) STRICT
    """,
    """
    CREATE TABLE scan (
        id INTEGER NOT NULL,
        sha256 TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        width INTEGER,
        height INTEGER,
        frames INTEGER,
        format TEXT,
        spool_name TEXT,
        PRIMARY KEY (id),
        UNIQUE (sha256)
    ) STRICT
    """,
    """
    CREATE TABLE setting (
        "key" TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY ("key")
    ) STRICT
    """,
    """
    CREATE TABLE total (
        name TEXT NOT NULL,
        count INTEGER NOT NULL,
        PRIMARY KEY (name)
    ) WITHOUT ROWID, STRICT
    """,
    """
    CREATE TABLE job (
        id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        scan_id INTEGER NOT NULL,
        arrival_id INTEGER NOT NULL,
        source TEXT NOT NULL,
        profile TEXT NOT NULL,
        options TEXT NOT NULL,
        options_key TEXT NOT NULL,
        segmenter TEXT NOT NULL,
        model TEXT NOT NULL,
        model_revision TEXT NOT NULL,
        dtype TEXT NOT NULL,
        state TEXT NOT NULL CHECK (
            state IN ('queued', 'running', 'delivering', 'succeeded', 'failed', 'quarantined', 'cancelled')
        ),
        error TEXT,
        error_class TEXT CHECK (error_class IN ('input', 'transient', 'memory', 'crash', 'no-mask')),
        advice TEXT,
        priority INTEGER DEFAULT 0 NOT NULL,
        not_before TEXT CHECK (not_before LIKE '____-__-__T__:__:__.___Z'),
        attempts INTEGER DEFAULT 0 NOT NULL,
        attempts_before INTEGER DEFAULT 0 NOT NULL,
        crashes_alone INTEGER DEFAULT 0 NOT NULL,
        interruptions INTEGER DEFAULT 0 NOT NULL,
        solo INTEGER DEFAULT 0 NOT NULL CHECK (solo IN (0, 1)),
        run_id INTEGER,
        attempt_id INTEGER,
        moved_why TEXT NOT NULL,
        reason TEXT,
        moved_at TEXT NOT NULL CHECK (moved_at LIKE '____-__-__T__:__:__.___Z'),
        created_at TEXT NOT NULL CHECK (created_at LIKE '____-__-__T__:__:__.___Z'),
        queued_at TEXT NOT NULL CHECK (queued_at LIKE '____-__-__T__:__:__.___Z'),
        started_at TEXT CHECK (started_at LIKE '____-__-__T__:__:__.___Z'),
        finished_at TEXT CHECK (finished_at LIKE '____-__-__T__:__:__.___Z'),
        answer TEXT,
        decode TEXT,
        note TEXT,
        threshold REAL,
        mask_fraction REAL,
        queue_ms INTEGER,
        decode_ms INTEGER,
        inference_ms INTEGER,
        render_ms INTEGER,
        batch_size INTEGER,
        host_peak_rss_mib REAL,
        UNIQUE (scan_id, options_key),
        CONSTRAINT running_is_claimed CHECK (state <> 'running' OR (run_id IS NOT NULL AND attempt_id IS NOT NULL)),
        CONSTRAINT finished_has_a_time CHECK (
            (finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'quarantined', 'cancelled'))
        ),
        CONSTRAINT failure_has_a_reason CHECK (state NOT IN ('failed', 'quarantined') OR error IS NOT NULL),
        FOREIGN KEY(scan_id) REFERENCES scan (id),
        FOREIGN KEY(run_id) REFERENCES run (id)
    ) STRICT
    """,
    """
    CREATE INDEX job_claim ON job (priority DESC, id, not_before, solo) WHERE state = 'queued'
    """,
    """
    CREATE INDEX job_created ON job (created_at)
    """,
    """
    CREATE INDEX job_failed ON job (finished_at) WHERE state IN ('failed', 'quarantined')
    """,
    """
    CREATE INDEX job_finished ON job (finished_at) WHERE finished_at IS NOT NULL
    """,
    """
    CREATE INDEX job_not_succeeded ON job (state) WHERE state <> 'succeeded'
    """,
    """
    CREATE INDEX job_waiting_since ON job (queued_at) WHERE state = 'queued'
    """,
    """
    CREATE TABLE replica (
        id INTEGER NOT NULL,
        run_id INTEGER NOT NULL,
        number INTEGER NOT NULL,
        segmenter TEXT NOT NULL,
        model TEXT NOT NULL,
        model_revision TEXT NOT NULL,
        dtype TEXT NOT NULL,
        placement TEXT NOT NULL,
        pid INTEGER,
        started_at TEXT NOT NULL CHECK (started_at LIKE '____-__-__T__:__:__.___Z'),
        ready_at TEXT CHECK (ready_at LIKE '____-__-__T__:__:__.___Z'),
        load_ms INTEGER,
        weights_mib TEXT,
        host_rss_mib REAL,
        ended_at TEXT CHECK (ended_at LIKE '____-__-__T__:__:__.___Z'),
        end_reason TEXT,
        PRIMARY KEY (id),
        FOREIGN KEY(run_id) REFERENCES run (id)
    ) STRICT
    """,
    """
    CREATE INDEX replica_run ON replica (run_id)
    """,
    """
    CREATE TABLE arrival (
        id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        run_id INTEGER NOT NULL,
        path BLOB NOT NULL,
        path_text TEXT NOT NULL,
        fate TEXT NOT NULL CHECK (fate IN ('settling', 'ignored', 'queued', 'duplicate')),
        reason TEXT,
        seen_at TEXT NOT NULL CHECK (seen_at LIKE '____-__-__T__:__:__.___Z'),
        ingested_at TEXT CHECK (ingested_at LIKE '____-__-__T__:__:__.___Z'),
        size_bytes INTEGER,
        mtime_ns INTEGER,
        device INTEGER,
        inode INTEGER,
        ctime_ns INTEGER,
        job_id INTEGER,
        duplicate_of INTEGER,
        present INTEGER DEFAULT 1 NOT NULL CHECK (present IN (0, 1)),
        delivery TEXT CHECK (delivery IN ('waiting', 'due', 'intended', 'delivered', 'none')),
        disposal TEXT CHECK (disposal IN ('pending', 'archived', 'kept', 'deleted', 'changed', 'gone', 'failed')),
        disposed_at TEXT CHECK (disposed_at LIKE '____-__-__T__:__:__.___Z'),
        disposed_path BLOB,
        FOREIGN KEY(run_id) REFERENCES run (id),
        FOREIGN KEY(job_id) REFERENCES job (id)
    ) STRICT
    """,
    """
    CREATE INDEX arrival_duplicate ON arrival (id) WHERE fate = 'duplicate'
    """,
    """
    CREATE INDEX arrival_job ON arrival (job_id)
    """,
    """
    CREATE INDEX arrival_name ON arrival (path_text, job_id)
    """,
    """
    CREATE UNIQUE INDEX arrival_present ON arrival (path) WHERE present = 1
    """,
    """
    CREATE INDEX arrival_to_deliver ON arrival (id) WHERE delivery IN ('due', 'intended')
    """,
    """
    CREATE INDEX arrival_to_dispose ON arrival (id)
    WHERE disposal = 'pending' AND delivery IN ('delivered', 'none')
    """,
    """
    CREATE INDEX arrival_unsettled ON arrival (id) WHERE fate IN ('settling', 'ignored')
    """,
    """
    CREATE TABLE attempt (
        id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        job_id INTEGER NOT NULL,
        number INTEGER NOT NULL,
        run_id INTEGER NOT NULL,
        replica_id INTEGER,
        started_at TEXT NOT NULL CHECK (started_at LIKE '____-__-__T__:__:__.___Z'),
        ended_at TEXT CHECK (ended_at LIKE '____-__-__T__:__:__.___Z'),
        outcome TEXT CHECK (outcome IN ('succeeded', 'retry', 'failed', 'quarantined', 'released', 'interrupted')),
        error_class TEXT CHECK (error_class IN ('input', 'transient', 'memory', 'crash', 'no-mask')),
        error TEXT,
        decode_ms INTEGER,
        inference_ms INTEGER,
        render_ms INTEGER,
        batch_size INTEGER,
        host_peak_rss_mib REAL,
        FOREIGN KEY(job_id) REFERENCES job (id),
        FOREIGN KEY(run_id) REFERENCES run (id),
        FOREIGN KEY(replica_id) REFERENCES replica (id)
    ) STRICT
    """,
    """
    CREATE INDEX attempt_job ON attempt (job_id)
    """,
    """
    CREATE TABLE attempt_device (
        attempt_id INTEGER NOT NULL,
        device TEXT NOT NULL,
        name TEXT,
        vram_before_mib REAL,
        vram_peak_allocated_mib REAL,
        vram_peak_reserved_mib REAL,
        nvml_used_mib REAL,
        nvml_process_mib REAL,
        PRIMARY KEY (attempt_id, device),
        FOREIGN KEY(attempt_id) REFERENCES attempt (id)
    ) WITHOUT ROWID, STRICT
    """,
    """
    CREATE INDEX attempt_device_peak ON attempt_device (vram_peak_allocated_mib)
    WHERE vram_peak_allocated_mib IS NOT NULL
    """,
    """
    CREATE TABLE output (
        id INTEGER NOT NULL,
        job_id INTEGER NOT NULL,
        arrival_id INTEGER NOT NULL,
        attempt_id INTEGER,
        kind TEXT NOT NULL,
        path BLOB NOT NULL,
        path_text TEXT NOT NULL,
        staged_path BLOB NOT NULL,
        sha256 TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('intended', 'delivered', 'removed')),
        delivered_at TEXT CHECK (delivered_at LIKE '____-__-__T__:__:__.___Z'),
        PRIMARY KEY (id),
        FOREIGN KEY(job_id) REFERENCES job (id),
        FOREIGN KEY(arrival_id) REFERENCES arrival (id)
    ) STRICT
    """,
    """
    CREATE INDEX output_arrival ON output (arrival_id)
    """,
    """
    CREATE INDEX output_job ON output (job_id)
    """,
    """
    CREATE UNIQUE INDEX output_path ON output (path) WHERE state <> 'removed'
    """,
)


def upgrade() -> None:
    """Make every table and index."""
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(cleandoc(statement))
