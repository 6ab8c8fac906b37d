"""What went wrong with an endpoint, said so that the client or the server's owner knows what to do."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ...domain.runs import RunErrorCode
from .endpoint import EndpointSettings
from .protocol import ModelError, ModelErrorReason
from .retry import is_transient, retry_after

#: Characters of an endpoint's own message that are passed on.
_MAX_DETAIL = 500

#: How endpoints say that the prompt is too long; most have no code of their own for it. OpenAI and vLLM ("maximum
#: context length", "context length is only"), llama.cpp ("exceeds the available context size"), SGLang ("longer than
#: the model's context length"), LiteLLM ("context window exceeded"), Mistral ("too large for model"), Anthropic
#: ("prompt is too long", "exceed context limit").
_CONTEXT_LENGTH = re.compile(
    r"context_length_exceeded|exceed_context_size|context (length|size|window|limit)|contextwindow|"
    r"prompt is too long|input is too long|too many (input )?tokens|too large for model|reduce the length",
    re.IGNORECASE,
)
_CONTEXT_LENGTH_STATUSES = (400, 413, 422, 500)

#: Errors within a stream that are the request's fault, so that another attempt would meet them again.
_LASTING = re.compile(r"invalid_request|authentication|permission|not_found|billing|insufficient_quota", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error that the endpoint told, in its own words."""

    said: str
    #: Its codes and types, separated by spaces.
    kind: str = ""
    #: None: it came as an event, after the answer had begun with status 200.
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_context_length(self) -> bool:
        if self.status is not None and self.status not in _CONTEXT_LENGTH_STATUSES:
            return False
        return _CONTEXT_LENGTH.search(f"{self.kind} {self.said}") is not None


