from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo

from afarensis_server import errors
from afarensis_server.errors import DomainError, FieldViolation, InvalidFields
from afarensis_server.rpc.errors import RpcFailure, failure_of, internal_failure, knows

#: What clients accept of trailers by default, all of them together.
TRAILERS_BYTES = 8 * 1024


def all_errors(base: type[DomainError] = DomainError) -> Iterator[type[DomainError]]:
    kind: type[DomainError]
    for kind in base.__subclasses__():
        yield kind
        yield from all_errors(kind)


def size_on_the_wire(failure: RpcFailure) -> int:
    """Name, value and 32 bytes for each, as HTTP/2 counts; the message percent-encoded, the details in base64."""
    message = sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in failure.message.encode())
    details = len(failure.status().SerializeToString()) * 4 // 3 + 4
    return message + details + 3 * 32 + 64


def details_of(failure: RpcFailure) -> dict[type[Message], Message]:
    return {type(detail): detail for detail in failure.details}


@pytest.mark.parametrize("kind", sorted(all_errors(), key=str))
def test_every_domain_error_has_a_status(kind: type[DomainError]) -> None:
    assert knows(kind.__new__(kind))
    assert kind.reason == kind.reason.upper()


def test_not_found_carries_reason_domain_and_id() -> None:
    failure = failure_of(errors.RunNotFound(id="run_x"))
    assert (failure.code, failure.message) == (grpc.StatusCode.NOT_FOUND, "No run found with id 'run_x'.")
    assert failure.details == (ErrorInfo(reason="RUN_NOT_FOUND", domain="afarensis.dev", metadata={"id": "run_x"}),)


def test_invalid_fields_name_each_violation() -> None:
    failure = failure_of(InvalidFields([FieldViolation("name", "STRING_TOO_LONG", "Too long.")]))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    violation = BadRequest.FieldViolation(field="name", reason="STRING_TOO_LONG", description="Too long.")
    assert details_of(failure)[BadRequest] == BadRequest(field_violations=[violation])


@pytest.mark.parametrize(
    ("error", "code", "seconds"),
    [
        (errors.ShuttingDown(), grpc.StatusCode.UNAVAILABLE, 1),
        (errors.SandboxCapacity(), grpc.StatusCode.RESOURCE_EXHAUSTED, 5),
    ],
)
def test_what_passes_says_when_to_try_again(error: DomainError, code: grpc.StatusCode, seconds: int) -> None:
    failure = failure_of(error)
    retry = details_of(failure)[RetryInfo]
    assert isinstance(retry, RetryInfo)
    assert (failure.code, retry.retry_delay.seconds) == (code, seconds)


def test_what_never_passes_says_nothing_of_trying_again() -> None:
    failure = failure_of(errors.FileTooLarge(limit_bytes=1, hint=""))
    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert RetryInfo not in details_of(failure)


def test_defect_tells_the_request_id_and_nothing_else() -> None:
    failure = internal_failure("abc")
    assert failure.code is grpc.StatusCode.INTERNAL
    assert failure.message == ("Something went wrong in the server. Its log has the details under the request id abc.")


@pytest.mark.parametrize("kind", sorted(all_errors(errors.NotFound), key=str))
def test_ids_that_are_none_are_told_in_short(kind: type[errors.NotFound]) -> None:
    details = dict.fromkeys(("id", "path", "session_id"), "x" * 50000)
    message = failure_of(kind(**details)).message
    assert message == str(kind(**details))
    assert len(message) < 600


def test_what_of_an_id_is_told_is_its_beginning() -> None:
    assert str(errors.RunNotFound(id="x" * 201)) == f"No run found with id '{'x' * 199}…'."
    assert str(errors.RunNotFound(id="x" * 200)) == f"No run found with id '{'x' * 200}'."
    mismatch = errors.ToolOutputsMismatch(expected=["call_a"], actual=["x" * 50_000])
    assert str(mismatch).startswith("Expected tool outputs for call_ids ['call_a'], got ['xxx")
    assert len(str(mismatch)) < 2_100


@pytest.mark.parametrize("character", ["a", "%", "漢", "🐧", "\n"])
def test_status_fits_into_trailers_whatever_the_request_held(character: str) -> None:
    hostile = character * 100_000
    violations = [FieldViolation(f"tools[{index}].{hostile}", "REQUIRED", hostile) for index in range(1_000)]
    for error in (InvalidFields(violations), errors.RunNotFound(id=hostile), errors.SandboxDown(detail=hostile)):
        assert size_on_the_wire(failure_of(error)) < TRAILERS_BYTES
