"""Domain errors. Each one's docstring is its message, with the details filled in; it says what to do where that helps.

The edges turn them into statuses by their base class (one table each), and pass on ``reason`` and ``metadata``. Texts
that the Assistants API had are kept word for word, because clients match on them.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

#: Characters of a client's own words that a message repeats: more than any id has.
_MOST_CHARACTERS = 200
#: Those of a list of ids.
_MOST_LISTED = 2_000


def _in_short(value: object, most: int = _MOST_CHARACTERS) -> str:
    text = str(value)
    return text if len(text) <= most else text[: most - 1] + "…"


class DomainError(Exception):
    """Something went wrong."""

    #: UPPER_SNAKE, stable: what programs match on. Derived from the class name.
    reason: ClassVar[str] = "DOMAIN_ERROR"

    def __init_subclass__(cls, reason: str | None = None) -> None:
        if reason is not None:
            cls.reason = reason

    def __init__(self, **details: object) -> None:
        #: The details that fill in the message, as strings, for programs.
        self.metadata: Mapping[str, str] = {name: str(value) for name, value in details.items()}
        super().__init__(inspect.cleandoc(self.__doc__ or "").replace("\n", " ").format(**details))


# --- what an edge tells apart -----------------------------------------------------------------------------------------


class NotFound(DomainError, reason="NOT_FOUND"):
    """Not found."""

    def __init__(self, **details: object) -> None:
        super().__init__(**{name: _in_short(value) for name, value in details.items()})


class InvalidArgument(DomainError, reason="INVALID_ARGUMENT"):
    """The request is not valid."""

    #: What is wrong with which field; empty when it is not about one field.
    violations: Sequence["FieldViolation"] = ()


class FailedPrecondition(DomainError, reason="FAILED_PRECONDITION"):
    """Not possible in the present state."""


class AlreadyExists(DomainError, reason="ALREADY_EXISTS"):
    """It exists already."""


class OutOfRange(DomainError, reason="OUT_OF_RANGE"):
    """Outside of what there is."""


class ResourceExhausted(DomainError, reason="RESOURCE_EXHAUSTED"):
    """A limit is reached."""

    #: How long to wait before the call is worth trying again; None when it never is.
    retry_seconds: float | None = None


class Unavailable(DomainError, reason="UNAVAILABLE"):
    """Not available at the moment."""

    retry_seconds: float = 1.0


class Unimplemented(DomainError, reason="UNIMPLEMENTED"):
    """{method} is part of the contract, but this version of the server does not implement it yet."""


# --- not found --------------------------------------------------------------------------------------------------------


class AssistantNotFound(NotFound, reason="ASSISTANT_NOT_FOUND"):
    """No assistant found with id '{id}'."""


class ThreadNotFound(NotFound, reason="THREAD_NOT_FOUND"):
    """No thread found with id '{id}'."""


class MessageNotFound(NotFound, reason="MESSAGE_NOT_FOUND"):
    """No message found with id '{id}'."""


class RunNotFound(NotFound, reason="RUN_NOT_FOUND"):
    """No run found with id '{id}'."""


class RunStepNotFound(NotFound, reason="RUN_STEP_NOT_FOUND"):
    """No run step found with id '{id}'."""


class FileNotFound(NotFound, reason="FILE_NOT_FOUND"):
    """No such File object: {id}"""


class UploadNotFound(NotFound, reason="UPLOAD_NOT_FOUND"):
    """No such Upload object: {id}"""


class SessionNotFound(NotFound, reason="SESSION_NOT_FOUND"):
    """No session found with id '{id}'."""


class ExecutionNotFound(NotFound, reason="EXECUTION_NOT_FOUND"):
    """No execution found with id '{id}'. What code of a run did is in the steps of the run."""


class SessionFileNotFound(NotFound, reason="SESSION_FILE_NOT_FOUND"):
    """There is no regular file '{path}' below /mnt/data of session {session_id}."""


# --- invalid arguments ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One thing wrong with a request: the field's path (``content[0].text``), a reason and a sentence."""

    field: str
    reason: str
    description: str


class InvalidFields(InvalidArgument, reason="INVALID_FIELDS"):
    """{summary}"""

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        self.violations = tuple(violations)
        super().__init__(summary=" ".join(violation.description for violation in violations))
        self.metadata = {}


