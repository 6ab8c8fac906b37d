"""Any endpoint that speaks OpenAI's chat completions: OpenAI, vLLM, Ollama, llama.cpp, LiteLLM and many more.

The `openai` SDK does the transport: credentials, connections, retries with Retry-After, server-sent events. Chunks are
read as plain JSON, because endpoints differ from the SDK's types; `openai_answers` knows how.
"""

import asyncio
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import structlog
from openai import APIError, APIStatusError, AsyncOpenAI, AsyncStream, Omit, Timeout
from pydantic import SecretStr

from .openai_answers import Answer, BrokenAnswer
from .openai_errors import API_KEY_SETTING, BASE_URL_SETTING, Explainer, is_context_length, message_of
from .openai_requests import Dialect, Json, body
from .protocol import ModelEvent, ModelRequest, ToolMessage

_log = structlog.get_logger(__name__)

#: A server that is up accepts a connection at once; what takes longer is unreachable.
_CONNECT_SECONDS = 10.0
#: How long to wait for the usage behind a complete answer, if the endpoint does not close the stream.
_TAIL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class OpenAISettings:
    """Where the endpoint is and how patient to be with it. Raises ValueError when that cannot be."""

    #: Up to and including the version, like ``http://127.0.0.1:11434/v1``. May hold credentials.
    base_url: str = field(repr=False)
    #: None: no Authorization header is sent.
    api_key: SecretStr | None = None
    #: The longest that one answer may take, its retries included.
    timeout_seconds: float = 600.0
    #: The longest silence: until the answer begins, and between any two bytes of it.
    stall_seconds: float = 120.0
    #: How often a call is tried again that failed before the answer began: no connection, 408, 409, 429, 5xx.
    max_retries: int = 2

    def __post_init__(self) -> None:
        url = urlsplit(self.base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(
                f"openai.base_url ({BASE_URL_SETTING}) must be a whole URL like http://127.0.0.1:11434/v1 or https://api.openai.com/v1."
            )
        if url.path.rstrip("/").endswith("/chat/completions"):
            raise ValueError(
                f"openai.base_url ({BASE_URL_SETTING}) must end before /chat/completions, which is added to it."
            )
        key = self.api_key.get_secret_value() if self.api_key is not None else ""
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ValueError(
                f"openai.api_key ({API_KEY_SETTING}) holds characters that no key has, such as a space or a line break."
            )


class OpenAIModel:
    """All models of one endpoint. An async context manager: leaving it closes the connections."""

    def __init__(self, settings: OpenAISettings) -> None:
        self._settings = settings
        key = settings.api_key.get_secret_value() if settings.api_key is not None else ""
        self._headers: dict[str, str | Omit] = {} if key else {"Authorization": Omit()}
        self._client = AsyncOpenAI(
            base_url=settings.base_url,
            api_key=key or "none",  # the SDK insists on one; the header above keeps it from being sent
            timeout=Timeout(settings.stall_seconds, connect=min(_CONNECT_SECONDS, settings.stall_seconds)),
            max_retries=settings.max_retries,
        )
        self._explainer = Explainer(
            settings.base_url, (key,), stall_seconds=settings.stall_seconds, timeout_seconds=settings.timeout_seconds
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
            answer = Answer()
            while (chunk := await self._next(chunks, answer, deadline)) is not None:
                for event in self._read(answer, chunk):
                    yield event
            for event in self._end(answer):
                yield event
        finally:
            await chunks.close()

    async def _open(self, request: ModelRequest, deadline: float) -> AsyncStream[object]:
        """Send the request; again with less when the endpoint does not know a part of it."""
        dialect = self._dialects.get(request.model, Dialect())
        while True:
            fields = body(request, dialect)
            try:
                chunks = await self._post(fields, request.model, deadline)
            except _Refused as refused:
                if (reduced := _reduced(dialect, request, fields, refused.error)) is None:
                    raise self._explainer.explain(refused.error, request.model) from refused.error
                dialect = reduced
                continue
            if dialect != self._dialects.get(request.model, Dialect()):
                # Kept only now that it helped.
                self._dialects[request.model] = dialect
                _log.info("model endpoint takes less", model=request.model, dialect=dialect)
            return chunks

    async def _post(self, fields: Json, model: str, deadline: float) -> AsyncStream[object]:
        try:
            async with asyncio.timeout_at(deadline):
                # Not chat.completions.create: it would force every chunk into the SDK's types.
                chunks = await self._client.post(
                    "/chat/completions",
                    cast_to=object,
                    body=fields,
                    options={"headers": self._headers},
                    stream=True,
                    stream_cls=AsyncStream[object],
                )
        except TimeoutError as error:
            raise self._explainer.too_slow() from error
        except APIStatusError as error:
            raise _Refused(error) from error
        except APIError as error:
            raise self._explainer.explain(error, model) from error
        content_type = chunks.response.headers.get("content-type", "")
        if re.match(r"text/html|application/json", content_type):
            await chunks.close()
            raise self._explainer.not_a_stream(content_type)
        return chunks

    async def _next(self, chunks: AsyncStream[object], answer: Answer, deadline: float) -> object | None:
        """The next chunk; None at the end."""
        if answer.is_complete:
            deadline = min(deadline, asyncio.get_running_loop().time() + _TAIL_SECONDS)
        try:
            # Around each step, not around the whole: a timeout must not strike while the caller is at work.
            async with asyncio.timeout_at(deadline):
                return await anext(chunks, None)
        except TimeoutError as error:
            if answer.is_complete:
                return None
            raise self._explainer.too_slow() from error
        except APIError as error:
            if answer.is_complete:
                return None  # only the usage is lost
            raise self._explainer.explain(error, "") from error
        except ValueError as error:
            raise self._explainer.broken("sent an event that is not JSON. Its answer is lost; try again.") from error

    def _read(self, answer: Answer, chunk: object) -> list[ModelEvent]:
        try:
            return list(answer.read(chunk))
        except BrokenAnswer as error:
            raise self._explainer.broken(str(error)) from error

    def _end(self, answer: Answer) -> list[ModelEvent]:
        try:
            return list(answer.end())
        except BrokenAnswer as error:
            raise self._explainer.broken(str(error)) from error


class _Refused(Exception):
    """The endpoint answered with an error status, which may be about a field it does not know."""

    def __init__(self, error: APIStatusError) -> None:
        super().__init__(error.status_code)
        self.error = error


def _reduced(dialect: Dialect, request: ModelRequest, fields: Json, error: APIStatusError) -> Dialect | None:
    """The dialect without what this refusal is about; None when it is about something else."""
    if error.status_code not in (400, 404, 415, 422, 500) or is_context_length(error):
        return None
    said = f"{error.param} {message_of(error)}".lower()
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
