"""Reads the rich error model (google.rpc.Status and its details) without depending on googleapis-common-protos.

The few messages are declared here in a descriptor pool of their own, so they never collide with a package that
registers the real ones; fields that we do not read are left out, as protobuf allows.
"""

from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

#: The metadata entry in which gRPC carries a serialized google.rpc.Status.
STATUS_METADATA_KEY = "grpc-status-details-bin"

_Field = descriptor_pb2.FieldDescriptorProto
_STRING, _BYTES, _INT32, _INT64 = _Field.TYPE_STRING, _Field.TYPE_BYTES, _Field.TYPE_INT32, _Field.TYPE_INT64

# Message: field: (number, type or message name, repeated). Sources: google/rpc/{status,error_details}.proto,
# google/protobuf/{any,duration}.proto.
_MESSAGES: dict[str, dict[str, tuple[int, int | str, bool]]] = {
    "Status": {"code": (1, _INT32, False), "message": (2, _STRING, False), "details": (3, "Any", True)},
    "Any": {"type_url": (1, _STRING, False), "value": (2, _BYTES, False)},
    "ErrorInfo": {"reason": (1, _STRING, False), "domain": (2, _STRING, False), "metadata": (3, "Pair", True)},
    # How a map<string, string> looks on the wire.
    "Pair": {"key": (1, _STRING, False), "value": (2, _STRING, False)},
    "BadRequest": {"field_violations": (1, "FieldViolation", True)},
    "FieldViolation": {"field": (1, _STRING, False), "description": (2, _STRING, False)},
    "RetryInfo": {"retry_delay": (1, "Duration", False)},
    "Duration": {"seconds": (1, _INT64, False), "nanos": (2, _INT32, False)},
    "RequestInfo": {"request_id": (1, _STRING, False)},
}


def _declare() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="afarensis/status.proto", package="afarensis.status", syntax="proto3"
    )
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for field_name, (number, kind, repeated) in fields.items():
            field = message.field.add(name=field_name, number=number)
            field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            if isinstance(kind, str):
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".afarensis.status.{kind}"
            else:
                field.type = _Field.Type.ValueType(kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"afarensis.status.{name}"))
        for name in _MESSAGES
    }


_CLASSES = _declare()


def parse_details(status: bytes) -> Iterator[tuple[str, Any]]:
    """The details of a serialized google.rpc.Status that are known here, as (message name, message).

    Raises google.protobuf.message.DecodeError when the bytes are not what they should be.
    """
    for detail in _CLASSES["Status"].FromString(status).details:
        name = detail.type_url.rpartition("/google.rpc.")[2]
        if name in _CLASSES:
            yield name, _CLASSES[name].FromString(detail.value)
