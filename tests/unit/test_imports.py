"""Import rules that import-linter cannot state: what may come from outside of a package, and nothing else."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def imported_modules(package: Path) -> Iterator[tuple[str, str]]:
    """Every import that leaves a package, as (file, module), wherever in the file it stands."""
    for path in sorted(package.rglob("*.py")):
        file = path.relative_to(ROOT).as_posix()
        depth = len(path.relative_to(package).parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((file, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not 0 < node.level <= depth:
                yield file, "." * node.level + (node.module or "")


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        # It runs in somebody else's Python environment, where the server is not installed.
        ("server/afarensis_server/sandbox/guest", {"afarensis_server.sandbox.guest"}),
        # They run in a container, with nothing beside them but each other.
        ("server/afarensis_server/sandbox/agent", {"..guest", "..observing", "..zygote"}),
        ("server/afarensis_server/sandbox/observing", {"..zygote"}),
        ("server/afarensis_server/sandbox/zygote", set()),
        # An SDK's dependencies are its users' conflicts.
        ("clients/python/afarensis", {"afarensis", "grpc", "google.protobuf"}),
    ],
)
def test_package_imports_nothing_but_the_standard_library_and_what_it_may(package: str, allowed: set[str]) -> None:
    def is_allowed(module: str) -> bool:
        return any(module == name or module.startswith(f"{name}.") for name in allowed | sys.stdlib_module_names)

    imports = list(imported_modules(ROOT / package))

    assert imports, "nothing was looked at"
    assert [(path, module) for path, module in imports if not is_allowed(module)] == []
