"""Calls of hooks: what is wished for, and what is to be called."""

from __future__ import annotations

from inspect import cleandoc

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE hook_wish (
        event TEXT NOT NULL,
        target TEXT NOT NULL,
        PRIMARY KEY (event, target)
    ) WITHOUT ROWID, STRICT
    """,
    """
    CREATE TABLE hook (
        id INTEGER NOT NULL,
        job_id INTEGER NOT NULL,
        "key" TEXT NOT NULL,
        target TEXT NOT NULL CHECK (target IN ('command', 'url')),
        event TEXT NOT NULL CHECK (event IN ('cancelled', 'failed', 'quarantined', 'succeeded')),
        state TEXT NOT NULL CHECK (state IN ('waiting', 'called', 'given-up')),
        tries INTEGER DEFAULT 0 NOT NULL,
        created_at TEXT NOT NULL CHECK (created_at LIKE '____-__-__T__:__:__.___Z'),
        not_before TEXT CHECK (not_before LIKE '____-__-__T__:__:__.___Z'),
        ended_at TEXT CHECK (ended_at LIKE '____-__-__T__:__:__.___Z'),
        error TEXT,
        PRIMARY KEY (id),
        UNIQUE ("key", target),
        CONSTRAINT waiting_has_a_time CHECK ((not_before IS NOT NULL) = (state = 'waiting')),
        FOREIGN KEY(job_id) REFERENCES job (id)
    ) STRICT
    """,
    """
    CREATE INDEX hook_given_up ON hook (ended_at) WHERE state = 'given-up'
    """,
    """
    CREATE INDEX hook_job ON hook (job_id)
    """,
    """
    CREATE INDEX hook_waiting ON hook (not_before) WHERE state = 'waiting'
    """,
)


def upgrade() -> None:
    """Make both tables."""
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(cleandoc(statement))
