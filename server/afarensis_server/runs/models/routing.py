"""Which endpoint serves a model's name: the one with the longest pattern that fits."""

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Routes(Generic[T]):
    """Patterns and where they lead. A pattern is a name, or the beginning of names followed by ``*``."""

    def __init__(self) -> None:
        self._targets: dict[str, T] = {}

    def add(self, pattern: str, target: T) -> None:
        """Raises KeyError, with what it led to before, when the pattern is there already."""
        if pattern in self._targets:
            raise KeyError(self._targets[pattern])
        self._targets[pattern] = target

    def find(self, name: str) -> T | None:
        """Where this name leads. The whole name wins over any beginning of it, a longer beginning over a shorter."""
        if not name:
            return None
        if not name.endswith("*") and name in self._targets:
            return self._targets[name]
        fitting = [pattern for pattern in _beginnings(name) if pattern in self._targets]
        return self._targets[fitting[0]] if fitting else None

    def __iter__(self) -> Iterator[tuple[str, T]]:
        """Every pattern with its target, in the order they were added."""
        return iter(self._targets.items())


def _beginnings(name: str) -> Iterable[str]:
    """The patterns that fit a name, the longest first."""
    return (f"{name[:length]}*" for length in range(len(name), -1, -1))
