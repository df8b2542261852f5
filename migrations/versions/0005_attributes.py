"""Attributes of scans that the configuration asks for (``privacy.dicom_tags``)."""

from __future__ import annotations

from inspect import cleandoc

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STATEMENT = """
    CREATE TABLE attribute (
        job_id INTEGER NOT NULL,
        keyword TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (job_id, keyword),
        FOREIGN KEY(job_id) REFERENCES job (id)
    ) WITHOUT ROWID, STRICT
"""


def upgrade() -> None:
    """Make the table. Jobs of before have no attributes: nothing of them was kept."""
    op.get_bind().exec_driver_sql(cleandoc(STATEMENT))
