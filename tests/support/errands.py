"""Long programs of single tests, begun when it is known that the tests will run, and awaited by them.

They take minutes, mostly of waiting, in which the tests before them may as well run. A test names its program:

    @pytest.mark.errand("tests.support.ordinary_user")
    def test_everything_passes_so(errand: Errand) -> None:
        assert errand.wait() == 0, errand.said
"""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class Errand:
    """A program at work."""

    process: subprocess.Popen[bytes]
    _output: IO[bytes]

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait()

    @property
    def said(self) -> str:
        """All that it wrote."""
        self._output.seek(0)
        return self._output.read().decode(errors="replace")

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
        self._output.close()


_ERRANDS = pytest.StashKey[dict[str, Errand]]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin the programs of all tests that will run."""
    if session.config.option.collectonly:
        return
    errands = session.config.stash.setdefault(_ERRANDS, {})
    for item in session.items:
        mark = item.get_closest_marker("errand")
        if mark is not None:
            errands[item.nodeid] = _begin(*mark.args)


def pytest_sessionfinish(session: pytest.Session) -> None:
    for errand in session.config.stash.get(_ERRANDS, {}).values():
        errand.end()


@pytest.fixture
def errand(request: pytest.FixtureRequest) -> Errand:
    """The program that the test's mark names."""
    return request.config.stash[_ERRANDS][request.node.nodeid]


def _begin(module: str, *arguments: str) -> Errand:
    output = tempfile.TemporaryFile()  # noqa: SIM115 - open until the session ends
    command = ["nice", sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    return Errand(process, output)
