"""What differs between databases: how connections are opened, how transactions begin, which errors mean "not now"."""

import sqlite3
from enum import Enum
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from ..errors import DatabaseUnavailable
from .driver import driver_of

#: What each connection keeps of the database in memory, in KiB.
_CACHE_KIB = 16 * 1024
#: Pages of the write-ahead log from which on a commit that does not begin on the event loop moves them to the database.
_CHECKPOINT_PAGES = 1000
#: A write-ahead log that a burst has grown is cut back to this.
_LOG_BYTES = 64 * 1024 * 1024


class Commit(Enum):
    """How a transaction that writes begins and commits."""

    #: It waits for the lock of another process, and outlives a power cut.
    DURABLE = "durable"
    #: It waits for the lock of another process, and may be lost in a power cut.
    QUICK = "quick"
    #: The same two, begun on the event loop: it fails where there is a lock. Only the commit of a durable one waits for
    #: the disk.
    HERE_DURABLE = "here, durable"
    HERE = "here"


#: Primary result codes that say nothing about the statement: the file, the disk or a lock is the reason.
_UNAVAILABLE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)


class Backend:
    """SQLite in WAL mode: one connection that writes, some that read.

    Readers see one snapshot for each unit of work, and neither they nor the writer wait for one another. A commit
    outlives a crash of the process when it returns; a durable one outlives a power cut, too, and so does all before it.
    """

    def __init__(self, url: URL, readers: int, busy_seconds: float) -> None:
        if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
            raise ValueError(f"the database must be a SQLite file (sqlite:////path), not {url.render_as_string()}")
        self.writing = _engine(
            url,
            busy_seconds,
            "PRAGMA foreign_keys = ON",
            f"PRAGMA cache_size = -{_CACHE_KIB}",
            f"PRAGMA journal_size_limit = {_LOG_BYTES}",
            pool_size=1,
            max_overflow=0,
        )
        self.reading = _engine(
            url,
            busy_seconds,
            "PRAGMA query_only = ON",
            f"PRAGMA cache_size = -{_CACHE_KIB}",
            pool_size=readers + 1,  # the event loop's
            max_overflow=0,
        )
        self.checkpointing = _engine(url, busy_seconds, pool_size=1, max_overflow=0)
        # One fsync for each commit, which is shared (`writer`). NORMAL would lose the last commits in a power cut.
        full, normal = "PRAGMA synchronous = FULL", "PRAGMA synchronous = NORMAL"
        busy, at_once = f"PRAGMA busy_timeout = {int(busy_seconds * 1000)}", "PRAGMA busy_timeout = 0"
        checkpoint, none = f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}", "PRAGMA wal_autocheckpoint = 0"
        self._pragmas = {
            Commit.DURABLE: (full, busy, checkpoint),
            Commit.QUICK: (normal, busy, checkpoint),
            # A checkpoint takes fsyncs: see `checkpoints`.
            Commit.HERE_DURABLE: (full, at_once, none),
            Commit.HERE: (normal, at_once, none),
        }
        #: The driver's connection that last began to write, and how it commits.
        self._mode: tuple[Any, Commit | None] = (None, None)
        #: Without foreign keys, because rebuilding a table would delete all that refers to it. The first to open the
        #: file, it sets what stays in it: a reader would keep the mode from changing.
        self.migrating = _engine(url, busy_seconds, "PRAGMA journal_mode = WAL", poolclass=NullPool)

    def begin_reading(self, connection: Connection) -> None:
        """Begin a transaction that sees one snapshot. It ends with the connection's."""
        driver_of(connection).execute("BEGIN")

    def begin_writing(self, connection: Connection, commit: Commit) -> None:
        """Begin a transaction that holds the write lock, so that no later statement waits for it.

        SQLAlchemy, which would take as long for its own part of it as for a small statement, is not told.
        """
        driver = driver_of(connection)
        if self._mode != (driver, commit):
            for pragma in self._pragmas[commit]:
                driver.execute(pragma)
            self._mode = driver, commit
        driver.execute("BEGIN IMMEDIATE")

    def commit(self, connection: Connection) -> None:
        """Commit what was begun to be written."""
        driver_of(connection).execute("COMMIT")

    def checkpoint(self, connection: Connection) -> int:
        """Move what the write-ahead log holds into the database, beside those who read and write; its pages then."""
        _, pages, _ = driver_of(connection).execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return int(pages)

    def roll_back(self, connection: Connection) -> None:
        """Undo what was begun to be written."""
        driver_of(connection).execute("ROLLBACK")

    def wait_for_nothing(self, connection: Connection) -> None:
        """Let statements fail where there is a lock."""
        driver_of(connection).execute("PRAGMA busy_timeout = 0")

    def execute(self, connection: Connection, statement: str) -> None:
        """A statement without parameters or rows, past SQLAlchemy, which takes ten times as long for it."""
        driver_of(connection).execute(statement)

    def in_transaction(self, connection: Connection) -> bool:
        """Whether the database still holds the transaction that the connection believes to be in."""
        return bool(driver_of(connection).in_transaction)

    def is_locked(self, error: BaseException) -> bool:
        """Whether another process has the lock that was to be had at once."""
        return _code(error) == sqlite3.SQLITE_BUSY

    def is_of_database(self, error: BaseException | None) -> bool:
        """Whether the database raised it."""
        return isinstance(_original(error), sqlite3.Error)

    def translate(self, error: BaseException) -> BaseException:
        """The error that a caller is to see: a new DatabaseUnavailable if the database itself was the cause."""
        translated: Exception
        if _code(error) in _UNAVAILABLE:
            translated = DatabaseUnavailable(detail=_original(error))
        elif isinstance(error, StopIteration):
            # A future cannot hold it.
            translated = RuntimeError("a unit of work raised StopIteration")
        else:
            return error
        translated.__cause__ = error
        return translated

    def dispose(self) -> None:
        self.reading.dispose()
        self.checkpointing.dispose()
        self.writing.dispose()


def _original(error: BaseException | None) -> BaseException | None:
    """The driver's own error."""
    return error.orig if isinstance(error, DBAPIError) else error


def _code(error: BaseException) -> int | None:
    """The primary result code; None for what is not the database's."""
    original = _original(error)
    return getattr(original, "sqlite_errorcode", 0) & 0xFF if isinstance(original, sqlite3.Error) else None


def _engine(url: URL, busy_seconds: float, *pragmas: str, **options: Any) -> Engine:
    # Parameters are what users said; an error, and so a log, must not repeat them.
    engine = create_engine(url, connect_args={"timeout": busy_seconds}, hide_parameters=True, **options)

    def configure(connection: Any, _record: object) -> None:
        # Or the driver would begin by rules of its own. `begin_reading` and `begin_writing` do it instead, and not as a
        # listener to SQLAlchemy's event, because an engine with one asks for listeners at every statement.
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(pragma)

    event.listen(engine, "connect", configure)
    return engine
