"""All models of the server: which endpoint serves a name, and what every answer has, whoever gives it."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass

from ...domain.runs import RunErrorCode
from ...errors import ModelUnknown
from . import direct
from .endpoint import EndpointSettings, Provider
from .protocol import Finish, Model, ModelError, ModelErrorReason, ModelEvent, ModelRequest, ModelUsage
from .providers import PROVIDERS
from .retry import RetrySettings
from .routing import Routes
from .served import ServedEndpoint
from .usage import UsageEstimator

_DEFAULT_RETRY = RetrySettings()


@dataclass(frozen=True, slots=True)
class ModelListing:
    """What a client may put into ``model``. An ``id`` that ends in ``*`` stands for all names with that beginning."""

    id: str
    provider: str
    is_default: bool
    description: str


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """What the configuration tells about a model."""

    #: Tokens of a prompt and its answer together; None when nobody said.
    context_tokens: int | None = None
    #: Whether it sees images.
    vision: bool = True


class Models:
    """All models of the server; itself a `Model` that passes each request on to the endpoint of the one it names.

    Args:
        endpoints: in the order in which they are listed; see `check`.
        default: the model of assistants and runs that name none.
    """

    def __init__(self, endpoints: Sequence[ServedEndpoint] = (), default: str = direct.NAME) -> None:
        check([endpoint.settings for endpoint in endpoints])
        self._direct = direct.DirectModel()
        self._routes = Routes[ServedEndpoint]()
        for endpoint in endpoints:
            for pattern in endpoint.settings.models:
                self._routes.add(pattern, endpoint)
        self.default = default

    @classmethod
    async def open(
        cls,
        endpoints: Sequence[EndpointSettings],
        stack: AsyncExitStack,
        default: str = direct.NAME,
        retry: RetrySettings = _DEFAULT_RETRY,
    ) -> "Models":
        """Open every endpoint; leaving the stack closes them. Raises ValueError; see `check`."""
        check(endpoints)
        served = [
            ServedEndpoint(
                settings, await stack.enter_async_context(PROVIDERS[settings.provider].open(settings)), retry
            )
            for settings in endpoints
        ]
        return cls(served, default)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """See `Model.stream`. Every answer that is complete has exactly one ModelUsage, right before its Finish."""
        try:
            model = self._model(request.model)
        except ModelUnknown as error:
            raise ModelError(RunErrorCode.SERVER_ERROR, ModelErrorReason.MODEL_UNKNOWN, str(error)) from error
        estimator = UsageEstimator(request)
        counted: ModelUsage | None = None
        async with aclosing(model.stream(request)) as events:
            async for event in events:
                if isinstance(event, ModelUsage):
                    counted = event
                    continue
                if isinstance(event, Finish):
                    yield counted or ModelUsage(estimator.usage)
                estimator.note(event)
                yield event

    def check(self, name: str) -> None:
        """Raise ModelUnknown when no endpoint serves this name. Whether an endpoint knows it shows in the run."""
        self._model(name)

    def traits(self, name: str) -> ModelTraits:
        """What is known about this model; the defaults when no endpoint serves it."""
        endpoint = self._routes.find(name)
        if name == direct.NAME or endpoint is None:
            return ModelTraits()
        return ModelTraits(endpoint.settings.context_tokens, endpoint.settings.vision)

    def names(self) -> tuple[ModelListing, ...]:
        """What `ModelService.ListModels` lists."""
        listed = [
            ModelListing(
                id=direct.NAME,
                provider=direct.NAME,
                is_default=self.default == direct.NAME,
                description="No language model: runs the Python blocks of the last user message and reports.",
            )
        ]
        patterns = dict(self._routes)
        endpoint = self._routes.find(self.default)
        if self.default != direct.NAME and endpoint is not None and self.default not in patterns:
            listed.append(
                ModelListing(self.default, endpoint.settings.provider, True, "The default model of this server.")
            )
        listed += [
            ModelListing(pattern, endpoint.settings.provider, pattern == self.default, _described(pattern, endpoint))
            for pattern, endpoint in patterns.items()
        ]
        return tuple(listed)

    def _model(self, name: str) -> Model:
        if name == direct.NAME:
            return self._direct
        endpoint = self._routes.find(name)
        if endpoint is None:
            raise ModelUnknown(model=name, known=self._known())
        return endpoint

    def _known(self) -> str:
        patterns = [pattern for pattern, _ in self._routes]
        if not patterns:
            return "Without a language model this server has only 'direct'"
        shown = ", ".join(f"'{pattern}'" for pattern in [direct.NAME, *patterns][:20])
        return f"This server has {shown}{' and more' if len(patterns) >= 20 else ''}"


def provider_of(endpoint: str, name: str) -> Provider:
    """The provider of this name, which the endpoint has. Raises ValueError, in words for the server's owner."""
    if name not in PROVIDERS:
        known = " or ".join(f"'{known}'" for known in PROVIDERS)
        raise ValueError(
            f"models.endpoints: the endpoint '{endpoint}' has the provider '{name}', which there is not. Use {known}."
        )
    return PROVIDERS[name]


def check(endpoints: Sequence[EndpointSettings]) -> None:
    """Raise ValueError, in words for the server's owner, when these endpoints cannot stand side by side."""
    routes = Routes[str]()
    names = set[str]()
    for endpoint in endpoints:
        if endpoint.name in names:
            other = " The section [openai] is an endpoint of that name." if endpoint.is_section else ""
            raise ValueError(f"models.endpoints: two endpoints are named '{endpoint.name}'. Rename one of them.{other}")
        names.add(endpoint.name)
        provider_of(endpoint.name, endpoint.provider).check(endpoint)
        for pattern in endpoint.models:
            if pattern == direct.NAME:
                raise ValueError(
                    f"models.endpoints: the endpoint '{endpoint.name}' cannot serve the name 'direct', which is the "
                    "built-in model's."
                )
            try:
                routes.add(pattern, endpoint.name)
            except KeyError as taken:
                raise ValueError(_twice(pattern, taken.args[0], endpoint.name)) from None


def _twice(pattern: str, first: str, second: str) -> str:
    if first == second:
        return f"models.endpoints: the endpoint '{first}' has the name '{pattern}' twice in models. Remove one."
    return (
        f"models.endpoints: both '{first}' and '{second}' serve '{pattern}', so it is not clear which one is meant. "
        "Give one of them other names in models; the longest name that fits a model wins."
    )


def _described(pattern: str, endpoint: ServedEndpoint) -> str:
    name = endpoint.settings.name
    if pattern == "*":
        return f"Every other model of the endpoint '{name}'."
    if pattern.endswith("*"):
        return f"The models of the endpoint '{name}' whose names begin with '{pattern[:-1]}'."
    return f"A model of the endpoint '{name}'."
