"""One endpoint at work: the line of calls that wait for it, and the attempts at each."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import structlog

from .endpoint import EndpointSettings
from .protocol import (
    Model,
    ModelError,
    ModelEvent,
    ModelRequest,
    PromptMessage,
    ReasoningDelta,
    TextPart,
    ToolMessage,
    UserMessage,
)
from .retry import Attempts, RetrySettings

_log = structlog.get_logger(__name__)


class ServedEndpoint:
    """A `Model` that treats its endpoint as the settings say."""

    def __init__(self, settings: EndpointSettings, model: Model, retry: RetrySettings) -> None:
        self.settings = settings
        self._model = model
        self._retry = retry
        # First come, first served. A run has one call at a time, so none can take all the places.
        self._places = asyncio.Semaphore(settings.concurrency)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """See `Model.stream`. Waits in line for a place; whoever closes or cancels it leaves the line.

        A call that fails before anything of its answer was seen is tried again, but for reasoning, which nobody sees.
        """
        if not self.settings.vision:
            request = replace(request, messages=tuple(_unseen(message) for message in request.messages))
        attempts = Attempts(
            self._retry, self.settings.max_retries, self.settings.timeout_seconds, deadline=request.deadline
        )
        while True:
            seen = False
            try:
                # The place is free while this call waits for its next attempt.
                async with self._places, aclosing(self._model.stream(request)) as events:
                    attempts.begin()
                    async for event in events:
                        seen = seen or not isinstance(event, ReasoningDelta)
                        yield event
                return
            except ModelError as error:
                if seen:
                    raise
                seconds = attempts.wait_after(error)
                _log.info(
                    "model call is tried again",
                    endpoint=self.settings.name,
                    model=request.model,
                    reason=error.reason.value,
                    seconds=round(seconds, 3),
                )
            await asyncio.sleep(seconds)


def _unseen(message: PromptMessage) -> PromptMessage:
    """The message for a model that does not see images: it is told where one was."""
    match message:
        case UserMessage():
            note = TextPart("(An image, which this model cannot see.)")
            return UserMessage(tuple(part if isinstance(part, TextPart) else note for part in message.parts))
        case ToolMessage():
            return replace(message, images=())
        case _:
            return message
