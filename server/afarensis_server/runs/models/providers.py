"""The table of providers. A new one is a module with its `Provider`, and a line here."""

from collections.abc import Mapping

from . import anthropic, openai
from .endpoint import Provider

PROVIDERS: Mapping[str, Provider] = {provider.name: provider for provider in (openai.PROVIDER, anthropic.PROVIDER)}
