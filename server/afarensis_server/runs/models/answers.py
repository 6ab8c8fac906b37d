"""How a streamed answer is read, whatever its provider: event by event, with patience that ends."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any, Protocol

from .explainer import Explainer
from .protocol import ModelError, ModelEvent

#: How long to wait for the usage behind a complete answer, if the endpoint does not close the stream.
_TAIL_SECONDS = 5.0


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
    """The stream of an SDK."""

    async def __anext__(self) -> Any: ...


class AnswerReader:
    """Reads answers of one endpoint.

    Args:
        explainer: words its failures.
        errors: what its SDK raises while a stream is read.
        explained: one of those as what the client is told.
    """

    def __init__(
        self,
        explainer: Explainer,
        errors: tuple[type[Exception], ...],
        explained: Callable[[Exception], ModelError],
    ) -> None:
        self._explainer = explainer
        self._errors = errors
        self._explained = explained

    async def read(self, chunks: Chunks, answer: Answer, deadline: float) -> AsyncGenerator[ModelEvent, None]:
        """The events of the answer. Raises ModelError. ``deadline``: of the event loop's clock."""
        try:
            while (chunk := await self._next(chunks, answer, deadline)) is not None:
                for event in list(answer.read(chunk)):
                    yield event
            for event in list(answer.end()):
                yield event
        except BrokenAnswer as error:
            raise self._explainer.broken(str(error), transient=error.transient) from error

    async def _next(self, chunks: Chunks, answer: Answer, deadline: float) -> object | None:
        """The next chunk; None at the end."""
        if answer.is_complete:
            deadline = min(deadline, asyncio.get_running_loop().time() + _TAIL_SECONDS)
        try:
            # Around each step, not around the whole: a timeout must not strike while the caller is at work.
            async with asyncio.timeout_at(deadline):
                chunk: object = await chunks.__anext__()
                return chunk
        except StopAsyncIteration:
            return None
        except TimeoutError as error:
            if answer.is_complete:
                return None
            raise self._explainer.too_slow() from error
        except self._errors as error:
            if answer.is_complete:
                return None  # only the usage is lost
            raise self._explained(error) from error
        except ValueError as error:
            raise self._explainer.broken("sent an event that is not JSON. Its answer is lost; try again.") from error
