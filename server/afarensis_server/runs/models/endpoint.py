"""Where language models are: one endpoint, the names it serves, and how to treat it."""

import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from .protocol import Model

#: The name of the endpoint that the section ``openai`` of the settings describes.
OPENAI_SECTION = "openai"

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """One endpoint. Raises ValueError, in words for the server's owner, when it cannot be."""

    #: Up to and including the version where the provider has one in its path. May hold credentials.
    base_url: str = field(repr=False)
    #: None: none is sent.
    api_key: SecretStr | None = None
    name: str = OPENAI_SECTION
    #: A name in `providers.PROVIDERS`.
    provider: str = "openai"
    #: Names of models, or beginnings of names followed by ``*``.
    models: tuple[str, ...] = ("*",)
    #: Calls at the same time; more wait in line.
    concurrency: int = 200
    #: The longest that one attempt at an answer may take.
    timeout_seconds: float = 600.0
    #: The longest silence: until the answer begins, and between any two bytes of it.
    stall_seconds: float = 120.0
    #: How often a call is tried again that failed before anything of its answer was seen.
    max_retries: int = 2
    #: Tokens of a prompt and its answer together; None when nobody said.
    context_tokens: int | None = None
    #: Whether its models see images.
    vision: bool = True
    #: Whether a ``<think>`` block that an answer begins with is reasoning.
    think_tags: bool = True
    #: Fields that are never sent, because its models do not know them.
    omit: frozenset[str] = frozenset()
    #: What an answer may take when the run sets no limit, where the provider demands one.
    max_output_tokens: int = 16_384

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"models.endpoints: '{self.name}' cannot be the name of an endpoint. Use up to 64 letters, digits, "
                "'_', '-' and '.'."
            )
        url = urlsplit(self.base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(
                f"{self.where('base_url')} must be a whole URL like http://127.0.0.1:11434/v1 or "
                "https://api.openai.com/v1."
            )
        key = self.api_key.get_secret_value() if self.api_key is not None else ""
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ValueError(
                f"{self.where('api_key')} holds characters that no key has, such as a space or a line break."
            )
        if not self.models:
            raise ValueError(f'{self.where("models")} names no model. Name some, or write "*" for every name.')
        for pattern in self.models:
            if not pattern or "*" in pattern[:-1] or len(pattern) > 256:
                raise ValueError(
                    f"{self.where('models')}: '{pattern}' cannot be a name of models. Write a name, or the beginning "
                    "of names with one '*' behind it."
                )

    @property
    def is_section(self) -> bool:
        """Whether the section ``openai`` describes it."""
        return self.name == OPENAI_SECTION

    @property
    def shown_url(self) -> str:
        """The base URL without its credentials."""
        parts = urlsplit(self.base_url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def split_url(self) -> tuple[str, str]:
        """The base URL without its credentials, and those as the value of a header Authorization; empty without any."""
        parts = urlsplit(self.base_url)
        userinfo, at, host = parts.netloc.rpartition("@")
        if not at:
            return self.base_url, ""
        name, _, password = userinfo.partition(":")
        encoded = b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
        return parts._replace(netloc=host).geturl(), f"Basic {encoded}"

    def setting(self, name: str) -> str:
        """What an owner has to look for to change this setting."""
        if self.is_section:
            return f"AFARENSIS_OPENAI_{name.upper()}"
        return f"{name} of the endpoint '{self.name}' (models.endpoints)"

    def where(self, name: str) -> str:
        """How a sentence about a wrong setting begins."""
        if self.is_section:
            return f"openai.{name} ({self.setting(name)})"
        return f"models.endpoints: {name} of the endpoint '{self.name}'"


@dataclass(frozen=True, slots=True)
class Provider:
    """A way to speak with endpoints: everything that the rest of the server knows of it."""

    name: str
    #: The endpoint's models, for as long as the context is open.
    open: Callable[[EndpointSettings], AbstractAsyncContextManager[Model]]
    #: Raises ValueError, in words for the server's owner, for what is wrong with this provider only.
    check: Callable[[EndpointSettings], None]
    #: Where the endpoint lists its models, and the headers that it wants: what `doctor` asks for.
    listing: Callable[[EndpointSettings], tuple[str, Mapping[str, str]]]
    #: The base URL that an endpoint has when its settings have none; empty: they must have one.
    base_url: str = ""


def check_omit(settings: EndpointSettings, known: frozenset[str]) -> None:
    """Raise ValueError when ``omit`` names a field that the provider cannot leave out."""
    if unknown := sorted(settings.omit - known):
        raise ValueError(
            f"models.endpoints: the endpoint '{settings.name}' cannot omit '{unknown[0]}'. What its provider can leave "
            f"out is {', '.join(sorted(known))}."
        )
