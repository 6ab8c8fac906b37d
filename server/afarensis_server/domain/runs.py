"""Runs and their steps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from .executions import ExecutionItem, ExecutionResult
from .tools import ResponseFormat, Tool, ToolChoice, ToolResources


class RunStatus(StrEnum):
    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    REQUIRES_ACTION = "requires_action"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FAILED = "failed"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    EXPIRED = "expired"

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL_RUN_STATUSES


TERMINAL_RUN_STATUSES = frozenset(
    {RunStatus.CANCELLED, RunStatus.FAILED, RunStatus.COMPLETED, RunStatus.INCOMPLETE, RunStatus.EXPIRED}
)


class RunErrorCode(StrEnum):
    SERVER_ERROR = "server_error"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    INVALID_PROMPT = "invalid_prompt"


@dataclass(frozen=True, slots=True)
class RunError:
    """Why a run or a step failed; ``reason`` is UPPER_SNAKE and finer than ``code``."""

    code: RunErrorCode
    message: str
    reason: str = ""


class RunIncompleteReason(StrEnum):
    MAX_COMPLETION_TOKENS = "max_completion_tokens"
    MAX_PROMPT_TOKENS = "max_prompt_tokens"
    CONTENT_FILTER = "content_filter"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one model call, or of several together."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    #: Those of the prompt that came from the provider's cache; 0 where it does not say.
    cached_prompt_tokens: int = 0
    #: Those of the completion that the model spent on reasoning; 0 where the provider does not say.
    reasoning_tokens: int = 0
    #: Who counted when the provider did not; empty when it did. A sum is estimated when a part of it is.
    estimator: str = ""

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_prompt_tokens + other.cached_prompt_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.estimator or other.estimator,
        )


class TruncationType(StrEnum):
    AUTO = "auto"
    LAST_MESSAGES = "last_messages"


@dataclass(frozen=True, slots=True)
class TruncationStrategy:
    """Which messages of the thread reach the model; ``last_messages`` belongs to LAST_MESSAGES."""

    type: TruncationType = TruncationType.AUTO
    last_messages: int | None = None


@dataclass(frozen=True, slots=True)
class CodeInterpreterCall:
    """Code that the model ran. ``execution_id`` is stored before the code runs, so that it never runs twice."""

    id: str
    input: str
    outputs: tuple[ExecutionItem, ...] = ()
    #: None until the code has ended.
    result: ExecutionResult | None = None
    session_id: str | None = None
    execution_id: str | None = None
    #: The variables of earlier calls were gone when this one began.
    state_lost: bool = False
    type: Literal["code_interpreter"] = "code_interpreter"


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A call of the client's function; ``output`` is None until it is submitted."""

    id: str
    name: str
    #: JSON as the model wrote it, which may be broken.
    arguments_json: str
    output: str | None = None
    type: Literal["function"] = "function"


ToolCall = Annotated[CodeInterpreterCall | FunctionCall, Field(discriminator="type")]


@dataclass(frozen=True, slots=True)
class MessageCreation:
    message_id: str
    type: Literal["message_creation"] = "message_creation"


@dataclass(frozen=True, slots=True)
class ToolCalls:
    calls: tuple[ToolCall, ...] = ()
    type: Literal["tool_calls"] = "tool_calls"


StepDetails = Annotated[MessageCreation | ToolCalls, Field(discriminator="type")]


class StepStatus(StrEnum):
    IN_PROGRESS = "in_progress"
    CANCELLED = "cancelled"
    FAILED = "failed"
    COMPLETED = "completed"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class RunStep:
    id: str
    project: str
    run_id: str
    thread_id: str
    assistant_id: str
    create_time: datetime
    status: StepStatus
    details: StepDetails
    last_error: RunError | None = None
    complete_time: datetime | None = None
    cancel_time: datetime | None = None
    fail_time: datetime | None = None
    expired_time: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class RequiredAction:
    """Function calls that wait for the client's outputs."""

    calls: tuple[FunctionCall, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One answer of an assistant on a thread, with the settings in effect."""

    id: str
    project: str
    thread_id: str
    assistant_id: str
    create_time: datetime
    status: RunStatus
    model: str
    instructions: str | None = None
    tools: tuple[Tool, ...] = ()
    #: The files that its code sees: the assistant's, then the thread's.
    tool_resources: ToolResources = ToolResources()
    metadata: Mapping[str, str] = field(default_factory=dict)
    temperature: float | None = None
    top_p: float | None = None
    max_prompt_tokens: int | None = None
    max_completion_tokens: int | None = None
    truncation_strategy: TruncationStrategy = TruncationStrategy()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
    required_action: RequiredAction | None = None
    last_error: RunError | None = None
    incomplete_reason: RunIncompleteReason | None = None
    #: None once the run is terminal.
    expire_time: datetime | None = None
    start_time: datetime | None = None
    cancel_time: datetime | None = None
    fail_time: datetime | None = None
    complete_time: datetime | None = None
    incomplete_time: datetime | None = None
    expired_time: datetime | None = None
    #: Summed over all model calls; None until the run is terminal.
    usage: Usage | None = None
