"""Which provider serves a model's name."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from ...domain.runs import RunErrorCode
from ...errors import ModelUnknown
from . import direct
from .protocol import Model, ModelError, ModelErrorReason, ModelEvent, ModelRequest


@dataclass(frozen=True, slots=True)
class ModelListing:
    """What a client may put into ``model``. An ``id`` that ends in ``*`` stands for all names with that beginning."""

    id: str
    provider: str
    is_default: bool
    description: str


class Models:
    """All models of the server; itself a `Model` that passes each request on to the one it names.

    Args:
        openai: serves every name but ``direct``; None when no endpoint is configured.
        default: the model of assistants and runs that name none.
    """

    def __init__(self, openai: Model | None = None, default: str = direct.NAME) -> None:
        self._direct = direct.DirectModel()
        self._openai = openai
        self.default = default

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """See `Model.stream`. An unknown model raises ModelError at once."""
        try:
            provider = self._provider(request.model)
        except ModelUnknown as error:
            raise ModelError(RunErrorCode.SERVER_ERROR, ModelErrorReason.MODEL_UNKNOWN, str(error)) from error
        return provider.stream(request)

    def check(self, name: str) -> None:
        """Raise ModelUnknown when no provider serves this name. Whether an endpoint knows it shows in the run."""
        self._provider(name)

    def names(self) -> tuple[ModelListing, ...]:
        """What `ModelService.ListModels` lists."""
        listed = [
            ModelListing(
                id=direct.NAME,
                provider="direct",
                is_default=self.default == direct.NAME,
                description="No language model: runs the Python blocks of the last user message and reports.",
            )
        ]
        if self._openai is not None:
            if self.default != direct.NAME:
                listed.append(ModelListing(self.default, "openai", True, "The default model of this server."))
            listed.append(ModelListing("*", "openai", False, "Every model of the OpenAI-compatible endpoint."))
        return tuple(listed)

    def _provider(self, name: str) -> Model:
        if name == direct.NAME:
            return self._direct
        if self._openai is None or not name:
            raise ModelUnknown(model=name)
        return self._openai
