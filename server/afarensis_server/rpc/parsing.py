"""Parses requests, and says what is wrong with bytes that cannot be parsed.

The generated parser refuses strings that are not UTF-8, as proto3 demands, but does not say which field holds them, and
gRPC would answer with UNKNOWN. Hence the interceptor hands over raw bytes, and they are parsed here.
"""

from collections import Counter
from typing import TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.unknown_fields import UnknownFieldSet

from ..errors import FieldViolation, InvalidFields, RequestMalformed
from ..validation import Reason

M = TypeVar("M", bound=Message)

_LENGTH_DELIMITED = 2


def parse(kind: type[M], raw: bytes) -> M:
    """The request in ``raw``. Raises InvalidFields where a string is not UTF-8, else RequestMalformed."""
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        # The walk below reads the bytes as a message without known fields, which checks nothing but their framing.
        bad = _fields_not_utf8(kind, raw, "")
        if bad:
            raise InvalidFields([_violation(path) for path in bad]) from error
        raise RequestMalformed(
            message=kind.DESCRIPTOR.full_name, problem="Its bytes break off, or are not protobuf."
        ) from error


def _violation(path: str) -> FieldViolation:
    return FieldViolation(path, Reason.INVALID_CHARACTER, f"Invalid '{path}': the text is not valid UTF-8.")


def _fields_not_utf8(kind: type[Message], raw: bytes, prefix: str) -> list[str]:
    try:
        unknowns = UnknownFieldSet(Empty.FromString(raw))
    except DecodeError:
        return []
    found: list[str] = []
    seen: Counter[int] = Counter()
    for position in range(len(unknowns)):
        unknown = unknowns[position]
        field = kind.DESCRIPTOR.fields_by_number.get(unknown.field_number)
        if field is None or unknown.wire_type != _LENGTH_DELIMITED:
            continue
        path = f"{prefix}{field.name}[{seen[field.number]}]" if field.is_repeated else prefix + field.name
        seen[field.number] += 1
        if field.message_type is not None:
            nested = GetMessageClass(field.message_type)  # type: ignore[arg-type]  # either implementation's descriptor
            found += _fields_not_utf8(nested, unknown.data, path + ".")
        elif field.type == field.TYPE_STRING and not _is_utf8(unknown.data):
            found.append(path)
    return found


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
