"""What the masks of a job come to, frame by frame."""

from __future__ import annotations

from inspect import cleandoc

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE measure (
        job_id INTEGER NOT NULL,
        frame INTEGER NOT NULL,
        fullest INTEGER DEFAULT 0 NOT NULL CHECK (fullest IN (0, 1)),
        unit TEXT NOT NULL CHECK (unit IN ('px', 'mm')),
        area_fraction REAL NOT NULL,
        components INTEGER,
        length REAL,
        mean_width REAL,
        max_width REAL,
        PRIMARY KEY (job_id, frame),
        FOREIGN KEY(job_id) REFERENCES job (id)
    ) WITHOUT ROWID, STRICT
    """,
    """
    CREATE UNIQUE INDEX measure_of_job ON measure (job_id) WHERE fullest = 1
    """,
)


def upgrade() -> None:
    """Make the table. Jobs of before have no measures: their masks may be gone, and nothing is made up."""
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(cleandoc(statement))
