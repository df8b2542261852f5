"""How good masks were where somebody had drawn some: what `watcherd evaluate` found, scan by scan."""

from __future__ import annotations

from inspect import cleandoc

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE evaluation (
        id INTEGER NOT NULL,
        at TEXT NOT NULL CHECK (at LIKE '____-__-__T__:__:__.___Z'),
        version TEXT NOT NULL,
        source TEXT NOT NULL CHECK (source IN ('images', 'predictions', 'jobs')),
        model TEXT NOT NULL,
        threshold REAL,
        profile TEXT,
        truth TEXT NOT NULL,
        judged TEXT NOT NULL,
        against TEXT,
        scans INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        figures TEXT NOT NULL,
        PRIMARY KEY (id)
    ) STRICT
    """,
    """
    CREATE TABLE evaluation_scan (
        evaluation_id INTEGER NOT NULL,
        number INTEGER NOT NULL,
        name TEXT NOT NULL,
        group_name TEXT NOT NULL,
        unit TEXT NOT NULL CHECK (unit IN ('px', 'mm')),
        figures TEXT NOT NULL,
        PRIMARY KEY (evaluation_id, number),
        FOREIGN KEY(evaluation_id) REFERENCES evaluation (id)
    ) WITHOUT ROWID, STRICT
    """,
)


def upgrade() -> None:
    """Make the tables. What was evaluated before is in its folders."""
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(cleandoc(statement))
