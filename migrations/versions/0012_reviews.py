"""What people say of masks that they have looked at: accepted or rejected, with a note."""

from __future__ import annotations

from inspect import cleandoc

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE review (
        job_id INTEGER NOT NULL,
        attempt_id INTEGER,
        verdict TEXT NOT NULL CHECK (verdict IN ('accepted', 'rejected')),
        note TEXT NOT NULL,
        reviewer TEXT NOT NULL,
        at TEXT NOT NULL CHECK (at LIKE '____-__-__T__:__:__.___Z'),
        PRIMARY KEY (job_id),
        FOREIGN KEY(job_id) REFERENCES job (id)
    ) STRICT
    """,
    "CREATE INDEX review_verdict ON review (verdict, job_id)",
)


def upgrade() -> None:
    """Make the table. Nobody has reviewed anything before."""
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(cleandoc(statement))
