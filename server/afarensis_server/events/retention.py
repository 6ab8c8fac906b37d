"""Deletes the events of runs and executions that ended long ago, a few at a time.

The last event of each log stays as long as its owner: who comes late still learns how it ended. A log that has not
ended is never touched, since whoever takes up its work after a crash reads all of it.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy import Connection, Table, delete, func, select, update

from ..clock import now
from ..errors import DatabaseUnavailable
from ..store import tables
from ..store.database import Database
from ..store.writer import Transaction

_log = structlog.get_logger(__name__)

#: Events deleted in one transaction: it holds up all others.
_BATCH = 500
#: Logs looked up at a time.
_LOGS = 100
#: Seconds between two rounds, at most; and between two batches, so that others come in between.
_ROUND_SECONDS = 600.0
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class _Kind:
    """Where the logs of one noun are."""

    owners: Table
    logs: Table
    events: Table
    #: The column of logs and events that says whose they are.
    owner: str


_KINDS = (
    _Kind(tables.runs, tables.event_logs, tables.events, "run_id"),
    _Kind(tables.executions, tables.execution_logs, tables.execution_events, "execution_id"),
)


class Retention:
    """Keeps events for so long. An async context manager: it works from entering it to leaving it.

    Args:
        database: where the events are.
        keep_seconds: seconds since the creation of a run or execution for which its events are kept at least; 0: for
            ever.
    """

    def __init__(self, database: Database, keep_seconds: float) -> None:
        self._database = database
        self._kept = timedelta(seconds=keep_seconds)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._kept:
            self._task = asyncio.create_task(self._repeat(), name="event retention")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _repeat(self) -> None:
        while True:
            try:
                count = await self.trim()
            except DatabaseUnavailable as error:
                _log.warning("events not trimmed", error=str(error))
            except Exception:
                _log.exception("events not trimmed")
            else:
                if count:
                    _log.info("events trimmed", count=count)
            await asyncio.sleep(min(_ROUND_SECONDS, self._kept.total_seconds()))

    async def trim(self) -> int:
        """Delete what is no longer kept; how many events that were."""
        count = 0
        for kind in _KINDS:
            while found := await self._database.read(lambda connection: self._due(connection, kind)):  # noqa: B023
                for project, owner_id in found:
                    while deleted := await self._database.write(
                        lambda tx: _trim(tx, kind, project, owner_id),  # noqa: B023
                        long=True,
                    ):
                        count += deleted
                        await asyncio.sleep(_PAUSE_SECONDS)
        return count

    def _due(self, connection: Connection, kind: _Kind) -> list[tuple[str, str]]:
        """Projects and ids of some whose events are no longer kept."""
        logs, owners = kind.logs.c, kind.owners.c
        statement = (
            select(logs.project, logs[kind.owner])
            .join_from(kind.logs, kind.owners, owners.id == logs[kind.owner])
            .where(logs.ended, logs.trimmed_sequence < logs.last_sequence - 1, owners.create_time < now() - self._kept)
            .limit(_LOGS)
        )
        return [(project, owner_id) for project, owner_id in connection.execute(statement)]


def _trim(tx: Transaction, kind: _Kind, project: str, owner_id: str) -> int:
    """Delete the oldest events of a log, and note how far; how many that were."""
    logs, events = kind.logs.c, kind.events.c
    row = tx.connection.execute(
        select(logs.trimmed_sequence, logs.last_sequence).where(logs[kind.owner] == owner_id)
    ).one_or_none()
    if row is None or row.trimmed_sequence >= row.last_sequence - 1:
        return 0
    before: int = row.trimmed_sequence
    last: int = min(before + _BATCH, row.last_sequence - 1)
    chosen = (events[kind.owner] == owner_id, events.sequence <= last)
    if "position" in events:
        position = tx.connection.execute(select(func.max(events.position)).where(*chosen)).scalar_one()
        _raise_floor(tx.connection, project, position)
    tx.connection.execute(delete(kind.events).where(*chosen))
    tx.connection.execute(update(kind.logs).where(logs[kind.owner] == owner_id).values(trimmed_sequence=last))
    return last - before


def _raise_floor(connection: Connection, project: str, position: int) -> None:
    """Note up to where the feed of a project has gaps."""
    floors = tables.event_floors
    known = connection.execute(select(floors.c.position).where(floors.c.project == project)).scalar_one_or_none()
    if known is None:
        connection.execute(floors.insert().values(project=project, position=position))
    elif known < position:
        connection.execute(update(floors).where(floors.c.project == project).values(position=position))
