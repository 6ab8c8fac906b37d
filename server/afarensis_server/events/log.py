"""The log of a run's or an execution's events: stored before anyone sees them, read by cursor, gapless from 1.

There is no queue per reader. A reader holds the sequence of the last event it handled, reads the log to its end, and
waits for the next append; it may come late, drop and come back, without anybody keeping anything for it.

Where somebody follows a log, or writes it, the server remembers the newest events of it, a bounded few for all readers
together, so that what was just stored is not read from the table again.
"""

import weakref
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Table, bindparam, select

from ..clock import now
from ..errors import EventsTrimmed, NotFound, ShuttingDown
from ..store.database import Database, Transaction
from ..store.prepared import Prepared
from .tail import FEW_LOGS, LOGS_WITH_MOST, E, LogState, Tail, Waiters, within

#: Events that a reader takes from the table at a time, and bytes of them: what a slow reader costs in memory.
_READ_LIMIT = 100
_READ_BYTES = 256 * 1024
#: Events that a reader takes from memory at a time, and keeps there while its client takes them.
_TAKE_LIMIT = 32
#: Seconds between two commits of one log, for each log that is followed or written beyond the first few; at most.
_PACE = 0.0004
_UNPACED = 10
_MOST_PACE = 0.06
#: Bytes of the events of one page.
_PAGE_BYTES = 4 * 1024 * 1024


