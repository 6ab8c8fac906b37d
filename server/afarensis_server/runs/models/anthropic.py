"""Anthropic's Messages API, and gateways that speak it.

The `anthropic` SDK does the transport: credentials, connections, errors. Events are read as plain JSON, so
that what the SDK's types do not know does not break an answer; `anthropic_answers` knows how.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2
import structlog
from anthropic import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AsyncAnthropic,
    AsyncStream,
    Omit,
    Timeout,
)

from .answers import AnswerReader
from .anthropic_answers import Answer
from .anthropic_requests import Dialect, Json, Thinking, body
from .endpoint import EndpointSettings, Provider, check_omit
from .explainer import Explainer, Refusal, message_in
from .protocol import ModelError, ModelEvent, ModelRequest
from .server_sent import ServerSentEvent, ServerSentEvents, parse
from .transport import body_of, client

_log = structlog.get_logger(__name__)

#: A server that is up accepts a connection at once; what takes longer is unreachable.
_CONNECT_SECONDS = 10.0
#: What an endpoint's settings may leave out of every request.
_OMITTABLE = frozenset({"eager_input_streaming", "output_format", "forced_tools"})
#: The API's version. With the SDK's own, 2026-10-21, any request with a temperature or top_p is refused, also of models
#: that have them, and gateways do not know it.
_VERSION = "2023-06-01"


class _Events(AsyncStream[object]):
    """The SDK's stream, read a piece at a time."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._events = ServerSentEvents(body_of(self.response))
        self._failure: Exception | None = None

    async def read(self) -> list[object] | None:
        """See `Chunks`. Raises APIError for an error that the endpoint tells, ValueError for what is not JSON."""
        if self._failure is not None:
            raise self._failure
        if (events := await self._events.read()) is None:
            return None
        found: list[object] = []
        for event in events:
            if not event.type or event.type == b"ping" or not event.data:
                continue
            try:
                found.append(self._event(event))
            except (APIError, ValueError) as error:
                # What came before is told first.
                self._failure = error
                break
        return found

    def _event(self, event: ServerSentEvent) -> object:
        if event.type != b"error":
            return parse(event.data)
        try:
            told = parse(event.data)
        except ValueError:
            told = event.data.decode(errors="replace")
        raise APIError(message_in(told), self.response.request, body=told)


