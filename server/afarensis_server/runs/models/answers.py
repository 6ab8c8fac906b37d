"""How a streamed answer is read, whatever its provider: event by event, with patience that ends."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Protocol

from .explainer import Explainer
from .protocol import ModelError, ModelEvent, ReasoningDelta, TextDelta, ToolCallDelta

#: How long to wait for the usage behind a complete answer, if the endpoint does not close the stream.
_TAIL_SECONDS = 5.0
#: Seconds between two looks at an answer, for each one that is read beyond the first few; at most. What a look finds
#: goes on as one event, and takes little more than a single token. Pieces that come more slowly wait for nothing.
_REST = 0.0005
_UNHURRIED = 10
_MOST_REST = 0.08
#: Characters of pieces that go on as one, so that a limit of tokens is seen in time.
_MOST_JOINED = 512


class BrokenAnswer(Exception):
    """The answer cannot be what the model meant. The message goes on after "The model endpoint ...".

    ``transient``: another attempt may end well.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class SurrogatePairs:
    """Joins surrogate pairs that an endpoint splits over pieces; half a pair becomes U+FFFD: nothing can store it."""

    def __init__(self) -> None:
        self._half = ""

    def read(self, piece: str) -> str:
        """The next sound piece; empty when it was the first half of a pair."""
        if piece.isascii() and not self._half:
            return piece
        piece = self._half + piece
        self._half = piece[-1] if "\ud800" <= piece[-1:] <= "\udbff" else ""
        whole = piece[: len(piece) - len(self._half)]
        return whole.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class Answer(Protocol):
    """One answer, fed with what the endpoint sends, in order."""

    @property
    def is_complete(self) -> bool:
        """Whether the endpoint said that the answer is at its end."""
        ...

    def read(self, chunk: object) -> Iterable[ModelEvent]:
        """What this piece adds; raises BrokenAnswer."""
        ...

    def end(self) -> Iterable[ModelEvent]:
        """What is left, usage and Finish, once all is read; raises BrokenAnswer when it is not complete."""
        ...


class Chunks(Protocol):
    """The stream of one answer."""

    async def read(self) -> list[Any] | None:
        """The chunks that came by now, which may be none; waits for something to come. None at the end."""
        ...


class AnswerReader:
    """Reads answers of one endpoint.

    Args:
        explainer: words its failures.
        errors: what its SDK raises while a stream is read.
        explained: one of those as what the client is told.
        stall_seconds: how long to wait for something to come.
    """

    def __init__(
        self,
        explainer: Explainer,
        errors: tuple[type[Exception], ...],
        explained: Callable[[Exception], ModelError],
        stall_seconds: float,
    ) -> None:
        self._explainer = explainer
        self._errors = errors
        self._explained = explained
        self._stall_seconds = stall_seconds
        #: Answers that are read.
        self._reading = 0

    async def read(self, chunks: Chunks, answer: Answer, deadline: float) -> AsyncGenerator[ModelEvent, None]:
        """The events of the answer. Raises ModelError. ``deadline``: of the event loop's clock."""
        loop = asyncio.get_running_loop()
        self._reading += 1
        try:
            while (found := await self._next(chunks, answer, deadline)) is not None:
                looked = loop.time()
                for event in joined(event for chunk in found for event in answer.read(chunk)):
                    yield event
                rest = min(_MOST_REST, _REST * (self._reading - _UNHURRIED))
                if (left := looked + rest - loop.time()) > 0 and not answer.is_complete:
                    await asyncio.sleep(left)
            for event in list(answer.end()):
                yield event
        except BrokenAnswer as error:
            raise self._explainer.broken(str(error), transient=error.transient) from error
        finally:
            self._reading -= 1

    async def _next(self, chunks: Chunks, answer: Answer, deadline: float) -> list[Any] | None:
        """The next chunks; None at the end."""
        patience = _TAIL_SECONDS if answer.is_complete else self._stall_seconds
        end = min(deadline, asyncio.get_running_loop().time() + patience)
        try:
            # Around each step, not around the whole: a timeout must not strike while the caller is at work.
            async with asyncio.timeout_at(end):
                return await chunks.read()
        except TimeoutError as error:
            if answer.is_complete:
                return None
            raise (self._explainer.too_slow() if end == deadline else self._explainer.stalled()) from error
        except self._errors as error:
            if answer.is_complete:
                return None  # only the usage is lost
            raise self._explained(error) from error
        except ValueError as error:
            raise self._explainer.broken("sent an event that is not JSON. Its answer is lost; try again.") from error


def joined(events: Iterable[ModelEvent]) -> Iterator[ModelEvent]:
    """The same with neighbours that go on with one another in one."""
    waiting: list[ModelEvent] = []
    size = 0
    try:
        for event in events:
            length = len(_words(event))
            if waiting and (size + length > _MOST_JOINED or not _goes_on(waiting[-1], event)):
                whole, waiting, size = _whole(waiting), [], 0
                yield whole
            waiting.append(event)
            size += length
    except BrokenAnswer:
        if waiting:
            yield _whole(waiting)
        raise
    if waiting:
        yield _whole(waiting)


def _goes_on(last: ModelEvent, event: ModelEvent) -> bool:
    match last, event:
        case (TextDelta(), TextDelta()) | (ReasoningDelta(), ReasoningDelta()):
            return True
        case ToolCallDelta(), ToolCallDelta(id=None, name=None):
            # The piece that names the call stays alone: readers expect it with empty arguments.
            return last.index == event.index and last.name is None
        case _:
            return False


def _words(event: ModelEvent) -> str:
    match event:
        case TextDelta() | ReasoningDelta():
            return event.text
        case ToolCallDelta():
            return event.arguments_json
        case _:
            return ""


def _whole(events: list[ModelEvent]) -> ModelEvent:
    words = "".join(map(_words, events))
    match events[0]:
        case TextDelta() | ReasoningDelta() as first:
            return replace(first, text=words)
        case ToolCallDelta() as first:
            return replace(first, arguments_json=words)
        case alone:
            return alone
