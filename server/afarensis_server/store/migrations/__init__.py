"""The schema's history. Every start brings the database to the newest revision, in one transaction.

There is no way back but a backup: a downgrade that loses data, and is never tried, is worse than none. For a new
revision, change `store.tables`, then run ``python -m afarensis_server.store.migrations "what it does"``, and check what
that wrote to ``versions/``. Revisions name plain column types, so that they stay true when ours change. Their files are
named by their numbers: a start that has nothing to bring up to date needs no more of them, and no Alembic.
"""

import inspect
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ..backend import Backend, Commit

if TYPE_CHECKING:
    from alembic.config import Config

# Alembic keeps the migration under way in module globals.
_lock = threading.Lock()


class DatabaseTooNew(Exception):
    """The database has the schema {revision}, which this version of Afarensis does not know. Start the newer version
    that wrote it, or restore a backup."""

    def __init__(self, revision: str) -> None:
        super().__init__(inspect.cleandoc(self.__doc__ or "").replace("\n", " ").format(revision=revision))


def configuration() -> "Config":
    """Alembic's configuration, without a file: it finds the scripts beside this module, in a wheel, too."""
    from alembic.config import Config  # noqa: PLC0415 - see `upgrade`

    settings = Config()
    # Alembic expands "%(here)s" and the like.
    settings.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    return settings


def revisions() -> list[str]:
    """All revisions that this version knows, the newest last."""
    return sorted(path.name.partition("_")[0] for path in Path(__file__).parent.glob("versions/[0-9]*.py"))


def upgrade(backend: Backend) -> None:
    """Bring the database to the newest revision. Safe in any thread; raises DatabaseTooNew."""
    known = revisions()
    with _lock, backend.migrating.begin() as connection:
        backend.begin_writing(connection, Commit.DURABLE)
        current = _revision(connection)
        if current is not None and current not in known:
            raise DatabaseTooNew(current)
        if current != known[-1]:
            # It takes a tenth of a start to import, and most starts change nothing.
            from alembic import command  # noqa: PLC0415

            settings = configuration()
            settings.attributes["connection"] = connection
            command.upgrade(settings, "head")


def _revision(connection: sa.Connection) -> str | None:
    """The revision that a database has; None when it is empty."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
