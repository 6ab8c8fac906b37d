"""How values become columns: times as integer microseconds, enumerations as their text, nested values as JSON."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Generic, TypeVar

from pydantic import ConfigDict, TypeAdapter
from sqlalchemy import BigInteger, Dialect, Text
from sqlalchemy.types import TypeDecorator

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(time: datetime) -> int:
    """Microseconds since 1970. A time without a zone is refused: it would mean something else on each machine."""
    if time.tzinfo is None:
        raise ValueError("a time without a zone cannot be stored")
    return (time - _EPOCH) // _MICROSECOND


def from_microseconds(value: int) -> datetime:
    return _EPOCH + timedelta(microseconds=value)


class UtcTime(TypeDecorator[datetime]):
    """An aware datetime as microseconds since 1970: exact, sortable, and the same in every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else microseconds(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        return None if value is None else from_microseconds(value)


class Choice(TypeDecorator[StrEnum]):
    """A member of an enumeration as its text."""

    impl = Text
    cache_ok = True

    def __init__(self, members: type[StrEnum]) -> None:
        super().__init__()
        self.members = members

    def process_bind_param(self, value: StrEnum | None, dialect: Dialect) -> str | None:
        return None if value is None else str(value if type(value) is self.members else self.members(value))

    def process_result_value(self, value: Any | None, dialect: Dialect) -> StrEnum | None:
        return None if value is None else self.members(value)


class Codec(Generic[T]):
    """A value as JSON text and back. Bytes are base64 in it; unknown fields are left out when reading."""

    def __init__(self, value_type: Any) -> None:
        # As a member of a union, since pydantic takes a configuration only for types that cannot have one themselves.
        adapter: TypeAdapter[T | None] = TypeAdapter(
            value_type | None, config=ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
        )
        self._serializer, self._validator = adapter.serializer, adapter.validator

    def encode(self, value: T) -> str:
        return self._serializer.to_json(value).decode()

    def decode(self, text: str) -> T:
        value: T | None = self._validator.validate_json(text)
        if value is None:
            raise ValueError("null is stored as an absent column, never as JSON")
        return value


class Json(TypeDecorator[Any]):
    """A nested value of the given type as JSON text; None is NULL."""

    impl = Text
    cache_ok = True

    def __init__(self, value_type: Any) -> None:
        super().__init__()
        self.value_type = value_type
        self._codec: Codec[Any] = Codec(value_type)

    def process_bind_param(self, value: Any | None, dialect: Dialect) -> str | None:
        return None if value is None else self._codec.encode(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> Any | None:
        return None if value is None else self._codec.decode(value)
