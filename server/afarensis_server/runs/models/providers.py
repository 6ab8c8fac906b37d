"""The table of providers. A new one is a module with its `PROVIDER`, and its name here."""

from collections.abc import Iterator, Mapping
from importlib import import_module

from .endpoint import Provider

#: The providers' names, which are their modules' too.
_NAMES = ("openai", "anthropic")


class _Providers(Mapping[str, Provider]):
    """Imports a provider when it is asked for: the SDK that it brings along takes up to a second."""

    def __getitem__(self, name: str) -> Provider:
        if name not in _NAMES:
            raise KeyError(name)
        provider: Provider = import_module(f".{name}", __package__).PROVIDER
        return provider

    def __contains__(self, name: object) -> bool:
        return name in _NAMES

    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    def __len__(self) -> int:
        return len(_NAMES)


PROVIDERS: Mapping[str, Provider] = _Providers()
