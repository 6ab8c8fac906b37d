"""What differs between databases: how connections are opened, how transactions begin, which errors mean "not now"."""

import sqlite3
from collections.abc import Callable
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from ..errors import DatabaseUnavailable

#: How long BEGIN waits for the lock of another process, such as a backup.
_BUSY_SECONDS = 5.0
#: What each connection keeps of the database in memory, in KiB.
_CACHE_KIB = 16 * 1024
#: A write-ahead log that a burst has grown is cut back to this.
_LOG_BYTES = 64 * 1024 * 1024

#: Primary result codes that say nothing about the statement: the file, the disk or a lock is the reason.
_UNAVAILABLE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOTADB,
    }
)


class Backend:
    """SQLite in WAL mode: one connection that writes, some that read.

    Readers see one snapshot for each unit of work, and neither they nor the writer wait for one another. A commit is
    durable when it returns, against a power cut, too.
    """

    def __init__(self, url: URL, readers: int) -> None:
        if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
            raise ValueError(f"the database must be a SQLite file (sqlite:////path), not {url.render_as_string()}")
        #: Transactions take the write lock when they begin, so that only BEGIN ever waits for it.
        self.writing = _engine(
            url,
            "BEGIN IMMEDIATE",
            "PRAGMA journal_mode = WAL",
            # One fsync for each commit, which is shared (`writer`). NORMAL would lose the last commits in a power cut.
            "PRAGMA synchronous = FULL",
            "PRAGMA foreign_keys = ON",
            f"PRAGMA cache_size = -{_CACHE_KIB}",
            f"PRAGMA journal_size_limit = {_LOG_BYTES}",
            pool_size=1,
            max_overflow=0,
        )
        self.reading = _engine(
            url,
            "BEGIN",
            "PRAGMA query_only = ON",
            f"PRAGMA cache_size = -{_CACHE_KIB}",
            pool_size=readers,
            max_overflow=0,
        )
        #: Without foreign keys, because rebuilding a table would delete all that refers to it.
        self.migrating = _engine(url, "BEGIN IMMEDIATE", poolclass=NullPool)

    def in_transaction(self, connection: Connection) -> bool:
        """Whether the database still holds the transaction that the connection believes to be in."""
        driver: Any = connection.connection.driver_connection
        return bool(driver.in_transaction)

    def translate(self, error: BaseException) -> BaseException:
        """The error that a caller is to see: a new DatabaseUnavailable if the database itself was the cause."""
        if isinstance(error, DBAPIError):
            code = getattr(error.orig, "sqlite_errorcode", None)
            if code is not None and code & 0xFF in _UNAVAILABLE:
                unavailable = DatabaseUnavailable(detail=error.orig)
                unavailable.__cause__ = error
                return unavailable
        if isinstance(error, StopIteration):
            # A future cannot hold it.
            replacement = RuntimeError("a unit of work raised StopIteration")
            replacement.__cause__ = error
            return replacement
        return error

    def dispose(self) -> None:
        self.reading.dispose()
        self.writing.dispose()


def _engine(url: URL, begin: str, *pragmas: str, **options: Any) -> Engine:
    engine = create_engine(url, connect_args={"timeout": _BUSY_SECONDS}, **options)

    def configure(connection: Any, _record: object) -> None:
        # Or the driver would begin and commit by rules of its own; `start` does it instead.
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(pragma)

    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    listeners: list[tuple[str, Callable[..., None]]] = [("connect", configure), ("begin", start)]
    for name, listener in listeners:
        event.listen(engine, name, listener)
    return engine
