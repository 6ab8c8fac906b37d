"""The one table from domain errors to HTTP statuses, and the envelope they come in."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import (
    AlreadyExists,
    DomainError,
    FailedPrecondition,
    FileTooLarge,
    InvalidArgument,
    InvalidFields,
    NotFound,
    OutOfRange,
    ResourceExhausted,
    StorageFull,
    Unavailable,
    Unimplemented,
)
from ..validation import Reason, Violations
from .names import Names, named

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"
RATE_LIMIT = "rate_limit_error"

#: Violations that a message tells of: as many as anyone reads at once.
_MOST_TOLD = 20
#: A kind of error, its status, and its type in the envelope. The first that fits counts.
_KINDS: tuple[tuple[type[DomainError], int, str], ...] = (
    (NotFound, 404, INVALID_REQUEST),
    (InvalidArgument, 400, INVALID_REQUEST),
    (FailedPrecondition, 400, INVALID_REQUEST),
    (AlreadyExists, 409, INVALID_REQUEST),
    (OutOfRange, 400, INVALID_REQUEST),
    (FileTooLarge, 413, INVALID_REQUEST),
    (StorageFull, 503, SERVER_ERROR),
    (ResourceExhausted, 429, RATE_LIMIT),
    (Unavailable, 503, SERVER_ERROR),
    (Unimplemented, 501, INVALID_REQUEST),
)
#: What the Assistants API called what is wrong with a field.
_CODES: Mapping[str, str] = {
    Reason.REQUIRED: "missing_required_parameter",
    Reason.STRING_TOO_LONG: "string_above_max_length",
    Reason.TOO_MANY_ITEMS: "array_above_max_length",
    Reason.INVALID_TYPE: "invalid_type",
    Reason.UNKNOWN: "unknown_parameter",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """What a call that failed answers."""

    status: int
    message: str
    type: str = INVALID_REQUEST
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def envelope(self) -> dict[str, object]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class Refused(Exception):
    """A request that is refused before any noun hears of it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Found(Violations):
    """Collects what is wrong with a request, in the words of this wire, before any noun hears of it."""

    def check(self) -> None:
        """Raise Refused if there is any violation."""
        try:
            super().check()
        except InvalidFields as error:
            raise Refused(failure_of(error)) from error


def failure_of(error: DomainError, names: Names = ()) -> Failure:
    """The answer of a domain error; ``names``: what its fields are called here."""
    status, kind = next(
        ((status, name) for base, status, name in _KINDS if isinstance(error, base)), (500, SERVER_ERROR)
    )
    headers: dict[str, str] = {"x-afarensis-reason": error.reason}
    if isinstance(error, ResourceExhausted | Unavailable) and error.retry_seconds is not None:
        headers["retry-after"] = str(max(1, round(error.retry_seconds)))
    if isinstance(error, InvalidArgument) and error.violations:
        told = [named(violation, names) for violation in error.violations[:_MOST_TOLD]]
        text = " ".join(violation.description for violation in told)
        if more := len(error.violations) - len(told):
            text += f" And {more} more."
        code = _CODES.get(told[0].reason, "invalid_value")
        return Failure(status, text, kind, told[0].field or None, code, headers)
    return Failure(status, str(error), kind, headers=headers)


def internal_failure(request_id: str) -> Failure:
    """The answer of a defect: nothing about it but the id under which the log has the rest."""
    text = f"Something went wrong in the server. Its log has the details under the request id {request_id}."
    return Failure(500, text, SERVER_ERROR)
