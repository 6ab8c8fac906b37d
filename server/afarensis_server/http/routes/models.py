"""/v1/models."""

from starlette.responses import Response

from ...errors import ModelUnknown
from ...runs.models.registry import Models
from ..convert.values import Json
from ..endpoint import Call, JsonResponse
from ..errors import Failure, Refused
from .table import Table


class ModelRoutes:
    def __init__(self, models: Models) -> None:
        self._models = models

    def add(self, table: Table) -> None:
        table.add("/models", GET=self._list)
        table.add("/models/{model:path}", GET=self._get)

    async def _list(self, call: Call) -> Response:
        models = [_model_json(model.id, model.provider) for model in self._models.names()]
        return JsonResponse({"object": "list", "data": models})

    async def _get(self, call: Call) -> Response:
        name = call.path("model")
        try:
            self._models.check(name)
        except ModelUnknown as error:
            text = f"The model '{name[:200]}' does not exist or you do not have access to it."
            raise Refused(Failure(404, text, param="model", code="model_not_found")) from error
        return JsonResponse(_model_json(name, "afarensis"))


def _model_json(name: str, owner: str) -> Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}
