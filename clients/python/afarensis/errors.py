"""What a failed call raises."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import grpc
from google.protobuf.message import DecodeError

from afarensis._status import STATUS_METADATA_KEY, parse_details

# How gRPC's own messages begin when there is no connection at all.
_UNREACHABLE = ("failed to connect to all addresses", "DNS resolution failed")


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that the server refused."""

    #: The path of the field in the request, like ``metadata`` or ``tools[2].function.name``.
    field: str
    #: What is wrong with it.
    description: str


class Error(Exception):
    """A call that failed, with everything the server said about it.

    Compare ``reason`` (stable, like ``THREAD_HAS_ACTIVE_RUN``), not the text. The stubs list the reasons of each call.
    ``__cause__`` is the underlying ``grpc.RpcError`` where there is one.
    """

    #: The gRPC status.
    status: grpc.StatusCode
    #: The server's message, for people.
    message: str
    #: Why, in UPPER_SNAKE; empty when the failure did not come from the server, as when it cannot be reached.
    reason: str
    #: More about the reason, like the ``run_id`` that locks a thread.
    metadata: Mapping[str, str]
    #: The refused fields of an INVALID_ARGUMENT.
    violations: tuple[FieldViolation, ...]
    #: Seconds to wait before another try; None when the server did not say.
    retry_delay: float | None
    #: Whether no connection to the server could be made.
    is_unreachable: bool
    #: What to look for in the server's log after INTERNAL; empty otherwise.
    request_id: str

    def __init__(
        self,
        status: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: tuple[FieldViolation, ...] = (),
        retry_delay: float | None = None,
        request_id: str = "",
        is_unreachable: bool = False,
    ) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.reason = reason
        self.metadata = metadata or {}
        self.violations = violations
        self.retry_delay = retry_delay
        self.request_id = request_id
        self.is_unreachable = is_unreachable

    def __str__(self) -> str:
        text = f"{self.status.name}{f' {self.reason}' if self.reason else ''}: {self.message}"
        if self.violations:
            text += "".join(f"\n  {violation.field}: {violation.description}" for violation in self.violations)
        if self.request_id:
            text += f" (request {self.request_id})"
        return text

    @classmethod
    def from_rpc(cls, error: grpc.RpcError) -> Self:
        """Decode the error of a grpc call."""
        call: Any = error  # RpcError promises nothing; the errors that grpc raises are calls as well
        if not isinstance(call, grpc.Call):
            return cls(grpc.StatusCode.UNKNOWN, str(error))
        message = call.details() or ""
        if call.code() is grpc.StatusCode.UNAVAILABLE and message.startswith(_UNREACHABLE):
            told = f"{message}\nIs the server running? `make serve` starts one."
            return cls(call.code(), told, is_unreachable=True)
        made = cls(call.code(), message)
        for key, value in call.trailing_metadata() or ():
            if key == STATUS_METADATA_KEY and isinstance(value, bytes):
                made._add_details(value)
        return made

    def _add_details(self, status: bytes) -> None:
        try:
            details = dict(parse_details(status))
        except DecodeError:
            # The code and the message stand by themselves: details that cannot be read must not hide them.
            return
        if info := details.get("ErrorInfo"):
            self.reason = info.reason
            self.metadata = {pair.key: pair.value for pair in info.metadata}
        if bad_request := details.get("BadRequest"):
            self.violations = tuple(FieldViolation(v.field, v.description) for v in bad_request.field_violations)
        if retry := details.get("RetryInfo"):
            self.retry_delay = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        if request := details.get("RequestInfo"):
            self.request_id = request.request_id