class Explainer:
    """Turns the failures of one endpoint into ModelErrors. No message holds credentials, whatever the endpoint says."""

    def __init__(self, endpoint: EndpointSettings) -> None:
        self._settings = endpoint
        self._endpoint = endpoint.shown_url
        key = endpoint.api_key.get_secret_value() if endpoint.api_key is not None else ""
        self._secrets = tuple(secret for secret in (key, urlsplit(endpoint.base_url).password) if secret)

    def stalled(self) -> ModelError:
        return self._error(
            ModelErrorReason.MODEL_TIMEOUT,
            f"sent nothing for {self._settings.stall_seconds:g} seconds. Try again later; if the model needs longer to "
            f"begin, raise {self._settings.setting('stall_seconds')} on the server.",
            transient=True,
        )

    def too_slow(self) -> ModelError:
        return self._error(
            ModelErrorReason.MODEL_TIMEOUT,
            f"did not finish its answer within {self._settings.timeout_seconds:g} seconds. Ask for a shorter answer, "
            f"or raise {self._settings.setting('timeout_seconds')} on the server.",
        )

    def broken(self, what: str, *, transient: bool = False) -> ModelError:
        """The answer broke off or cannot be read; ``what`` goes on after "The model endpoint ..."."""
        return self._error(ModelErrorReason.MODEL_ANSWER_BROKEN, what, transient=transient)

    def not_a_stream(self, content_type: str) -> ModelError:
        return self.broken(
            f"answered with {self._clean(content_type) or 'no content type'} instead of an event stream. Check "
            f"{self._settings.setting('base_url')} on the server; it usually ends in /v1."
        )

    def unreachable(self, error: BaseException) -> ModelError:
        """No connection, or one that ended; the reason is among the error's causes."""
        # aiohttp names the host with how it would secure the connection, whether or not that was what failed.
        text = re.sub(r"\bssl:(<[^>]*>|\w+)", "", " ".join(_causes(error)))
        if "ProxyError" in text:
            why = "the proxy on the way refused the connection"
        elif re.search(r"certificate|\bssl\b|tls", text, re.IGNORECASE):
            why = "no secure connection could be made"
        elif re.search(r"name or service|resolution|getaddrinfo|nodename|no address", text, re.IGNORECASE):
            why = "its host name is not known"
        elif re.search(r"refused|all connection attempts failed|connect call failed", text, re.IGNORECASE):
            why = "the connection was refused"
        elif re.search(r"incomplete|closed|disconnected|reset|ReadError|RemoteProtocolError", text):
            return self.broken("closed the connection before its answer was complete. Try again.", transient=True)
        elif "ConnectTimeout" in text:
            why = "its host does not answer"
        else:
            why = "the connection failed"
        return self._error(
            ModelErrorReason.MODEL_UNREACHABLE,
            f"cannot be reached: {why}. Check that it runs, and {self._settings.setting('base_url')} on the server.",
            transient=True,
        )

    def timed_out(self, error: BaseException) -> ModelError:
        """The SDK gave up waiting: for the connection, or for the next byte."""
        if any("ConnectTimeout" in cause for cause in _causes(error)):
            return self.unreachable(error)
        return self.stalled()

    def refused(self, refusal: Refusal, model: str) -> ModelError:
        """An error answer to a call of this model, or an error event within one."""
        if refusal.is_context_length:
            for_model = f" for the model '{model}'" if model else ""
            return self._error(
                ModelErrorReason.CONTEXT_LENGTH_EXCEEDED,
                f"says that the prompt is too long{for_model}{self._detail(refusal)}. Shorten the thread, or set "
                "truncation_strategy to last_messages.",
                RunErrorCode.INVALID_PROMPT,
            )
        if refusal.status is None:
            return self._within_stream(refusal)
        return self._by_status(refusal, refusal.status, model)

    def _by_status(self, refusal: Refusal, status: int, model: str) -> ModelError:
        detail = self._detail(refusal)
        transient = is_transient(status, refusal.headers, f"{refusal.kind} {refusal.said}")
        wait = retry_after(refusal.headers)
        if status in (401, 403):
            # Its own words are left out: endpoints like to repeat parts of the key.
            return self._error(
                ModelErrorReason.MODEL_CREDENTIALS_REFUSED,
                f"refused the server's credentials ({status}). Check {self._settings.setting('api_key')} on the "
                f"server, and that this key may use the model '{model}'.",
            )
        if status == 404:
            return self._error(
                ModelErrorReason.MODEL_UNKNOWN,
                f"has no model '{model}' (404){detail}. Use a name it knows (it lists them at /models). If the path is "
                f"wrong, correct {self._settings.setting('base_url')} on the server; it usually ends in /v1.",
            )
        if status == 429:
            return self._error(
                ModelErrorReason.MODEL_RATE_LIMITED,
                f"refused the call because of a rate limit or quota (429){detail}. Try again later.",
                RunErrorCode.RATE_LIMIT_EXCEEDED,
                transient=transient,
                retry_after=wait,
            )
        if status < 500:
            return self._error(
                ModelErrorReason.MODEL_REQUEST_REFUSED,
                f"refused the request ({status}){detail}. Change what it names and create a new run.",
                RunErrorCode.INVALID_PROMPT,
                transient=transient,
                retry_after=wait,
            )
        return self._error(
            ModelErrorReason.MODEL_FAILED,
            f"failed ({status}){detail}. Try again later.",
            transient=transient,
            retry_after=wait,
        )

    def _within_stream(self, refusal: Refusal) -> ModelError:
        lasting = _LASTING.search(refusal.kind) is not None
        if re.search(r"rate_limit|\b429\b", refusal.kind):
            return self._error(
                ModelErrorReason.MODEL_RATE_LIMITED,
                f"stopped because of a rate limit{self._detail(refusal)}. Try again later.",
                RunErrorCode.RATE_LIMIT_EXCEEDED,
                transient=not lasting,
            )
        return self._error(
            ModelErrorReason.MODEL_FAILED,
            f"failed in the middle of its answer{self._detail(refusal)}. Try again later.",
            transient=not lasting,
        )

    def _error(
        self,
        reason: ModelErrorReason,
        what: str,
        code: RunErrorCode = RunErrorCode.SERVER_ERROR,
        *,
        transient: bool = False,
        retry_after: float | None = None,
    ) -> ModelError:
        message = f"The model endpoint {self._endpoint} {what}"
        return ModelError(code, reason, message, transient=transient, retry_after=retry_after)

    def _detail(self, refusal: Refusal) -> str:
        """The endpoint's own words, as they may be shown."""
        said = self._clean(refusal.said).rstrip(". ")
        return f": {said}" if said else ""

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = re.sub(r"(sk-|Bearer\s+)[\w*.-]{4,}", r"\1***", " ".join(text.split()))
        return text if len(text) <= _MAX_DETAIL else f"{text[:_MAX_DETAIL]}..."


def message_in(body: object) -> str:
    """What the endpoint itself said in the body of an error; an HTML page says nothing."""
    while isinstance(body, dict):
        # OpenAI, Anthropic: {"error": {"message"}}; FastAPI: {"detail"}; Ollama: {"error": "..."}
        body = next((body[name] for name in ("message", "error", "detail", "msg") if body.get(name)), None)
    if isinstance(body, list):
        return str(body)
    if isinstance(body, str):
        return "" if body.lstrip().startswith("<") else body
    return ""


def _causes(error: BaseException) -> Sequence[str]:
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(texts) < 10:
        texts.append(f"{type(cause).__name__} {cause}")
        cause = cause.__cause__ or cause.__context__
    return texts
