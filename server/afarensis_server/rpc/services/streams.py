"""What the requests of all streams have in common."""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from ...validation import Violations
from ..convert.values import seconds_value
from ..pages import RESPONSE_BYTES, check_page_size

_DEFAULT_HEARTBEAT_SECONDS = 15.0
_MIN_HEARTBEAT_SECONDS = 1.0
_MAX_HEARTBEAT_SECONDS = 60.0
DEFAULT_EVENTS = 100
MAX_EVENTS = 1_000

T = TypeVar("T")
M = TypeVar("M", bound=Message)


class StreamRequest(Protocol):
    """A request that says how often it wants to hear from the server."""

    @property
    def heartbeat_interval(self) -> Duration: ...


def heartbeat_seconds(request: StreamRequest) -> float:
    """The interval that a stream asks for, clamped."""
    interval = request.heartbeat_interval
    if not interval.ListFields():
        return _DEFAULT_HEARTBEAT_SECONDS
    found = Violations()
    seconds = seconds_value(interval, "heartbeat_interval", found)
    found.check()
    return min(max(seconds, _MIN_HEARTBEAT_SECONDS), _MAX_HEARTBEAT_SECONDS)


def check_cursor(after_sequence: int) -> None:
    found = Violations()
    found.number("after_sequence", after_sequence, minimum=0)
    found.check()


def check_list(after_sequence: int, page_size: int) -> int:
    """The number of events that a request for a list of them asks for."""
    found = Violations()
    found.number("after_sequence", after_sequence, minimum=0)
    check_page_size(page_size, MAX_EVENTS, found)
    found.check()
    return page_size or DEFAULT_EVENTS


def bounded(events: Iterable[T], message: Callable[[T], M]) -> list[M]:
    """The messages of as many events as a response holds, and of one at least."""
    messages: list[M] = []
    size = 0
    for event in events:
        made = message(event)
        size += made.ByteSize()
        if messages and size > RESPONSE_BYTES:
            break
        messages.append(made)
    return messages
