"""Alembic runs this. The connection comes with the configuration; nothing is read from files, no logging is set up."""

from typing import Any, Literal

from alembic import context
from sqlalchemy.types import TypeDecorator

from afarensis_server.store.tables import metadata


def plain_type(kind: str, item: Any, _autogenerate: object) -> str | Literal[False]:
    """Render our column types as what they are stored as."""
    if kind == "type" and isinstance(item, TypeDecorator):
        return f"sa.{item.impl_instance!r}"
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_item=plain_type,
    # SQLite cannot alter a column: tables are rebuilt instead.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
