"""The one table from domain errors to gRPC statuses, and the details that go with each (google.rpc.*)."""

from collections.abc import Mapping
from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status

from ..errors import (
    AlreadyExists,
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)

#: The domain of every ErrorInfo.
DOMAIN = "afarensis.dev"
#: The trailer in which gRPC carries a serialized google.rpc.Status.
STATUS_TRAILER = "grpc-status-details-bin"

_CODES: Mapping[type[DomainError], grpc.StatusCode] = {
    NotFound: grpc.StatusCode.NOT_FOUND,
    InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    OutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
}

# Clients refuse trailers of more than 8 KiB altogether, and then see no status at all. What requests can make long is
# therefore cut: the message goes out twice, once percent-encoded, and the details in base64.
_MESSAGE_BYTES = 1_500
_METADATA_CHARACTERS = 200
_DETAILS_BYTES = 3_000


@dataclass(frozen=True, slots=True)
class RpcFailure:
    """What a failed call answers."""

    code: grpc.StatusCode
    message: str
    details: tuple[Message, ...]

    def status(self) -> Status:
        # `StatusCode.value` is the pair (number, name).
        status = Status(code=self.code.value[0], message=self.message)
        for detail in self.details:
            packed = AnyMessage()
            packed.Pack(detail)
            status.details.append(packed)
        return status

    def trailers(self) -> tuple[tuple[str, bytes], ...]:
        return ((STATUS_TRAILER, self.status().SerializeToString()),)


def failure_of(error: DomainError) -> RpcFailure:
    """The status of a domain error."""
    code = next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)
    details: list[Message] = [_error_info(error)]
    if isinstance(error, InvalidArgument) and error.violations:
        details.append(_bad_request(error))
    if isinstance(error, ResourceExhausted | Unavailable) and error.retry_seconds is not None:
        retry = RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_seconds * 1e9))
        details.append(retry)
    return RpcFailure(code, _shorten(str(error)), tuple(details))


def internal_failure(request_id: str) -> RpcFailure:
    """The status of a defect: nothing about it but the id under which the log has the rest."""
    return RpcFailure(
        grpc.StatusCode.INTERNAL,
        f"Something went wrong in the server. Its log has the details under the request id {request_id}.",
        (ErrorInfo(reason="INTERNAL", domain=DOMAIN), RequestInfo(request_id=request_id)),
    )


def knows(error: DomainError) -> bool:
    """Whether the table has a status for the error."""
    return any(kind in _CODES for kind in type(error).__mro__)


def _error_info(error: DomainError) -> ErrorInfo:
    metadata = {name: _shorten(value, _METADATA_CHARACTERS) for name, value in error.metadata.items()}
    return ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)


def _bad_request(error: InvalidArgument) -> BadRequest:
    detail = BadRequest()
    for violation in error.violations:
        added = detail.field_violations.add(
            field=_shorten(violation.field, _METADATA_CHARACTERS),
            reason=violation.reason,
            description=_shorten(violation.description),
        )
        if detail.ByteSize() > _DETAILS_BYTES:
            detail.field_violations.remove(added)
            left_out = len(error.violations) - len(detail.field_violations)
            detail.field_violations.add(
                field="", reason="MORE_VIOLATIONS", description=f"{left_out} more violations are not listed."
            )
            break
    return detail


def _shorten(text: str, limit: int = _MESSAGE_BYTES) -> str:
    """The text, or as much of its beginning as fits in ``limit`` bytes once it is percent-encoded."""
    size = 0
    for index, character in enumerate(text):
        size += 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode())
        if size > limit:
            return text[:index] + "..."
    return text
