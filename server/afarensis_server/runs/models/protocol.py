"""What the run engine asks of a language model, and what a model answers.

A model gets the whole prompt with every call and keeps nothing between calls.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from ...domain.runs import RunError, RunErrorCode, Usage
from ...domain.tools import ResponseFormat, Tool, ToolChoice

# --- the prompt -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TextPart:
    text: str


@dataclass(frozen=True, slots=True)
class ImageBytes:
    """An image by its content; ``media_type`` is like ``image/png``."""

    data: bytes
    media_type: str
    #: ``auto``, ``low`` or ``high``; None when not given.
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class ImageUrl:
    """An image that the model's provider fetches by itself."""

    url: str
    detail: str | None = None


UserPart = TextPart | ImageBytes | ImageUrl


@dataclass(frozen=True, slots=True)
class SystemMessage:
    text: str


@dataclass(frozen=True, slots=True)
class UserMessage:
    parts: tuple[UserPart, ...]

    @property
    def text(self) -> str:
        """The text parts, one below the other."""
        return "\n".join(part.text for part in self.parts if isinstance(part, TextPart))


@dataclass(frozen=True, slots=True)
class PromptToolCall:
    """A call that the model made earlier, with the arguments as it wrote them."""

    id: str
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class AssistantMessage:
    """What the model said earlier: a text, calls, or both."""

    text: str | None = None
    tool_calls: tuple[PromptToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolMessage:
    """What came of the call ``call_id``, and the images it showed."""

    call_id: str
    text: str
    images: tuple[ImageBytes, ...] = ()


PromptMessage = SystemMessage | UserMessage | AssistantMessage | ToolMessage


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One model call. None means that the model's provider decides."""

    model: str
    messages: tuple[PromptMessage, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    parallel_tool_calls: bool = True
    temperature: float | None = None
    top_p: float | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
    max_completion_tokens: int | None = None
    #: When the run ends, whatever happens: no attempt at an answer begins later. Aware.
    deadline: datetime | None = None
    #: How long one call of code_interpreter may run; the model is told.
    code_seconds: float = 120


# --- the answer -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """What the model thinks before it answers. Nobody is shown it; it only counts."""

    text: str


@dataclass(frozen=True, slots=True)
class RefusalDelta:
    """The model declines, in its own words."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of the call ``index`` of this answer.

    The first piece of a call has its ``id`` and ``name``, later ones None; each adds to the arguments. Indexes start at
    0 and have no gaps.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments_json: str = ""


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """The tokens of this call. Providers send it when their endpoint counts; `Models` estimates it when none did."""

    usage: Usage


class FinishReason(StrEnum):
    STOP = "stop"
    TOOL_CALLS = "tool_calls"
    #: The token limit was reached.
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"


@dataclass(frozen=True, slots=True)
class Finish:
    """The last event. An answer without it was cut off and never counts as complete."""

    reason: FinishReason


ModelEvent = TextDelta | ReasoningDelta | RefusalDelta | ToolCallDelta | ModelUsage | Finish


class ModelErrorReason(StrEnum):
    """What went wrong, finer than a run's error code: the ``reason`` of the run's ``last_error``."""

    MODEL_UNKNOWN = "MODEL_UNKNOWN"
    MODEL_UNREACHABLE = "MODEL_UNREACHABLE"
    MODEL_TIMEOUT = "MODEL_TIMEOUT"
    MODEL_CREDENTIALS_REFUSED = "MODEL_CREDENTIALS_REFUSED"
    MODEL_RATE_LIMITED = "MODEL_RATE_LIMITED"
    MODEL_REQUEST_REFUSED = "MODEL_REQUEST_REFUSED"
    CONTEXT_LENGTH_EXCEEDED = "CONTEXT_LENGTH_EXCEEDED"
    MODEL_FAILED = "MODEL_FAILED"
    #: The answer broke off, or was not what the protocol of the endpoint allows.
    MODEL_ANSWER_BROKEN = "MODEL_ANSWER_BROKEN"


class ModelError(Exception):
    """A model call failed. The message is for the client: it says what to do, and never holds credentials.

    ``transient``: another attempt may not meet it. ``retry_after``: seconds to wait before, if the endpoint said so.
    """

    def __init__(
        self,
        code: RunErrorCode,
        reason: ModelErrorReason,
        message: str,
        *,
        transient: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.transient = transient
        self.retry_after = retry_after

    @property
    def context_length_exceeded(self) -> bool:
        """Whether the same call with a shorter prompt may work."""
        return self.reason is ModelErrorReason.CONTEXT_LENGTH_EXCEEDED

    @property
    def run_error(self) -> RunError:
        return RunError(self.code, self.message, self.reason.value)


class Model(Protocol):
    """A language model, or all those that one provider serves."""

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Answer the prompt, piece by piece; Finish is always last. Raises ModelError.

        Closing the generator ends the call at once, so wrap it in `contextlib.aclosing`.
        """
        ...
