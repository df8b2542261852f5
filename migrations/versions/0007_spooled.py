"""Which scans have a copy in the spool, from an index: few do, and a long history has many that have none."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index."""
    op.get_bind().exec_driver_sql("CREATE INDEX scan_spooled ON scan (id) WHERE spool_name IS NOT NULL")
