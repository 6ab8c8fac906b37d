"""Reads what a failed call says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status


@dataclass(frozen=True, slots=True)
class Refusal:
    """Everything that the status of a failed call carries."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    #: Field, reason and description of each violation.
    violations: tuple[tuple[str, str, str], ...] = ()
    retry_seconds: float | None = None
    request_id: str = ""
    trailers: Mapping[str, str | bytes] = field(default_factory=dict)

    @property
    def fields(self) -> list[str]:
        """The fields that are violated."""
        return [name for name, _, _ in self.violations]


def refusal_of(error: grpc.RpcError) -> Refusal:
    # What a channel raises is the error and the call in one, which the stubs of grpc cannot say.
    call: Any = error
    trailers: dict[str, Any] = {str(name): value for name, value in call.trailing_metadata() or ()}
    status = Status.FromString(trailers.get("grpc-status-details-bin", b""))
    found: dict[str, Any] = {}
    for detail in status.details:
        match detail.TypeName():
            case "google.rpc.ErrorInfo":
                info = ErrorInfo.FromString(detail.value)
                assert info.domain == "afarensis.dev"
                found |= {"reason": info.reason, "metadata": dict(info.metadata)}
            case "google.rpc.BadRequest":
                violations = BadRequest.FromString(detail.value).field_violations
                found["violations"] = tuple((item.field, item.reason, item.description) for item in violations)
            case "google.rpc.RetryInfo":
                delay = RetryInfo.FromString(detail.value).retry_delay
                found["retry_seconds"] = delay.ToTimedelta().total_seconds()
            case "google.rpc.RequestInfo":
                found["request_id"] = RequestInfo.FromString(detail.value).request_id
    return Refusal(call.code(), call.details() or "", trailers=trailers, **found)


def refused(call: Callable[[], object]) -> Refusal:
    """Make a call that must fail. A streaming call is read to its end."""
    with pytest.raises(grpc.RpcError) as raised:
        _to_the_end(call())
    return refusal_of(raised.value)


def _to_the_end(response: Any) -> None:
    if hasattr(response, "__next__"):
        for _ in response:
            pass
