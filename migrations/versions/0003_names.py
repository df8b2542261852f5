"""The natural select is quick: a name by itself, the largest memory without a condition.

`arrival.name` is what stands after the last slash: people ask for "scan-17.jpg" and seldom know the folder.
"""

from __future__ import annotations

from inspect import cleandoc

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    ALTER TABLE arrival ADD COLUMN name TEXT GENERATED ALWAYS AS (
        substr(path_text, length(rtrim(path_text, replace(path_text, '/', ''))) + 1)
    ) VIRTUAL
    """,
    """
    CREATE INDEX arrival_called ON arrival (name)
    """,
    """
    DROP INDEX attempt_device_peak
    """,
    """
    CREATE INDEX attempt_device_peak ON attempt_device (vram_peak_allocated_mib)
    """,
)


def upgrade() -> None:
    """Add the column, and make the indexes anew."""
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(cleandoc(statement))
