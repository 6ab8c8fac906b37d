"""Which provider serves a model's name, and what is said when none does."""

from contextlib import aclosing

import pytest

from afarensis_server.errors import ModelUnknown
from afarensis_server.runs.models.direct import DirectModel
from afarensis_server.runs.models.protocol import Finish, FinishReason, ModelError, ModelErrorReason, ModelRequest
from afarensis_server.runs.models.registry import Models


async def test_direct_answers_without_any_configuration() -> None:
    async with aclosing(Models().stream(ModelRequest("direct", ()))) as events:
        assert [event async for event in events][-1] == Finish(FinishReason.STOP)


def test_other_names_need_an_endpoint_and_the_error_names_the_settings() -> None:
    with pytest.raises(ModelUnknown, match="AFARENSIS_OPENAI_BASE_URL") as raised:
        Models().check("gpt-4.1")
    assert "'gpt-4.1'" in str(raised.value)
    with pytest.raises(ModelError, match="AFARENSIS_OPENAI_API_KEY") as failed:
        Models().stream(ModelRequest("gpt-4.1", ()))
    assert failed.value.reason is ModelErrorReason.MODEL_UNKNOWN


def test_an_endpoint_serves_every_other_name() -> None:
    models = Models(DirectModel(), default="qwen3")
    models.check("anything")
    with pytest.raises(ModelUnknown):
        models.check("")
    listed = models.names()
    assert [model.id for model in listed] == ["direct", "qwen3", "*"]
    assert [model.id for model in listed if model.is_default] == ["qwen3"]


def test_without_an_endpoint_only_direct_is_listed() -> None:
    assert [(model.id, model.is_default) for model in Models().names()] == [("direct", True)]