class PageTokenInvalid(InvalidArgument, reason="PAGE_TOKEN_INVALID"):
    """The page token does not belong to this list. Pass a next_page_token of the same call with the same filters and
    order, or none to start from the beginning."""


class CursorInvalid(InvalidArgument, reason="CURSOR_INVALID"):
    """The cursor was changed, or is none of this feed. Pass the cursor of the last item that you handled, or none."""


class UpdateMaskInvalid(InvalidArgument, reason="UPDATE_MASK_INVALID"):
    """Invalid 'update_mask': '{path}' cannot be updated. Use names among {allowed}, or '*' for all of them."""

    def __init__(self, path: str, allowed: Sequence[str]) -> None:
        super().__init__(path=path, allowed=", ".join(f"'{name}'" for name in allowed))
        self.violations = (FieldViolation("update_mask", "INVALID_VALUE", str(self)),)


class UploadMalformed(InvalidArgument, reason="UPLOAD_MALFORMED"):
    """{problem} The first message of an upload holds the metadata, all others data."""


class RequestMalformed(InvalidArgument, reason="REQUEST_MALFORMED"):
    """The request is not a valid {message}. {problem}"""


class ModelUnknown(InvalidArgument, reason="MODEL_UNKNOWN"):
    """The model '{model}' is not available. {known}; to use others, set AFARENSIS_OPENAI_BASE_URL (and
    AFARENSIS_OPENAI_API_KEY if the endpoint wants a key), or add an endpoint to models.endpoints in the configuration,
    and restart it."""

    def __init__(self, *, model: str, known: str = "Without a language model this server has only 'direct'") -> None:
        super().__init__(model=_in_short(model), known=known)


class ContentMismatch(InvalidArgument, reason="CONTENT_MISMATCH"):
    """The content received does not match what was announced: expected {what} {expected}, got {actual}. Nothing was
    stored; upload it again."""


class PartsMismatch(ContentMismatch, reason="CONTENT_MISMATCH"):
    """The parts do not make up what was announced: expected {what} {expected}, got {actual}. The upload is still
    pending: add what is missing, or name other parts."""


class ToolOutputsMismatch(InvalidArgument, reason="TOOL_OUTPUTS_MISMATCH"):
    """Expected tool outputs for call_ids {expected}, got {actual}"""

    def __init__(self, *, expected: Sequence[str], actual: Sequence[str]) -> None:
        super().__init__(expected=expected, actual=_in_short(list(actual), _MOST_LISTED))


# --- failed preconditions ---------------------------------------------------------------------------------------------


class ThreadLocked(FailedPrecondition, reason="THREAD_HAS_ACTIVE_RUN"):
    """Can't add messages to {thread_id} while a run {run_id} is active."""


class ThreadLockedForDeletion(FailedPrecondition, reason="THREAD_HAS_ACTIVE_RUN"):
    """Can't delete messages from {thread_id} while a run {run_id} is active."""


class ThreadFull(FailedPrecondition, reason="THREAD_FULL"):
    """Thread {thread_id} has {limit} messages, as many as a thread can have. Go on in a new one."""


class ThreadHasActiveRun(FailedPrecondition, reason="THREAD_HAS_ACTIVE_RUN"):
    """Thread {thread_id} already has an active run {run_id}."""


class RunNotAwaitingToolOutputs(FailedPrecondition, reason="RUN_NOT_AWAITING_TOOL_OUTPUTS"):
    """Runs in status "{status}" do not accept tool outputs."""


class RunNotCancellable(FailedPrecondition, reason="RUN_NOT_CANCELLABLE"):
    """Cannot cancel run with status '{status}'."""


class HttpDisabled(FailedPrecondition, reason="HTTP_DISABLED"):
    """This server does not serve HTTP, so there are no links. Its owner switches it on by the setting http.listen."""


class UploadNotPending(FailedPrecondition, reason="UPLOAD_NOT_PENDING"):
    """Upload {id} is {status}. Only a pending upload takes parts and can be completed or cancelled; create a new
    one."""


