"""Any endpoint that speaks OpenAI's chat completions: OpenAI, vLLM, Ollama, llama.cpp, LiteLLM and many more.

The `openai` SDK does the transport: credentials, connections, errors. Chunks are read as plain JSON, because endpoints
differ from the SDK's types; `openai_answers` knows how.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from itertools import takewhile
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2
import structlog
from openai import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    AsyncStream,
    Omit,
    Timeout,
)

from .answers import AnswerReader
from .endpoint import EndpointSettings, Provider, check_omit
from .explainer import Explainer, Refusal, message_in
from .openai_answers import Answer, joined
from .openai_requests import Dialect, Json, body
from .protocol import ModelError, ModelEvent, ModelRequest, ToolMessage
from .server_sent import ServerSentEvent, ServerSentEvents, parse_all
from .transport import body_of, client

_log = structlog.get_logger(__name__)

#: A server that is up accepts a connection at once; what takes longer is unreachable.
_CONNECT_SECONDS = 10.0
#: What lies behind an answer comes with it, or not at all.
_DRAIN_SECONDS = 0.1
#: What an endpoint's settings may leave out of every request.
_OMITTABLE = frozenset({"stream_options", "parallel_tool_calls", "max_tokens", "tool_images"})


class _Chunks(AsyncStream[object]):
    """The SDK's stream, read a piece at a time."""

    #: Called when the endpoint sent ``[DONE]``: for some, the only sign of the end.
    when_done: Callable[[], None] | None = None

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._events = ServerSentEvents(body_of(self.response))
        self._failure: Exception | None = None
        self._is_done = False

    async def read(self) -> list[object] | None:
        """See `Chunks`. Raises APIError for an error that the endpoint tells, ValueError for what is not JSON."""
        if self._failure is not None:
            raise self._failure
        if self._is_done:
            await self._drain()
            return None
        if (events := await self._events.read()) is None:
            return None
        data = [event.data for event in takewhile(_is_chunk, events)]
        chunks: list[object] = []
        try:
            for chunk in parse_all(data):
                if isinstance(chunk, dict) and (told := chunk.get("error")):
                    raise APIError(message_in(told), self.response.request, body=told)
                chunks.append(chunk)
        except (APIError, ValueError) as error:
            # What came before is told first.
            self._failure = error
            return chunks
        if len(data) < len(events):
            self._is_done = True
            if self.when_done is not None:
                self.when_done()
        return joined(chunks)

    async def _drain(self) -> None:
        """Read to the very end, if that is near: else the connection could not be used again."""
        with suppress(TimeoutError, httpx2.HTTPError, ValueError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while await self._events.read() is not None:
                    pass


def _is_chunk(event: ServerSentEvent) -> bool:
    return not event.data.startswith(b"[DONE]")


class OpenAIModel:
    """All models of one endpoint. An async context manager: leaving it closes the connections."""

    def __init__(self, settings: EndpointSettings) -> None:
        self._settings = settings
        key = settings.api_key.get_secret_value() if settings.api_key is not None else ""
        base_url, credentials = settings.split_url
        self._headers: dict[str, str | Omit] = {} if key else {"Authorization": Omit()}
        if credentials:
            self._headers = {"Authorization": credentials}
        self._client = AsyncOpenAI(
            base_url=base_url,
            api_key=key or "none",  # the SDK insists on one; the header above keeps it from being sent
            timeout=Timeout(settings.stall_seconds, connect=min(_CONNECT_SECONDS, settings.stall_seconds)),
            max_retries=0,  # `served` tries again, as long as the run has time
            http_client=client(settings.concurrency),
        )
        self._explainer = Explainer(settings)
        self._reader = AnswerReader(
            self._explainer, (APIError, httpx2.HTTPError), self._explained, settings.stall_seconds
        )
        self._dialect = Dialect(**{field: field not in settings.omit for field in _OMITTABLE})
        #: What models refused before, by name.
        self._dialects: dict[str, Dialect] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.close()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """See `Model.stream`. Closing the generator closes the HTTP response, which ends the answer at the endpoint."""
        deadline = asyncio.get_running_loop().time() + self._settings.timeout_seconds
        chunks = await self._open(request, deadline)
        try:
            answer = Answer(think_tags=self._settings.think_tags)
            chunks.when_done = answer.done
            async with aclosing(self._reader.read(chunks, answer, deadline)) as events:
                async for event in events:
                    yield event
        finally:
            await chunks.close()

    async def _open(self, request: ModelRequest, deadline: float) -> _Chunks:
        """Send the request; again with less when the endpoint does not know a part of it."""
        dialect = self._dialects.get(request.model, self._dialect)
        while True:
            fields = body(request, dialect)
            try:
                chunks = await self._post(fields, deadline)
            except _Refused as refused:
                if (reduced := _reduced(dialect, request, fields, refused)) is None:
                    raise self._explainer.refused(refused.refusal, request.model) from refused.error
                dialect = reduced
                continue
            if dialect != self._dialects.get(request.model, self._dialect):
                # Kept only now that it helped.
                self._dialects[request.model] = dialect
                _log.info("model endpoint takes less", model=request.model, dialect=dialect)
            return chunks

    async def _post(self, fields: Json, deadline: float) -> _Chunks:
        try:
            async with asyncio.timeout_at(deadline):
                # Not chat.completions.create: it would force every chunk into the SDK's types.
                chunks = await self._client.post(
                    "/chat/completions",
                    cast_to=object,
                    body=fields,
                    options={"headers": self._headers},
                    stream=True,
                    stream_cls=_Chunks,
                )
        except TimeoutError as error:
            raise self._explainer.too_slow() from error
        except APIStatusError as error:
            raise _Refused(error) from error
        except APIError as error:
            raise self._explained(error) from error
        content_type = chunks.response.headers.get("content-type", "")
        if re.match(r"text/html|application/json", content_type):
            await chunks.close()
            raise self._explainer.not_a_stream(content_type)
        return chunks

    def _explained(self, error: Exception) -> ModelError:
        match error:
            case APITimeoutError() | httpx2.TimeoutException():
                return self._explainer.timed_out(error)
            case APIConnectionError() | httpx2.HTTPError():
                return self._explainer.unreachable(error)
            case APIError():
                # An event within the stream.
                return self._explainer.refused(_refusal(error), "")
            case _:
                raise error


class _Refused(Exception):
    """The endpoint answered with an error status, which may be about a field it does not know."""

    def __init__(self, error: APIStatusError) -> None:
        super().__init__(error.status_code)
        self.error = error
        self.refusal = _refusal(error)


def _refusal(error: APIError) -> Refusal:
    kind = f"{error.code or ''} {error.type or ''}"
    if isinstance(error, APIStatusError):
        return Refusal(message_in(error.body), kind, error.status_code, error.response.headers)
    return Refusal(message_in(error.body) or error.message, kind)


def _reduced(dialect: Dialect, request: ModelRequest, fields: Json, refused: _Refused) -> Dialect | None:
    """The dialect without what this refusal is about; None when it is about something else."""
    refusal = refused.refusal
    if refusal.status not in (400, 404, 415, 422, 500) or refusal.is_context_length:
        return None
    said = f"{refused.error.param} {refusal.said}".lower()
    if "stream_options" in fields and "stream_options" in said:
        return replace(dialect, stream_options=False)
    if "parallel_tool_calls" in fields and "parallel_tool_calls" in said:
        return replace(dialect, parallel_tool_calls=False)
    if "max_tokens" in fields and "max_completion_tokens" in said and "support" in said:
        return replace(dialect, max_tokens=False)
    shows_images = any(isinstance(message, ToolMessage) and message.images for message in request.messages)
    if dialect.tool_images and shows_images and re.search(r"image|multi-?modal|vision|mmproj", said):
        return replace(dialect, tool_images=False)
    return None


def _check(settings: EndpointSettings) -> None:
    check_omit(settings, _OMITTABLE)
    if urlsplit(settings.base_url).path.rstrip("/").endswith("/chat/completions"):
        raise ValueError(f"{settings.where('base_url')} must end before /chat/completions, which is added to it.")


def _listing(settings: EndpointSettings) -> tuple[str, Mapping[str, str]]:
    key = settings.api_key.get_secret_value() if settings.api_key is not None else ""
    return f"{settings.base_url.rstrip('/')}/models", {"Authorization": f"Bearer {key}"} if key else {}


PROVIDER = Provider("openai", OpenAIModel, _check, _listing)
