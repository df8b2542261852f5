"""How many ended today, by state, from the index alone: a day may have a hundred thousand."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

STATEMENTS = (
    "DROP INDEX job_finished",
    "CREATE INDEX job_finished ON job (finished_at, state) WHERE finished_at IS NOT NULL",
)


def upgrade() -> None:
    """Make the index anew, with the state in it."""
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
