"""The endpoints that the settings name, and what is said when they cannot be."""

import json
from typing import Any

import pytest
from pydantic import SecretStr

from afarensis_server.configuration import load
from afarensis_server.endpoints import model_endpoints
from afarensis_server.runs.models.endpoint import EndpointSettings

LOCAL = {"name": "local", "base_url": "http://127.0.0.1:8000/v1"}


def endpoints(*tables: dict[str, Any], **openai: str) -> list[EndpointSettings]:
    flags = {"models.endpoints": json.dumps(tables), **{f"openai.{name}": value for name, value in openai.items()}}
    return model_endpoints(load(flags).settings)


def test_without_settings_there_is_none() -> None:
    assert endpoints() == []


def test_the_section_openai_is_the_first_and_serves_what_is_left() -> None:
    found = endpoints({**LOCAL, "models": ["qwen*"]}, base_url="http://host/v1", api_key="sk-1")
    assert [(endpoint.name, endpoint.models) for endpoint in found] == [("openai", ("*",)), ("local", ("qwen*",))]
    assert found[0].api_key == SecretStr("sk-1")


def test_anthropics_own_address_is_known() -> None:
    (found,) = endpoints({"name": "claude", "provider": "anthropic"})
    assert found.base_url == "https://api.anthropic.com"


def test_key_may_come_from_a_variable_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-mine")
    (found,) = endpoints({**LOCAL, "api_key_env": "MY_KEY"})
    assert found.api_key == SecretStr("sk-mine")


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ([{"name": "a"}], "the endpoint 'a' has no base_url. Add it."),
        (
            [{**LOCAL, "provider": "gemini"}],
            "has the provider 'gemini', which there is not. Use 'openai' or 'anthropic'.",
        ),
        ([LOCAL, {**LOCAL, "models": ["x"]}], "two endpoints are named 'local'. Rename one of them."),
        ([LOCAL, {**LOCAL, "name": "other"}], "both 'local' and 'other' serve '*'"),
        ([{**LOCAL, "name": "openai"}], "The section [openai] is an endpoint of that name."),
        ([{**LOCAL, "models": ["a*b"]}], "models of the endpoint 'local': 'a*b' cannot be a name of models"),
        ([{**LOCAL, "omit": ["temperature"]}], "the endpoint 'local' cannot omit 'temperature'"),
        ([{**LOCAL, "api_key": "a b"}], "api_key of the endpoint 'local' holds characters that no key has"),
        ([{**LOCAL, "api_key": "k", "api_key_env": "K"}], "has both api_key and api_key_env. Remove one of them."),
        ([{**LOCAL, "api_key_env": "NOT_SET"}], "from the environment variable NOT_SET, which is not set."),
        (
            [{"name": "claude", "provider": "anthropic", "base_url": "https://api.anthropic.com/v1/messages"}],
            "base_url of the endpoint 'claude' must end before /v1/messages",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(tables: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ValueError, match=r"^models\.endpoints: ") as refused:
        endpoints(*tables, **({"base_url": "http://host/v1"} if tables[0]["name"] == "openai" else {}))
    assert said in str(refused.value)
