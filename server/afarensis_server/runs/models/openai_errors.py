"""What went wrong with an endpoint, said so that the client or the server's owner knows what to do."""

import re
from urllib.parse import urlsplit

import openai

from ...domain.runs import RunErrorCode
from .protocol import ModelError, ModelErrorReason

BASE_URL_SETTING = "AFARENSIS_OPENAI_BASE_URL"
API_KEY_SETTING = "AFARENSIS_OPENAI_API_KEY"
STALL_SETTING = "AFARENSIS_OPENAI_STALL_SECONDS"
TIMEOUT_SETTING = "AFARENSIS_OPENAI_TIMEOUT_SECONDS"

#: Characters of an endpoint's own message that are passed on.
_MAX_DETAIL = 500

#: How endpoints say that the prompt is too long; most have no code of their own for it. OpenAI and vLLM ("maximum
#: context length", "context length is only"), llama.cpp ("exceeds the available context size"), SGLang ("longer than
#: the model's context length"), LiteLLM ("context window exceeded"), Mistral ("too large for model"), Anthropic behind
#: a proxy ("prompt is too long").
_CONTEXT_LENGTH = re.compile(
    r"context_length_exceeded|exceed_context_size|context (length|size|window)|contextwindow|"
    r"prompt is too long|input is too long|too many (input )?tokens|too large for model|reduce the length",
    re.IGNORECASE,
)


