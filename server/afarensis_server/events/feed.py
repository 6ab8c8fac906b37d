"""Everything that happens in a project as one feed: the events of all its runs, in the order of their commits.

The position of an event is taken in the transaction that stores it, and transactions follow one another, so positions
become visible in their order: who has read up to one has missed none before it. As with the log of a run, a reader
holds nothing but a cursor, and reads on when something was appended.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, bindparam, func, select

from ..domain.events import EventType, RunEvent
from ..errors import CursorInvalid, FeedTrimmed, PageTokenInvalid, ShuttingDown
from ..store import tables
from ..store.database import Database
from ..store.pages import Seal
from .kinds import RunLog
from .tail import within

#: Events that are looked at in one unit of reading, fit the filter or not; those of them that are read; their bytes.
_LOOK_LIMIT = 1_000
_READ_LIMIT = 100
_READ_BYTES = 256 * 1024
#: Units of reading for one page: where hardly anything fits, it comes back short.
_LOOKS = 50


class FeedStart(StrEnum):
    """Where a feed begins without a cursor."""

    OLDEST = "oldest"
    NEWEST = "newest"


@dataclass(frozen=True, slots=True)
class FeedFilter:
    """Which events: those that fit all of it. An empty field is none."""

    thread_ids: frozenset[str] = frozenset()
    run_ids: frozenset[str] = frozenset()
    assistant_ids: frozenset[str] = frozenset()
    types: frozenset[EventType] = frozenset()

    def fits(self, place: "_Place") -> bool:
        return (
            (not self.thread_ids or place.thread_id in self.thread_ids)
            and (not self.run_ids or place.run_id in self.run_ids)
            and (not self.assistant_ids or place.assistant_id in self.assistant_ids)
            and (not self.types or place.type in self.types)
        )


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """An event with its place in the feed."""

    cursor: str
    thread_id: str
    assistant_id: str
    event: RunEvent


@dataclass(frozen=True, slots=True)
class FeedPage:
    """Some events, and the cursor behind them and behind what the filter left out."""

    events: list[FeedEvent]
    cursor: str


@dataclass(frozen=True, slots=True)
class _Place:
    position: int
    type: EventType
    run_id: str
    thread_id: str
    assistant_id: str


@dataclass(frozen=True, slots=True)
class _Batch:
    page: FeedPage
    position: int
    #: Whether the feed ended there when it was read.
    is_last: bool


class Feed:
    """The feeds of all projects."""

    def __init__(self, database: Database, log: RunLog) -> None:
        self._database = database
        self._log = log

    async def page(self, project: str, cursor: str, start: FeedStart, wanted: FeedFilter, limit: int) -> FeedPage:
        """The next events behind a cursor, at most this many. Raises CursorInvalid and FeedTrimmed."""
        position = await self._begin(project, cursor, start)
        found: list[FeedEvent] = []
        looks = 0
        while True:
            batch = await self._read(project, position, wanted, min(limit - len(found), _READ_LIMIT))
            found += batch.page.events
            position, looks = batch.position, looks + 1
            if batch.is_last or len(found) >= limit or looks == _LOOKS:
                return FeedPage(found, batch.page.cursor)

    async def follow(
        self, project: str, cursor: str, start: FeedStart, wanted: FeedFilter, heartbeat_seconds: float
    ) -> AsyncGenerator[FeedEvent | str, None]:
        """A heartbeat, then the events behind the cursor: those stored, and those to come. It has no end.

        Heartbeats are cursors. Another one comes whenever nothing else did for so long, and after events that were left
        out. Raises CursorInvalid, FeedTrimmed, and ShuttingDown once the log is drained.
        """
        position = await self._begin(project, cursor, start)
        yield await self._database.read(lambda connection: _seal(connection, project).make(str(position)))
        waiters = self._log.waiters(project)
        clock = asyncio.get_running_loop().time
        # Counted from the last item, and not from the last append: the filter may leave out whatever is appended.
        due = clock() + heartbeat_seconds
        while True:
            # Both before reading: an append in between is not missed then, nor one before the drain.
            draining = self._log.draining
            with waiters.listening() as appended:
                batch = await self._read(project, position, wanted, _READ_LIMIT)
                for event in batch.page.events:
                    yield event
                    due = clock() + heartbeat_seconds
                passed = batch.position > position and not batch.page.events
                position = batch.position
                if clock() >= due or (passed and not batch.is_last):
                    yield batch.page.cursor
                    due = clock() + heartbeat_seconds
                if not batch.is_last:
                    continue
                if draining:
                    raise ShuttingDown
                await within(appended, due - clock())

    async def _begin(self, project: str, cursor: str, start: FeedStart) -> int:
        """The position to read on from."""

        def find(connection: Connection) -> int:
            if cursor:
                try:
                    return int(_seal(connection, project).open(cursor))
                except PageTokenInvalid as error:
                    raise CursorInvalid from error
            if start is FeedStart.NEWEST:
                return connection.execute(_NEWEST, {"tenant": project}).scalar_one() or 0
            return _floor(connection, project)

        return await self._database.read(find)

    async def _read(self, project: str, after: int, wanted: FeedFilter, limit: int) -> _Batch:
        """The events behind a position that fit, as far as one unit of reading gets."""

        def read(connection: Connection) -> _Batch:
            if after < _floor(connection, project):
                raise FeedTrimmed
            rows = connection.execute(_LOOK, {"tenant": project, "after": after, "most": _LOOK_LIMIT})
            places = [_Place(*row) for row in rows]
            fitting = [place for place in places if wanted.fits(place)]
            # Past all that was looked at, unless there are more that fit than are returned.
            position, is_last = places[-1].position if places else after, len(places) < _LOOK_LIMIT
            if len(fitting) > limit:
                del fitting[limit:]
                position, is_last = fitting[-1].position, False
            seal = _seal(connection, project)
            events = self._events(connection, fitting, seal)
            if len(events) < len(fitting):
                position, is_last = fitting[len(events) - 1].position, False
            return _Batch(FeedPage(events, seal.make(str(position))), position, is_last)

        return await self._database.read(read)

    def _events(self, connection: Connection, places: Sequence[_Place], seal: Seal) -> list[FeedEvent]:
        """The events at these places, as many as the limit on bytes allows, and one at least."""
        events: list[FeedEvent] = []
        size = 0
        if not places:
            return events
        with connection.execute(_WHOLE, {"positions": [place.position for place in places]}) as rows:
            for place, (sequence, time, event_type, payload) in zip(places, rows, strict=True):
                size += len(payload)
                if events and size > _READ_BYTES:
                    break
                event = self._log.event(place.run_id, sequence, time, event_type, payload)
                cursor = seal.make(str(place.position))
                events.append(FeedEvent(cursor, place.thread_id, place.assistant_id, event))
        return events


def _floor(connection: Connection, project: str) -> int:
    """The last position up to which events are no longer kept."""
    return connection.execute(_FLOOR, {"tenant": project}).scalar_one_or_none() or 0


def _seal(connection: Connection, project: str) -> Seal:
    return Seal(connection, ("feed", project))


_events, _runs = tables.events.c, tables.runs.c
_FLOOR = select(tables.event_floors.c.position).where(tables.event_floors.c.project == bindparam("tenant"))
_NEWEST = select(func.max(_events.position)).where(_events.project == bindparam("tenant"))
_LOOK = (
    select(_events.position, _events.type, _events.run_id, _runs.thread_id, _runs.assistant_id)
    .join_from(tables.events, tables.runs, _runs.id == _events.run_id)
    .where(_events.project == bindparam("tenant"), _events.position > bindparam("after"))
    .order_by(_events.position)
    .limit(bindparam("most"))
)
_WHOLE = (
    select(_events.sequence, _events.create_time, _events.type, _events.payload)
    .where(_events.position.in_(bindparam("positions", expanding=True)))
    .order_by(_events.position)
)
