"""How values become columns and come back."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from afarensis_server.domain.executions import Representation
from afarensis_server.domain.tools import CodeInterpreterTool, FunctionTool, Tool
from afarensis_server.store.types import Codec, from_microseconds, microseconds


@pytest.mark.parametrize(
    "time",
    [
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2026, 8, 26, 12, 0, 0, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ],
)
def test_time_keeps_its_microseconds(time: datetime) -> None:
    assert from_microseconds(microseconds(time)) == time


def test_time_of_another_zone_is_the_same_moment() -> None:
    time = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert from_microseconds(microseconds(time)) == datetime(2026, 1, 1, 10, tzinfo=UTC)


def test_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="without a zone"):
        microseconds(datetime(2026, 1, 1))  # noqa: DTZ001  that is the point


def test_bytes_survive_json() -> None:
    codec: Codec[Representation] = Codec(Representation)
    every_byte = Representation("image/png", data=bytes(range(256)))
    assert codec.decode(codec.encode(every_byte)) == every_byte


def test_members_of_a_union_come_back_as_what_they_were() -> None:
    codec: Codec[tuple[Tool, ...]] = Codec(tuple[Tool, ...])
    tools = (CodeInterpreterTool(), FunctionTool("f", parameters_json='{"type": "object"}'))
    assert codec.decode(codec.encode(tools)) == tools


def test_json_of_a_newer_version_can_be_read() -> None:
    codec: Codec[Representation] = Codec(Representation)
    assert codec.decode('{"media_type": "text/plain", "color": "red"}') == Representation("text/plain")


def test_null_is_not_a_value() -> None:
    codec: Codec[Representation] = Codec(Representation)
    with pytest.raises(ValueError, match="absent column"):
        codec.decode("null")
