"""What the requests of all streams have in common."""

from typing import Protocol

from google.protobuf.duration_pb2 import Duration

from ...validation import Violations
from ..convert.values import seconds_value

_DEFAULT_HEARTBEAT_SECONDS = 15.0
_MIN_HEARTBEAT_SECONDS = 1.0
_MAX_HEARTBEAT_SECONDS = 60.0


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