class UploadFull(FailedPrecondition, reason="UPLOAD_FULL"):
    """Upload {id} takes no more parts: {limit_parts} at most, and {limit_bytes} bytes in all of them together, where
    {announced_bytes} were announced. Complete it, or cancel it and create a new one."""


class SessionNotActive(FailedPrecondition, reason="SESSION_NOT_ACTIVE"):
    """Session {session_id} is {status}. Create a new one."""


class SessionElsewhere(FailedPrecondition, reason="SESSION_ELSEWHERE"):
    """Session {session_id} is open on another server that shares the database. Call that one, or create a new one."""


class SessionBusy(FailedPrecondition, reason="SESSION_BUSY"):
    """Session {session_id} is running code ({execution_id}). Wait until it ends, or interrupt it."""


# --- already there, out of range --------------------------------------------------------------------------------------


class SessionExists(AlreadyExists, reason="SESSION_EXISTS"):
    """Thread {thread_id} has the session {session_id} already. Use that one, or close it first."""


class RequestIdReused(AlreadyExists, reason="REQUEST_ID_REUSED"):
    """The request id (over HTTP: Idempotency-Key) '{request_id}' was used before with a different request. Use a new
    one for each new request."""


class CursorPastEnd(OutOfRange, reason="CURSOR_PAST_END"):
    """There is no event {after_sequence} yet: the last one is {last_sequence}. Pass the sequence of the last event you
    handled, or 0 to start from the beginning."""


class EventsTrimmed(OutOfRange, reason="EVENTS_TRIMMED"):
    """Events after this cursor are no longer kept. The oldest that is has the sequence {oldest_sequence}: pass one less
    to go on from there, and read the objects themselves for what came before."""


class FeedTrimmed(OutOfRange, reason="EVENTS_TRIMMED"):
    """Events after this cursor are no longer kept. Begin again without a cursor, at the oldest event that is kept, and
    read the objects themselves for what came before."""


class OffsetPastEnd(OutOfRange, reason="OFFSET_PAST_END"):
    """The offset {offset_bytes} is past the end of file {id}, which has {size_bytes} bytes."""


# --- limits -----------------------------------------------------------------------------------------------------------


class FileTooLarge(ResourceExhausted, reason="FILE_TOO_LARGE"):
    """The file is larger than the limit of {limit_bytes} bytes. {hint}"""


class PartTooLarge(FileTooLarge, reason="PART_TOO_LARGE"):
    """The part is larger than the limit of {limit_bytes} bytes. Send the content in more parts, and smaller ones."""


class StorageFull(ResourceExhausted, reason="STORAGE_FULL"):
    """The server's disk for files is full. Nothing was stored; try again when space has been made."""

    retry_seconds = 30.0


class TooManyCalls(ResourceExhausted, reason="TOO_MANY_CALLS"):
    """The server is working on {limit} {kind} already. Try again when some have ended, or raise the limit
    server.max_{kind}."""

    retry_seconds = 1.0


class TenantRunLimit(ResourceExhausted, reason="TENANT_RUN_LIMIT"):
    """The project has {limit} runs that are not over, as many as it may. Try again when one of them has ended, cancel
    one, or raise the limit runs.per_project."""

    retry_seconds = 5.0


class TooManyUploads(ResourceExhausted, reason="TOO_MANY_UPLOADS"):
    """The project has {limit} uploads that are pending, as many as it may. Complete or cancel one, try again when one
    has expired, or raise the limit files.pending_uploads."""

    retry_seconds = 5.0


class SandboxCapacity(ResourceExhausted, reason="SANDBOX_CAPACITY"):
    """All places for sessions are taken. Try again when another session has ended, or raise the limit
    sandbox.max_sessions."""

    retry_seconds = 5.0


# --- unavailable ------------------------------------------------------------------------------------------------------


class ShuttingDown(Unavailable, reason="SHUTTING_DOWN"):
    """The server is shutting down. Try again; streams resume at the last sequence you handled."""


class SandboxDown(Unavailable, reason="SANDBOX_UNAVAILABLE"):
    """No sandbox can be opened: {detail}"""

    retry_seconds = 5.0


class DatabaseUnavailable(Unavailable, reason="DATABASE_UNAVAILABLE"):
    """The database cannot be used at the moment: {detail}. Nothing was changed; try again."""
