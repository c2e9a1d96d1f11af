"""Alembic's environment: the database's URL comes from `store.database.alembic_config`.

The `alembic` command at the desk (`alembic check`, `alembic revision --autogenerate`) reads
`RATCHET_DATABASE_URL` through the settings instead.
"""

from alembic import context
from sqlalchemy import JSON, Column

from store.database import create_database_engine
from store.settings import load_settings
from store.tables import Base


def _compare_server_default(
    context: object, inspected: object, column: Column[object], *defaults: object
) -> bool | None:
    """Return False for JSON, which Postgres cannot compare; None leaves the rest to Alembic."""
    return False if isinstance(column.type, JSON) else None


def run() -> None:
    """Run the migrations; one that fails leaves the schema as the one before it left it."""
    url = context.config.attributes.get("url") or load_settings().storage.database
    engine = create_database_engine(url, foreign_keys=False)
    try:
        with engine.connect() as connection:
            context.configure(
                connection=connection,
                target_metadata=Base.metadata,
                render_as_batch=connection.dialect.name == "sqlite",
                compare_server_default=_compare_server_default,
            )
            with context.begin_transaction():
                context.run_migrations()
    finally:
        engine.dispose()


run()
