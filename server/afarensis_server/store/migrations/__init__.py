"""The schema's history. Every start brings the database to the newest revision, in one transaction.

There is no way back but a backup: a downgrade that loses data, and is never tried, is worse than none. For a new
revision, change `store.tables`, then run ``python -m afarensis_server.store.migrations "what it does"``, and check what
that wrote to ``versions/``. Revisions name plain column types, so that they stay true when ours change.
"""

import inspect
import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from ..backend import Backend, Commit

# Alembic keeps the migration under way in module globals.
_lock = threading.Lock()


class DatabaseTooNew(Exception):
    """The database has the schema {revision}, which this version of Afarensis does not know. Start the newer version
    that wrote it, or restore a backup."""

    def __init__(self, revision: str) -> None:
        super().__init__(inspect.cleandoc(self.__doc__ or "").replace("\n", " ").format(revision=revision))


def configuration() -> Config:
    """Alembic's configuration, without a file: it finds the scripts beside this module, in a wheel, too."""
    settings = Config()
    # Alembic expands "%(here)s" and the like.
    settings.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    return settings


def upgrade(backend: Backend) -> None:
    """Bring the database to the newest revision. Safe in any thread; raises DatabaseTooNew."""
    settings = configuration()
    script = ScriptDirectory.from_config(settings)
    known = {revision.revision for revision in script.walk_revisions()}
    with _lock, backend.migrating.begin() as connection:
        backend.begin_writing(connection, Commit.DURABLE)
        current = MigrationContext.configure(connection).get_current_revision()
        if current is not None and current not in known:
            raise DatabaseTooNew(current)
        if current != script.get_current_head():
            settings.attributes["connection"] = connection
            command.upgrade(settings, "head")