D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class EventKind(Generic[D, E]):
    """What the logs of one noun hold, and where: ``D`` is an event before it has its place, ``E`` one that has."""

    #: The counter of each log, and the events of all.
    logs: Table
    events: Table
    #: The column of both that says whose log it is.
    owner: str
    #: An event as stored: its type, and its payload as JSON.
    encode: Callable[[D], tuple[StrEnum, str]]
    decode: Callable[[StrEnum, str], D]
    #: The event of an owner at a sequence.
    place: Callable[[str, int, datetime, D], E]
    #: What nothing can follow.
    ends: frozenset[StrEnum]
    #: Raised, with the owner's id, when there is no such log.
    not_found: type[NotFound]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing new: the log ends at ``last_sequence`` (0: it is empty)."""

    last_sequence: int
    #: Nothing will follow: the event ``last_sequence`` is the one that ended the log.
    is_last: bool = False


class LogEnded(Exception):
    """An event was to follow the one that ended the log."""

    def __init__(self, owner_id: str) -> None:
        super().__init__(f"nothing can follow the event that ended {owner_id}")


@dataclass(frozen=True, slots=True)
class LogPage(Generic[E]):
    """Some events of a log, and how far it had come when they were read."""

    events: list[E]
    last_sequence: int
    #: Whether the event ``last_sequence`` is the one that ended the log.
    ended: bool
    #: The last event that is no longer kept; 0 when all are.
    trimmed_sequence: int


class EventLog(Generic[D, E]):
    """The logs of all runs, or of all executions. It belongs to the database's event loop."""

    def __init__(self, database: Database, kind: EventKind[D, E]) -> None:
        self._database = database
        self._kind = kind
        self._statements = _Statements(kind)
        self._tails: weakref.WeakValueDictionary[tuple[str, str], Tail[E]] = weakref.WeakValueDictionary()
        self._projects: weakref.WeakValueDictionary[str, Waiters] = weakref.WeakValueDictionary()
        self._draining = False

    def append(
        self, tx: Transaction, project: str, owner_id: str, drafts: Sequence[D], *, opening: bool = False
    ) -> list[E]:
        """Append events within a unit of work, and wake the log's readers once it is committed.

        The log must exist, unless this is its ``opening``. Raises NotFound when the owner is gone, and LogEnded after
        an event that ends the log.
        """
        if not drafts:
            return []
        kind = self._kind
        encoded = []
        ends = False
        for draft in drafts:
            if ends:
                raise LogEnded(owner_id)
            event_type, payload = kind.encode(draft)
            encoded.append((event_type, payload))
            ends = event_type in kind.ends
        if opening:
            self._statements.open.run(
                tx.connection,
                {kind.owner: owner_id, "project": project, "last_sequence": len(drafts), "ended": ends},
            )
            sequence = 0
        else:
            sequence = self._take(tx.connection, project, owner_id, len(drafts), ends)
        time = now()
        rows, stored, sizes = [], [], []
        for draft, (event_type, payload) in zip(drafts, encoded, strict=True):
            sequence += 1
            rows.append(
                {
                    "project": project,
                    kind.owner: owner_id,
                    "sequence": sequence,
                    "create_time": time,
                    "type": event_type,
                    "payload": payload,
                }
            )
            stored.append(kind.place(owner_id, sequence, time, draft))
            sizes.append(len(payload))
        self._statements.insert.run_many(tx.connection, rows)
        tx.after_commit(partial(self._appended, (project, owner_id), stored, sizes, ends))
        return stored

    async def page(self, project: str, owner_id: str, after_sequence: int, limit: int) -> LogPage[E]:
        """The next events behind a cursor, at most this many. Raises NotFound, CursorPastEnd and EventsTrimmed."""

        def read(connection: Connection) -> LogPage[E]:
            # The state first: what is appended between the two may be among the events, but is never missing.
            state = self._state(connection, project, owner_id)
            state.check(after_sequence)
            events, _ = self._read(connection, project, owner_id, after_sequence, limit, _PAGE_BYTES)
            return LogPage(events, state.last_sequence, state.ended, state.trimmed_sequence)

        return await self._database.read(read)

    async def read_all(self, project: str, owner_id: str) -> list[E]:
        return (await self._database.read(lambda connection: self._read(connection, project, owner_id)))[0]

    async def last_sequence(self, project: str, owner_id: str) -> int:
        """The sequence of the last event, 0 before the first. Raises NotFound."""
        return (await self._database.read(lambda connection: self._state(connection, project, owner_id))).last_sequence

    def tail(self, project: str, owner_id: str) -> Tail[E]:
        """The log's newest events, remembered from now on for as long as this is held."""
        key = (project, owner_id)
        tail = self._tails.get(key)
        if tail is None:
            tail = self._tails[key] = Tail()
            # What others remember was theirs while they were fewer.
            if LOGS_WITH_MOST < len(self._tails) <= FEW_LOGS:
                for other in list(self._tails.values()):
                    other.share(len(self._tails))
        return tail

    async def follow(
        self, project: str, owner_id: str, after_sequence: int, heartbeat_seconds: float, *, greets: bool = True
    ) -> AsyncGenerator[E | Heartbeat, None]:
        """A heartbeat, then the events behind the cursor: those stored, those to come, until the one that ends the log.

        Another heartbeat comes whenever nothing else did for so long; the first, unless it ``greets``, only then.
        Raises NotFound (also when the owner is deleted meanwhile), CursorPastEnd, EventsTrimmed, and ShuttingDown once
        `drain` is called.
        """
        cursor = after_sequence
        tail = self.tail(project, owner_id)
        state = tail.state
        if state is None or cursor > state.last_sequence:
            state = await self._database.read(lambda connection: self._state(connection, project, owner_id))
        state.check(cursor)
        is_over = state.ended and cursor == state.last_sequence
        if greets or is_over:
            yield Heartbeat(state.last_sequence, is_over)
        if is_over:
            return
        # What was woken here, was appended here. After a silence the table is asked: others may append, too.
        woken, is_heard = False, True
        while True:
            # Both before reading: an append in between is not missed then, nor one before the drain.
            draining = self._draining
            with tail.waiters.listening() as appended:
                known = tail.after(cursor, _TAKE_LIMIT) if is_heard else None
                events, has_more = (
                    (known, len(known) == _TAKE_LIMIT)
                    if known is not None
                    else await self._read_some(project, owner_id, cursor)
                )
                if events and events[0].sequence != cursor + 1:
                    raise EventsTrimmed(oldest_sequence=events[0].sequence)  # while this reader read what was before
                for event in events:
                    yield event
                    cursor = event.sequence
                    if event.type in self._kind.ends:
                        return
                if has_more:
                    woken = woken or appended.done()
                    continue
                if woken and known is None and not events:
                    await self.last_sequence(project, owner_id)  # raises when the owner was deleted
                if draining:
                    raise ShuttingDown
                woken = is_heard = await within(appended, heartbeat_seconds)
            if not woken:
                yield Heartbeat(await self.last_sequence(project, owner_id))

    def waiters(self, project: str) -> Waiters:
        """Woken by whatever is appended in a project, and by `drain`, for as long as this is held."""
        waiters = self._projects.get(project)
        if waiters is None:
            waiters = self._projects[project] = Waiters()
        return waiters

    @property
    def pace(self) -> float:
        """Seconds between two commits of what goes on in one log, when many go on at a time.

        Each commit, and each event in it, takes the server's time, however little it holds. For a few logs it is none.
        """
        return min(_MOST_PACE, _PACE * max(0, len(self._tails) - _UNPACED))

    @property
    def draining(self) -> bool:
        """Whether readers are let go."""
        return self._draining

    def drain(self) -> None:
        """Let every reader go, those to come as well: they raise ShuttingDown where they would wait."""
        self._draining = True
        for tail in list(self._tails.values()):
            tail.waiters.wake()
        for waiters in list(self._projects.values()):
            waiters.wake()

    def deleted(self, project: str, owner_id: str) -> None:
        """Let the readers of a log learn that its owner was deleted."""
        if (tail := self._tails.get((project, owner_id))) is not None:
            tail.forget()
            tail.waiters.wake()

    def _appended(self, key: tuple[str, str], events: Sequence[E], sizes: Sequence[int], ended: bool) -> None:
        if (tail := self._tails.get(key)) is not None:
            tail.add(events, sizes, ended, len(self._tails))
            tail.waiters.wake()
        if (waiters := self._projects.get(key[0])) is not None:
            waiters.wake()

    def _take(self, connection: Connection, project: str, owner_id: str, count: int, ends: bool) -> int:
        """Take the next sequences of a log; the last that was taken before."""
        taken = self._statements.take.run(
            connection, {"owner_id": owner_id, "tenant": project, "count": count, "ends": ends}
        ).fetchone()
        if taken is None:
            self._state(connection, project, owner_id)
            raise LogEnded(owner_id)
        last: int = taken[0]
        return last - count

    def _state(self, connection: Connection, project: str, owner_id: str) -> LogState:
        row = connection.execute(self._statements.state, {"owner_id": owner_id, "tenant": project}).one_or_none()
        if row is None:
            raise self._kind.not_found(id=owner_id)
        return LogState(row.last_sequence, row.ended, row.trimmed_sequence)

    async def _read_some(self, project: str, owner_id: str, after: int) -> tuple[list[E], bool]:
        return await self._database.read(
            lambda connection: self._read(connection, project, owner_id, after, _READ_LIMIT, _READ_BYTES)
        )

    def _read(
        self,
        connection: Connection,
        project: str,
        owner_id: str,
        after: int = 0,
        limit: int | None = None,
        most_bytes: int | None = None,
    ) -> tuple[list[E], bool]:
        """Events behind a cursor, as many as the limits allow and one at least; whether there may be more."""
        parameters = {"owner_id": owner_id, "tenant": project, "after": after}
        if limit is None:
            result = connection.execute(self._statements.all, parameters)
        else:
            result = connection.execute(self._statements.some, {**parameters, "most": limit})
        events: list[E] = []
        size = 0
        with result as rows:
            for sequence, time, event_type, payload in rows:
                size += len(payload)
                if events and most_bytes is not None and size > most_bytes:
                    return events, True
                events.append(self.event(owner_id, sequence, time, event_type, payload))
        return events, len(events) == limit

    def event(self, owner_id: str, sequence: int, time: datetime, event_type: StrEnum, payload: str) -> E:
        """A stored event from its columns."""
        return self._kind.place(owner_id, sequence, time, self._kind.decode(event_type, payload))


class _Statements:
    """The statements of one kind, built once: building one costs more than running it."""

    def __init__(self, kind: EventKind[Any, Any]) -> None:
        logs, events = kind.logs.c, kind.events.c
        is_log = (logs[kind.owner] == bindparam("owner_id"), logs.project == bindparam("tenant"))
        self.open = Prepared(kind.logs.insert(), (kind.owner, "project", "last_sequence", "ended"))
        self.take = Prepared(
            kind.logs.update()
            .where(*is_log, logs.ended.is_(False))
            .values(last_sequence=logs.last_sequence + bindparam("count"), ended=bindparam("ends"))
            .returning(logs.last_sequence)
        )
        self.insert = Prepared(
            kind.events.insert(), ("project", kind.owner, "sequence", "create_time", "type", "payload")
        )
        self.state = select(logs.last_sequence, logs.ended, logs.trimmed_sequence).where(*is_log)
        self.all = (
            select(events.sequence, events.create_time, events.type, events.payload)
            .where(
                events[kind.owner] == bindparam("owner_id"),
                events.project == bindparam("tenant"),
                events.sequence > bindparam("after"),
            )
            .order_by(events.sequence)
        )
        self.some = self.all.limit(bindparam("most"))
