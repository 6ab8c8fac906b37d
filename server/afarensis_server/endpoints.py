"""The endpoints of the language models, as the settings name them."""

import os
from typing import Any

from pydantic import SecretStr

from .runs.models import registry
from .runs.models.endpoint import OPENAI_SECTION, EndpointSettings
from .settings import Endpoint, EndpointSection, Settings


def model_endpoints(settings: Settings) -> list[EndpointSettings]:
    """Every endpoint, that of the section ``openai`` first. Raises ValueError, in words for the server's owner."""
    section = settings.openai
    endpoints = [_endpoint(section, section.api_key, name=OPENAI_SECTION)] if section.base_url else []
    endpoints += [_from_table(table) for table in settings.models.endpoints]
    registry.check(endpoints)
    return endpoints


def _from_table(table: EndpointSection) -> EndpointSettings:
    provider = registry.provider_of(table.name, table.provider)
    base_url = table.base_url or provider.base_url
    if not base_url:
        raise ValueError(f"models.endpoints: the endpoint '{table.name}' has no base_url. Add it.")
    return _endpoint(
        table,
        _key(table),
        name=table.name,
        base_url=base_url,
        provider=table.provider,
        models=table.models,
        omit=frozenset(table.omit),
        max_output_tokens=table.max_output_tokens,
    )


def _endpoint(section: Endpoint, key: SecretStr, **more: Any) -> EndpointSettings:
    return EndpointSettings(
        **{
            "base_url": section.base_url,
            "api_key": key if key.get_secret_value() else None,
            "concurrency": section.concurrency,
            "timeout_seconds": section.timeout_seconds,
            "stall_seconds": section.stall_seconds,
            "max_retries": section.max_retries,
            "context_tokens": section.context_tokens or None,
            "vision": section.vision,
            "think_tags": section.think_tags,
            **more,
        }
    )


def _key(table: EndpointSection) -> SecretStr:
    if not table.api_key_env:
        return table.api_key
    if table.api_key.get_secret_value():
        raise ValueError(
            f"models.endpoints: the endpoint '{table.name}' has both api_key and api_key_env. Remove one of them."
        )
    if not (value := os.environ.get(table.api_key_env)):
        raise ValueError(
            f"models.endpoints: the endpoint '{table.name}' takes its key from the environment variable "
            f"{table.api_key_env}, which is not set. Set it, or remove api_key_env."
        )
    return SecretStr(value)
