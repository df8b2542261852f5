"""Run by alembic: brings the database on the connection that ``watcherd.store.database`` hands over up to date.

One transaction holds all of it, so a migration that fails leaves the database as it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic import context

from watcherd.store.tables import metadata

if TYPE_CHECKING:
    from sqlalchemy import Connection


def run(connection: Connection) -> None:
    """Apply what is asked for to ``connection``."""
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    raise SystemExit("watcherd migrates a database that it has open; use `watcherd db upgrade`.")
run(context.config.attributes["connection"])