class Explainer:
    """Turns the failures of one endpoint into ModelErrors.

    Args:
        base_url: the endpoint, named in messages without its credentials.
        secrets: what no message may hold, whatever the endpoint says.
        stall_seconds: the longest silence, named in messages.
        timeout_seconds: the longest answer, named in messages.
    """

    def __init__(self, base_url: str, secrets: tuple[str, ...], stall_seconds: float, timeout_seconds: float) -> None:
        parts = urlsplit(base_url)
        self._endpoint = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._secrets = tuple(secret for secret in (*secrets, parts.password) if secret)
        self._stall_seconds = stall_seconds
        self._timeout_seconds = timeout_seconds

    def explain(self, error: openai.APIError, model: str) -> ModelError:
        """The failure of a call to this model."""
        match error:
            case openai.APITimeoutError() if not any("ConnectTimeout" in cause for cause in _causes(error)):
                return self.stalled()
            case openai.APIConnectionError():
                return self._unreachable(error)
            case openai.APIStatusError():
                return self._refused(error, model)
            case _:
                return self._within_stream(error)

    def stalled(self) -> ModelError:
        return self._error(
            ModelErrorReason.MODEL_TIMEOUT,
            f"sent nothing for {self._stall_seconds:g} seconds. Try again later; if the model needs longer to begin, "
            f"raise {STALL_SETTING} on the server.",
        )

    def too_slow(self) -> ModelError:
        return self._error(
            ModelErrorReason.MODEL_TIMEOUT,
            f"did not finish its answer within {self._timeout_seconds:g} seconds. Ask for a shorter answer, or raise "
            f"{TIMEOUT_SETTING} on the server.",
        )

    def broken(self, what: str) -> ModelError:
        """The answer broke off or cannot be read; ``what`` goes on after "The model endpoint ..."."""
        return self._error(ModelErrorReason.MODEL_ANSWER_BROKEN, what)

    def not_a_stream(self, content_type: str) -> ModelError:
        return self.broken(
            f"answered with {self._clean(content_type) or 'no content type'} instead of an event stream. Check "
            f"{BASE_URL_SETTING} on the server; it usually ends in /v1."
        )

    def _unreachable(self, error: openai.APIConnectionError) -> ModelError:
        causes = _causes(error)
        text = " ".join(causes)
        if re.search(r"certificate|\bssl\b|tls", text, re.IGNORECASE):
            why = "no secure connection could be made"
        elif re.search(r"name or service|resolution|getaddrinfo|nodename|no address", text, re.IGNORECASE):
            why = "its host name is not known"
        elif re.search(r"refused|all connection attempts failed", text, re.IGNORECASE):
            why = "the connection was refused"
        elif "ConnectTimeout" in text:
            why = "its host does not answer"
        elif re.search(r"incomplete|closed|disconnected|reset|ReadError|RemoteProtocolError", text):
            return self.broken("closed the connection before its answer was complete. Try again.")
        else:
            why = "the connection failed"
        return self._error(
            ModelErrorReason.MODEL_UNREACHABLE,
            f"cannot be reached: {why}. Check that it runs, and {BASE_URL_SETTING} on the server.",
        )

    def _refused(self, error: openai.APIStatusError, model: str) -> ModelError:
        status, detail = error.status_code, self._detail(error)
        if status in (401, 403):
            # Its own words are left out: endpoints like to repeat parts of the key.
            return self._error(
                ModelErrorReason.MODEL_CREDENTIALS_REFUSED,
                f"refused the server's credentials ({status}). Check {API_KEY_SETTING} on the server, and that "
                f"this key may use the model '{model}'.",
            )
        if is_context_length(error):
            return self._error(
                ModelErrorReason.CONTEXT_LENGTH_EXCEEDED,
                f"says that the prompt is too long for the model '{model}'{detail}. Shorten the thread, or set "
                "truncation_strategy to last_messages.",
                RunErrorCode.INVALID_PROMPT,
            )
        if status == 404:
            return self._error(
                ModelErrorReason.MODEL_UNKNOWN,
                f"has no model '{model}' (404){detail}. Use a name it knows (it lists them at /models). If the path is "
                f"wrong, correct {BASE_URL_SETTING} on the server; it usually ends in /v1.",
            )
        if status == 429:
            return self._error(
                ModelErrorReason.MODEL_RATE_LIMITED,
                f"refused the call because of a rate limit or quota (429){detail}. Try again later.",
                RunErrorCode.RATE_LIMIT_EXCEEDED,
            )
        if status < 500:
            return self._error(
                ModelErrorReason.MODEL_REQUEST_REFUSED,
                f"refused the request ({status}){detail}. Change what it names and create a new run.",
                RunErrorCode.INVALID_PROMPT,
            )
        return self._error(ModelErrorReason.MODEL_FAILED, f"failed ({status}){detail}. Try again later.")

    def _within_stream(self, error: openai.APIError) -> ModelError:
        """An error that came as an event, after the answer had begun with status 200."""
        if is_context_length(error):
            return self._error(
                ModelErrorReason.CONTEXT_LENGTH_EXCEEDED,
                f"says that the prompt is too long{self._detail(error)}. Shorten the thread, or set "
                "truncation_strategy to last_messages.",
                RunErrorCode.INVALID_PROMPT,
            )
        if error.code == "429" or "rate_limit" in f"{error.code} {error.type}":
            return self._error(
                ModelErrorReason.MODEL_RATE_LIMITED,
                f"stopped because of a rate limit{self._detail(error)}. Try again later.",
                RunErrorCode.RATE_LIMIT_EXCEEDED,
            )
        return self._error(
            ModelErrorReason.MODEL_FAILED, f"failed in the middle of its answer{self._detail(error)}. Try again later."
        )

    def _error(self, reason: ModelErrorReason, what: str, code: RunErrorCode = RunErrorCode.SERVER_ERROR) -> ModelError:
        return ModelError(code, reason, f"The model endpoint {self._endpoint} {what}")

    def _detail(self, error: openai.APIError) -> str:
        """The endpoint's own words, as they may be shown."""
        said = self._clean(message_of(error)).rstrip(". ")
        return f": {said}" if said else ""

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = re.sub(r"(sk-|Bearer\s+)[\w*.-]{4,}", r"\1***", " ".join(text.split()))
        return text if len(text) <= _MAX_DETAIL else f"{text[:_MAX_DETAIL]}..."


def message_of(error: openai.APIError) -> str:
    """What the endpoint itself said, without what the SDK puts around it; an HTML page says nothing."""
    body = error.body
    while isinstance(body, dict):
        # OpenAI: {"error": {"message"}}; FastAPI: {"detail"}; Ollama: {"error": "..."}
        body = next((body[name] for name in ("message", "error", "detail", "msg") if body.get(name)), None)
    if isinstance(body, list):
        return str(body)
    if isinstance(body, str):
        return "" if body.lstrip().startswith("<") else body
    return "" if isinstance(error, openai.APIStatusError) else error.message


def is_context_length(error: openai.APIError) -> bool:
    if isinstance(error, openai.APIStatusError) and error.status_code not in (400, 413, 422, 500):
        return False
    return _CONTEXT_LENGTH.search(f"{error.code} {error.type} {message_of(error)}") is not None


def _causes(error: BaseException) -> list[str]:
    texts: list[str] = []
    cause = error.__cause__ or error.__context__
    while cause is not None and len(texts) < 10:
        texts.append(f"{type(cause).__name__} {cause}")
        cause = cause.__cause__ or cause.__context__
    return texts
