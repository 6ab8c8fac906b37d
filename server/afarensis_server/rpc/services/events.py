"""EventService: everything that happens in a project as one feed."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from afarensis import v1 as pb

from ...events.feed import Feed
from ...validation import Violations
from ..context import project
from ..convert.feed import feed_filter, feed_start, project_event_message
from ..disconnects import Context
from ..pages import check_page_size
from .streams import DEFAULT_EVENTS, MAX_EVENTS, bounded, heartbeat_seconds


class EventServicer(pb.EventServiceServicer):
    """Gives everything that happens in a project as one feed."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    async def StreamEvents(
        self, request: pb.StreamEventsRequest, context: Context
    ) -> AsyncIterator[pb.StreamEventsResponse]:
        found = Violations()
        start, wanted = feed_start(request.start, found), feed_filter(request.filter, found)
        found.check()
        items = self._feed.follow(project(), request.after_cursor, start, wanted, heartbeat_seconds(request))
        async with aclosing(items):
            async for item in items:
                if isinstance(item, str):
                    yield pb.StreamEventsResponse(heartbeat=pb.FeedHeartbeat(cursor=item))
                else:
                    yield pb.StreamEventsResponse(event=project_event_message(item))

    async def ListEvents(self, request: pb.ListEventsRequest, context: Context) -> pb.ListEventsResponse:
        found = Violations()
        start, wanted = feed_start(request.start, found), feed_filter(request.filter, found)
        check_page_size(request.page_size, MAX_EVENTS, found)
        found.check()
        limit = request.page_size or DEFAULT_EVENTS
        page = await self._feed.page(project(), request.after_cursor, start, wanted, limit)
        events = bounded(page.events, project_event_message)
        cursor = page.cursor if len(events) == len(page.events) else events[-1].cursor
        return pb.ListEventsResponse(events=events, next_cursor=cursor)
