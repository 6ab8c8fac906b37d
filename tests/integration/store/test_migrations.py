"""What migrations make of an empty database, and of one that was there before."""

import asyncio
import logging
import re
import sqlite3
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, make_url

from afarensis_server import ids
from afarensis_server.store import messages, migrations
from afarensis_server.store.backend import Backend, Commit
from afarensis_server.store.database import Database
from afarensis_server.store.pages import PageRequest
from afarensis_server.store.tables import metadata


def schema(path: Path) -> dict[str, str]:
    """Every table and index with its SQL, blanks and quotes evened out."""
    connection = sqlite3.connect(path)
    try:
        select = (
            "SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'index') AND sql IS NOT NULL ORDER BY name"
        )
        rows = connection.execute(select).fetchall()
    finally:
        connection.close()
    own = {name: sql for name, sql in rows if not name.startswith("sqlite_") and name != "alembic_version"}
    return {name: re.sub(r"[\s\"]+", " ", sql).strip() for name, sql in own.items()}


def migrate_to_before(path: Path, name: str) -> None:
    """Make a database as it was before the migration of this name."""
    settings = migrations.configuration()
    revisions = ScriptDirectory.from_config(settings).walk_revisions()
    (before,) = (one.down_revision for one in revisions if one.path.endswith(f"_{name}.py"))
    assert isinstance(before, str)
    backend = Backend(make_url(f"sqlite:///{path}"), 1, 1.0)
    with backend.migrating.begin() as connection:
        backend.begin_writing(connection, Commit.DURABLE)
        settings.attributes["connection"] = connection
        command.upgrade(settings, before)
    backend.dispose()


async def test_migrations_make_the_tables_of_the_models(tmp_path: Path) -> None:
    async with Database(f"sqlite:///{tmp_path / 'migrated.db'}"):
        pass
    engine = create_engine(f"sqlite:///{tmp_path / 'created.db'}")
    metadata.create_all(engine)
    engine.dispose()
    assert schema(tmp_path / "migrated.db") == schema(tmp_path / "created.db")


async def test_alembic_finds_nothing_to_migrate(tmp_path: Path) -> None:
    async with Database(f"sqlite:///{tmp_path / 'a.db'}") as database:
        context_differences = await database.read(
            lambda connection: compare_metadata(MigrationContext.configure(connection), metadata)
        )
    assert context_differences == []


async def test_second_start_keeps_everything(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"

    async def key() -> bytes:
        async with Database(url) as database:
            return await database.read(
                lambda connection: connection.exec_driver_sql("SELECT value FROM keys").scalar_one()
            )

    assert await key() == await key()


async def test_databases_may_start_at_the_same_time(tmp_path: Path) -> None:
    async def start(number: int) -> None:
        async with Database(f"sqlite:///{tmp_path / f'{number}.db'}"):
            pass

    await asyncio.gather(*(start(number) for number in range(8)))
    assert len({str(schema(tmp_path / f"{number}.db")) for number in range(8)}) == 1


def test_files_of_revisions_are_named_by_them_in_their_order() -> None:
    script = ScriptDirectory.from_config(migrations.configuration())
    assert migrations.revisions() == [revision.revision for revision in script.walk_revisions()][::-1]


async def test_newer_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with Database(f"sqlite:///{path}"):
        pass
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(migrations.DatabaseTooNew, match="9999"):
        async with Database(f"sqlite:///{path}"):
            pass


async def test_migration_leaves_logging_alone(tmp_path: Path) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers), logging.getLogger("alembic").level)
    async with Database(f"sqlite:///{tmp_path / 'a.db'}"):
        pass
    assert (root.level, list(root.handlers), logging.getLogger("alembic").level) == before


async def test_directory_may_have_a_percent_sign(tmp_path: Path) -> None:
    directory = tmp_path / "100%"
    directory.mkdir()
    async with Database(f"sqlite:///{directory / 'a.db'}") as database:
        assert await database.read(lambda _connection: 1) == 1


async def test_messages_of_before_they_were_counted_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    migrate_to_before(path, "thread_length")
    connection = sqlite3.connect(path)
    with connection:
        for thread, messages in (("thread_a", 3), ("thread_b", 0)):
            connection.execute("INSERT INTO threads VALUES (?, 'default', 1, '{}', '{}')", (thread,))
            for number in range(messages):
                connection.execute(
                    "INSERT INTO messages (id, project, thread_id, create_time, role, status, content, attachments, "
                    "metadata) VALUES (?, 'default', ?, 1, 'user', 'completed', '[]', '[]', '{}')",
                    (f"msg_{thread}_{number}", thread),
                )
    connection.close()
    async with Database(f"sqlite:///{path}") as database:
        counts = await database.read(
            lambda connection: connection.exec_driver_sql("SELECT id, message_count FROM threads ORDER BY id").all()
        )
        kept = await database.read(
            lambda connection: connection.exec_driver_sql("SELECT count(*) FROM messages").scalar_one()
        )
    assert [tuple(row) for row in counts] == [("thread_a", 3), ("thread_b", 0)]
    assert kept == 3


async def test_lists_of_when_they_were_ordered_by_time_are_kept(tmp_path: Path) -> None:
    """Upgraded in place: the rows are there, in the order of their ids, and no index of before is left."""
    path = tmp_path / "a.db"
    migrate_to_before(path, "lists_by_id")
    thread_id, message_ids = ids.thread_id(), [ids.message_id() for _ in range(3)]
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("INSERT INTO threads VALUES (?, 'default', 1, '{}', '{}', 3)", (thread_id,))
        for number, message_id in enumerate(message_ids):
            connection.execute(
                "INSERT INTO messages (id, project, thread_id, create_time, role, status, content, attachments, "
                "metadata) VALUES (?, 'default', ?, ?, 'user', 'completed', '[]', '[]', '{}')",
                (message_id, thread_id, 1_000_000 - number),
            )
    connection.close()
    async with Database(f"sqlite:///{path}") as database:
        page = await database.read(
            lambda connection: messages.list_page(connection, "default", PageRequest(descending=False), thread_id)
        )
    assert [message.id for message in page.items] == message_ids
    upgraded = schema(path)
    assert [name for name in upgraded if name.endswith("_create_time_id")] == []
    assert "ix_messages_thread_id_id" in upgraded
