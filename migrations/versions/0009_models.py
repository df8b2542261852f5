"""Several models: which one a job is for, and the queue of each.

The name follows from the job's options, which leave it out where it is the default's: no row is written anew.
"""

from __future__ import annotations

from inspect import cleandoc

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    ALTER TABLE job ADD COLUMN model_name TEXT GENERATED ALWAYS AS (
        CASE WHEN json_valid(options) THEN coalesce(CAST(json_extract(options, '$.model') AS TEXT), 'default')
        ELSE 'default' END
    ) VIRTUAL
    """,
    """
    CREATE INDEX job_of_model ON job (model_name, priority DESC, id, not_before, solo) WHERE state = 'queued'
    """,
)


def upgrade() -> None:
    """Add the column, and the index."""
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(cleandoc(statement))
