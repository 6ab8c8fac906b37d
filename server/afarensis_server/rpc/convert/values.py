"""What all converters share: times and enums."""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from ...validation import Reason, Violations

D = TypeVar("D", bound=StrEnum)
V = TypeVar("V", bound=int)
V_co = TypeVar("V_co", bound=int, covariant=True)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_SECONDS = 86_400
_NANOSECONDS = 1_000_000_000
#: What google.protobuf.Duration allows, about 10,000 years.
_MAX_DURATION_SECONDS = 315_576_000_000


class ProtoEnum(Protocol[V_co]):
    """A generated enum."""

    def Value(self, name: str) -> V_co: ...  # noqa: N802  # protobuf's name


def enum_numbers(generated: ProtoEnum[V], prefix: str, values: type[D]) -> dict[D, V]:
    """The number of each domain value, found by its name. Fails at import when the contract lacks one."""
    return {value: generated.Value(prefix + value.name) for value in values}


def inverse(numbers: Mapping[D, V]) -> dict[int, D]:
    return {number: value for value, number in numbers.items()}


def enum_value(
    number: int, values: Mapping[int, D], path: str, found: Violations, default: D | None = None
) -> D | None:
    """The domain value of an enum's number; 0 is ``default``."""
    if number in values:
        return values[number]
    if number != 0:
        found.add(path, Reason.INVALID_VALUE, f"Invalid '{path}': {number} is not a value of this enum.")
    return default


def timestamp_message(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    since = time - _EPOCH
    # As FromDatetime does, in a fifth of its time: every event has one.
    return Timestamp(seconds=since.days * _DAY_SECONDS + since.seconds, nanos=since.microseconds * 1_000)


def duration_message(seconds: float) -> Duration:
    """The duration of so many seconds, none of them negative."""
    # As FromNanoseconds does, in a third of its time.
    whole, nanos = divmod(round(seconds * _NANOSECONDS), _NANOSECONDS)
    return Duration(seconds=whole, nanos=nanos)


def seconds_value(duration: Duration, path: str, found: Violations) -> float:
    """The seconds of a duration, which a client may have filled with anything."""
    seconds, nanos = duration.seconds, duration.nanos
    if abs(seconds) > _MAX_DURATION_SECONDS or abs(nanos) >= _NANOSECONDS or seconds * nanos < 0:
        found.add(path, Reason.INVALID_VALUE, f"Invalid '{path}': not a valid duration.")
        return 0.0
    return seconds + nanos / _NANOSECONDS


def given(request: Message, name: str) -> Any:
    """The value of a scalar field, or None where it has presence and is not set."""
    field = request.DESCRIPTOR.fields_by_name[name]
    if field.has_presence and not request.HasField(name):
        return None
    return getattr(request, name)


def positive_seconds(
    duration: Duration, path: str, maximum: float, found: Violations, *, maximum_is: str = ""
) -> float:
    """The seconds of a duration that must be more than 0 and at most ``maximum``; ``maximum_is`` says what that is."""
    seconds = seconds_value(duration, path, found)
    if not 0 < seconds <= maximum:
        limit = f"{_shown(maximum)}{f', {maximum_is}' if maximum_is else ''}"
        text = f"Invalid '{path}': expected more than 0s and at most {limit}, but got {_shown(seconds)} instead."
        found.add(path, Reason.OUT_OF_RANGE_VALUE, text)
    return seconds


def _shown(seconds: float) -> str:
    """A duration as protobuf writes it in JSON: ``90s``, ``0.5s``."""
    return duration_message(seconds).ToJsonString()
