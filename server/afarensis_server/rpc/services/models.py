"""ModelService."""

from afarensis import v1 as pb

from ...runs.models.registry import Models
from ..disconnects import Context


class ModelServicer(pb.ModelServiceServicer):
    """Tells which models the server can run."""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        models = [
            pb.Model(id=model.id, provider=model.provider, is_default=model.is_default, description=model.description)
            for model in self._models.names()
        ]
        return pb.ListModelsResponse(models=models)
