from collections.abc import Iterator
from pathlib import Path

import pytest

from .host import Guest


@pytest.fixture(scope="session")
def font_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matplotlib")


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory, font_cache: Path) -> Iterator[Guest]:
    """One guest for the tests of a module, which leave it usable: that is a part of what they show."""
    with Guest(tmp_path_factory.mktemp("guest"), font_cache) as guest:
        yield guest


@pytest.fixture
def fresh_guest(tmp_path: Path, font_cache: Path) -> Iterator[Guest]:
    with Guest(tmp_path, font_cache) as guest:
        yield guest