class AnthropicModel:
    """All models of one endpoint. An async context manager: leaving it closes the connections."""

    def __init__(self, settings: EndpointSettings) -> None:
        self._settings = settings
        key = settings.api_key.get_secret_value() if settings.api_key is not None else ""
        self._client = AsyncAnthropic(
            base_url=settings.base_url,
            # The SDK insists on one, and would look for one in the environment, which is not ours to use.
            api_key=key or "none",
            timeout=Timeout(settings.stall_seconds, connect=min(_CONNECT_SECONDS, settings.stall_seconds)),
            max_retries=0,  # `served` tries again, as long as the run has time
            http_client=client(settings.concurrency),
        )
        # The header that the API documents, in place of the SDK's own, which not every gateway knows.
        self._headers: dict[str, str | Omit] = {"Authorization": Omit(), "anthropic-version": _VERSION}
        if key:
            self._headers["x-api-key"] = key
        self._explainer = Explainer(settings)
        self._reader = AnswerReader(
            self._explainer, (APIError, httpx2.HTTPError), self._explained, settings.stall_seconds
        )
        self._dialect = Dialect(
            forced_tools="forced_tools" not in settings.omit,
            output_format="output_format" not in settings.omit,
            eager_input_streaming="eager_input_streaming" not in settings.omit,
        )
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
            async with aclosing(self._reader.read(chunks, Answer(), deadline)) as events:
                async for event in events:
                    yield event
        finally:
            await chunks.close()

    async def _open(self, request: ModelRequest, deadline: float) -> _Events:
        """Send the request; again with less when the model does not take a part of it."""
        dialect = self._dialects.get(request.model, self._dialect)
        while True:
            fields = body(request, dialect, max_output_tokens=self._settings.max_output_tokens)
            try:
                chunks = await self._post(fields, deadline)
            except _Refused as refused:
                if (reduced := _reduced(dialect, fields, refused.refusal)) is None:
                    raise self._explainer.refused(refused.refusal, request.model) from refused.error
                dialect = reduced
                continue
            if dialect != self._dialects.get(request.model, self._dialect):
                # Kept only now that it helped.
                self._dialects[request.model] = dialect
                _log.info("model endpoint takes less", model=request.model, dialect=dialect)
            return chunks

    async def _post(self, fields: Json, deadline: float) -> _Events:
        try:
            async with asyncio.timeout_at(deadline):
                # Not messages.create: it would force every event into the SDK's types.
                chunks = await self._client.post(
                    "/v1/messages",
                    cast_to=object,
                    body=fields,
                    options={"headers": self._headers},
                    stream=True,
                    stream_cls=_Events,
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
                return self._explainer.refused(replace(_refusal(error), status=None), "")
            case _:
                raise error


class _Refused(Exception):
    """The endpoint answered with an error status, which may be about a field that its model does not take."""

    def __init__(self, error: APIStatusError) -> None:
        super().__init__(error.status_code)
        self.error = error
        self.refusal = _refusal(error)


def _refusal(error: APIError) -> Refusal:
    told = error.body.get("error") if isinstance(error.body, dict) else None
    kind = str(told.get("type", "")) if isinstance(told, dict) else ""
    if isinstance(error, APIStatusError):
        return Refusal(message_in(error.body), kind, error.status_code, error.response.headers)
    return Refusal(message_in(error.body) or error.message, kind)


def _reduced(dialect: Dialect, fields: Json, refusal: Refusal) -> Dialect | None:
    """The dialect without what this refusal is about; None when it is about something else."""
    if refusal.status not in (400, 404, 422) or refusal.is_context_length:
        return None
    said = refusal.said.lower()
    if limit := re.search(r"max_tokens: \d+ > (\d+)", said):
        most = int(limit[1])
        return replace(dialect, most_output_tokens=most) if most != dialect.most_output_tokens else None
    if "eager_input_streaming" in said and dialect.eager_input_streaming:
        return replace(dialect, eager_input_streaming=False)
    if "tool_choice" in said and dialect.forced_tools and _forces(fields):
        return replace(dialect, forced_tools=False)
    configured = fields.get("output_config")
    formatted = isinstance(configured, dict) and "format" in configured
    if formatted and dialect.output_format and re.search(r"output_config\W*format|output.format|structured", said):
        # A schema that is wrong is the client's to correct: it is told what is wrong with it.
        return None if "schema" in said else replace(dialect, output_format=False)
    return _thinking_less(dialect, fields, said)


def _thinking_less(dialect: Dialect, fields: Json, said: str) -> Dialect | None:
    thinking = fields.get("thinking")
    if not re.search(r"thinking|effort|adaptive|output_config", said):
        return None
    if isinstance(thinking, dict) and thinking.get("type") == "disabled":
        return replace(dialect, thinking_off=False)
    asked = thinking is not None or "output_config" in fields
    if asked and dialect.thinking is Thinking.ADAPTIVE:
        return replace(dialect, thinking=Thinking.BUDGET)
    if asked and dialect.thinking is Thinking.BUDGET:
        return replace(dialect, thinking=Thinking.UNASKED)
    return None


def _forces(fields: Json) -> bool:
    choice = fields.get("tool_choice")
    return isinstance(choice, dict) and choice.get("type") in ("any", "tool")


def _check(settings: EndpointSettings) -> None:
    check_omit(settings, _OMITTABLE)
    if re.search(r"/v1(/messages)?/?$", urlsplit(settings.base_url).path):
        raise ValueError(f"{settings.where('base_url')} must end before /v1/messages, which is added to it.")


def _listing(settings: EndpointSettings) -> tuple[str, Mapping[str, str]]:
    key = settings.api_key.get_secret_value() if settings.api_key is not None else ""
    headers = {"anthropic-version": _VERSION}
    return f"{settings.base_url.rstrip('/')}/v1/models", {**headers, "x-api-key": key} if key else headers


PROVIDER = Provider("anthropic", AnthropicModel, _check, _listing, base_url="https://api.anthropic.com")
