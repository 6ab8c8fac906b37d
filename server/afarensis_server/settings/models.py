"""The language models."""

import json
from typing import Annotated

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, SecretStr

from .base import Section


class Endpoint(Section):
    """What every endpoint of language models has."""

    base_url: str = ""
    """The endpoint up to and including its version, like `https://api.openai.com/v1`. Empty: there is none (in
    [models] with `anthropic`: `https://api.anthropic.com`)."""
    api_key: SecretStr = SecretStr("")
    """The key of the endpoint. Empty: none is sent."""
    concurrency: PositiveInt = 200
    """Calls at the same time; more wait in line, first come, first served."""
    timeout_seconds: PositiveFloat = 600.0
    """How long one attempt at an answer may take. No new attempt begins later than this after the first."""
    stall_seconds: PositiveFloat = 120.0
    """How long the endpoint may be silent: until an answer begins, and between any two bytes of it."""
    max_retries: Annotated[int, Field(ge=0)] = 2
    """How often a call that failed before anything of its answer was seen is tried again: no connection, status 408,
    409, 425, 429 or 5xx, or an error in the stream. Never beyond the time of the run."""
    context_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens of a prompt and its answer together that its models take. 0: nobody knows."""
    vision: bool = True
    """Whether its models see images."""
    think_tags: bool = True
    """Whether a `<think>` block at the beginning of an answer is the model's reasoning, which nobody is shown."""


class OpenAISection(Endpoint):
    """The language models of an OpenAI-compatible endpoint, which has the name `openai`. It serves every model that no
    endpoint of [models] names."""


class EndpointSection(Endpoint):
    """One of the endpoints in [models]."""

    name: str
    """What it is called in logs and errors; each endpoint has another name."""
    provider: str = "openai"
    """How to speak with it: `openai` for everything that has OpenAI's chat completions, or `anthropic`."""
    api_key_env: str = ""
    """The environment variable that holds its key, in place of `api_key`."""
    models: tuple[str, ...] = ("*",)
    """The models that go there: names, or beginnings of names followed by `*`. The longest that fits a model wins."""
    omit: tuple[str, ...] = ()
    """What its models do not know, so that it is never sent. `openai`: `stream_options`, `parallel_tool_calls`,
    `max_tokens` (`max_completion_tokens` takes its place), `tool_images`; `anthropic`: `forced_tools`,
    `output_format`, `eager_input_streaming`. Most of it is found out by itself."""
    max_output_tokens: PositiveInt = 16_384
    """Tokens of an answer when the run sets no limit; only `anthropic` wants one."""


def _from_json(value: object) -> object:
    """A list of tables as flags and variables have it."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value or "[]")
    except ValueError as error:
        raise ValueError(f'the value must be a JSON list like [{{"name": "local", ...}}], but {error}') from None


class ModelsSection(Section):
    """The language models: endpoints side by side, and how calls of them are tried again."""

    endpoints: Annotated[tuple[EndpointSection, ...], BeforeValidator(_from_json)] = ()
    """Endpoints besides that of [openai], as tables `[[models.endpoints]]` in the file; elsewhere as JSON. Each has
    a `name`, `provider`, `base_url`, `api_key` or `api_key_env`, `models`, `omit`, `max_output_tokens`, and what
    [openai] has."""
    backoff_seconds: PositiveFloat = 0.5
    """The wait before a call is tried again; each further one is twice as long. Half of it to all of it is waited."""
    max_backoff_seconds: PositiveFloat = 30.0
    """The longest of these waits."""
    max_retry_after_seconds: PositiveFloat = 120.0
    """The longest wait that an endpoint may ask for (Retry-After). One that asks for more is not tried again."""
