"""Several models for one scan: a name has an arrival for each model, and the first one's owns the file.

`file_of` names that first one; `awaited` counts, in the first one's row, the others that have no visible result yet:
the file stays in the inbox until it is 0. Earlier arrivals are of one model each: no row is written anew.
"""

from __future__ import annotations

from inspect import cleandoc

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    ALTER TABLE arrival ADD COLUMN file_of INTEGER
    """,
    """
    ALTER TABLE arrival ADD COLUMN awaited INTEGER DEFAULT 0 NOT NULL
    """,
    """
    CREATE INDEX arrival_beside ON arrival (file_of) WHERE file_of IS NOT NULL
    """,
    """
    DROP INDEX arrival_to_dispose
    """,
    """
    CREATE INDEX arrival_to_dispose ON arrival (id)
    WHERE disposal = 'pending' AND delivery IN ('delivered', 'none') AND awaited = 0
    """,
)


def upgrade() -> None:
    """Add the columns, and make the indexes."""
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(cleandoc(statement))
