"""The feed of a project."""

from afarensis import v1 as pb

from ...events.feed import FeedEvent, FeedFilter, FeedStart
from ...validation import Violations
from .events import EVENT_TYPES, run_event_message
from .values import enum_numbers, enum_value, inverse

#: Ids of one kind that a filter may have.
_MAX_IDS = 100

_STARTS = inverse(enum_numbers(pb.EventStart, "EVENT_START_", FeedStart))
_TYPES = inverse(EVENT_TYPES)


def feed_start(number: "pb.EventStart.ValueType", found: Violations) -> FeedStart:
    """Where a feed begins; at the oldest event unless it is said."""
    return enum_value(number, _STARTS, "start", found, FeedStart.OLDEST) or FeedStart.OLDEST


def feed_filter(message: pb.EventFilter, found: Violations) -> FeedFilter:
    """Which events are wanted."""
    nested = found.under("filter")
    for field in ("thread_ids", "run_ids", "assistant_ids"):
        nested.count(field, tuple(getattr(message, field)), maximum=_MAX_IDS)
    types = [enum_value(number, _TYPES, f"filter.types[{index}]", found) for index, number in enumerate(message.types)]
    return FeedFilter(
        frozenset(message.thread_ids),
        frozenset(message.run_ids),
        frozenset(message.assistant_ids),
        frozenset(kind for kind in types if kind is not None),
    )


def project_event_message(event: FeedEvent) -> pb.ProjectEvent:
    return pb.ProjectEvent(
        cursor=event.cursor,
        thread_id=event.thread_id,
        run_id=event.event.run_id,
        assistant_id=event.assistant_id,
        run_event=run_event_message(event.event),
    )
