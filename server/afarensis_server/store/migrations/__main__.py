"""Writes a new revision: what changes between the newest one and `store.tables`. For developers."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import make_url

from ..backend import Backend
from . import configuration, upgrade


def main(message: str) -> None:
    with TemporaryDirectory() as directory:
        backend = Backend(make_url(f"sqlite:///{Path(directory, 'newest.db')}"), readers=1, busy_seconds=1.0)
        upgrade(backend)
        settings = configuration()
        number = len(list(ScriptDirectory.from_config(settings).walk_revisions())) + 1
        with backend.migrating.connect() as connection:
            settings.attributes["connection"] = connection
            command.revision(settings, message, autogenerate=True, rev_id=f"{number:04}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit('Say what the revision does: python -m afarensis_server.store.migrations "add a column for ..."')
    main(sys.argv[1])
