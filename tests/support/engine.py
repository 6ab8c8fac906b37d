"""The tests' container engines, from pytest's side: begun as soon as it is known to be needed, awaited when used."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Generator, Iterable

import pytest

from .docker_engine import ROOT
from .engines import PODMANS, Report

#: Seconds that everything may take where nothing is cached.
_READY_SECONDS = 480.0
#: What must be ready for the fixtures below.
_FIXTURES = {
    "docker_engine": "engine",
    "podman_engine": "podman",
    "rootless_engine": "rootless",
    "sandbox_image": "sandbox",
    "server_image": "server",
}


class Keeper:
    """The process behind `engines`, and what it has said so far."""

    def __init__(self, podmans: Iterable[str]) -> None:
        # Nicely: it works while other tests run.
        self._process = subprocess.Popen(
            ["nice", sys.executable, "-m", "tests.support.engines", *podmans],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reports: dict[str, Report] = {}
        self._changed = threading.Condition()
        self._ended = False
        self._complaints = ""
        threading.Thread(target=self._read, daemon=True).start()

    def wait(self, what: str) -> bool:
        """Wait until this is reported, or never will be; whether it came to that."""
        with self._changed:
            return self._changed.wait_for(lambda: what in self._reports or self._ended, _READY_SECONDS)

    def get(self, what: str) -> Report:
        """What was reported of this, as soon as it is."""
        with self._changed:
            if not self.wait(what):
                raise RuntimeError(f"no {what} within {_READY_SECONDS:g} s")
            if what not in self._reports:
                raise RuntimeError(f"the engine's keeper ended before it had {what}:\n{self._complaints}")
            return self._reports[what]

    def reports(self) -> list[Report]:
        with self._changed:
            return list(self._reports.values())

    def close(self) -> None:
        """Have the engine stopped, also one that is still being prepared, which ends with the step it is at."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(_READY_SECONDS)

    def _read(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        for line in self._process.stdout:
            report = Report(**json.loads(line))
            with self._changed:
                self._reports[report.what] = report
                self._changed.notify_all()
        complaints = self._process.stderr.read()
        with self._changed:
            self._complaints = complaints
            self._ended = True
            self._changed.notify_all()


_KEEPER = pytest.StashKey[Keeper]()


def _needs(item: pytest.Item) -> set[str]:
    """What must be ready for a test."""
    needs = {_FIXTURES[name] for name in getattr(item, "fixturenames", ()) if name in _FIXTURES}
    for mark in item.iter_markers("engine"):
        needs |= {"engine", "sandbox", *mark.args}
    return needs


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what needs engines last: where nothing is cached they take minutes, in which the other tests may run."""
    items.sort(key=lambda item: bool(_needs(item)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin at once if any test will ask."""
    needs = {need for item in session.items for need in _needs(item)}
    if needs and not session.config.option.collectonly:
        session.config.stash[_KEEPER] = Keeper(sorted(needs & PODMANS.keys()))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Wait here, before the test's time begins to run; its fixtures say what is missing."""
    for need in _needs(item):
        item.config.stash[_KEEPER].wait(need)
    return (yield)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (keeper := session.config.stash.get(_KEEPER, None)) is not None:
        keeper.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say loudly what was not tested."""
    if (keeper := config.stash.get(_KEEPER, None)) is None:
        return
    for report in keeper.reports():
        if report.missing:
            skipped = [
                test
                for test in terminalreporter.stats.get("skipped", ())
                if f"no container engine ({report.what})" in str(test.longrepr)
            ]
            terminalreporter.section(f"NO CONTAINER ENGINE ({report.what})", red=True, bold=True)
            terminalreporter.line(f"{len(skipped)} tests were SKIPPED: {report.missing}.", red=True)
        else:
            terminalreporter.line(f"{report.what}: ready after {report.seconds:.0f} s")


def require(request: pytest.FixtureRequest, what: str) -> str:
    """Wait for something; skip where it cannot be had, but fail in CI, where it can."""
    report = request.config.stash[_KEEPER].get(what)
    if report.missing:
        reason = f"no container engine ({what}): {report.missing}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return report.value


@pytest.fixture(scope="session")
def docker_engine(request: pytest.FixtureRequest) -> str:
    """The address of a real dockerd, with the runtimes runc and runsc; or, by a parameter, of another engine."""
    return require(request, getattr(request, "param", "engine"))


@pytest.fixture(scope="session")
def podman_engine(request: pytest.FixtureRequest) -> str:
    """The address of a Podman of root's. Its tests are marked ``engine("podman")``."""
    return require(request, "podman")


@pytest.fixture(scope="session")
def rootless_engine(request: pytest.FixtureRequest) -> str:
    """The address of a Podman of an ordinary user's. Its tests are marked ``engine("rootless")``."""
    return require(request, "rootless")


@pytest.fixture(scope="session")
def sandbox_image(request: pytest.FixtureRequest) -> str:
    """The id of the image of `deploy/sandbox.Dockerfile`, the same in each engine."""
    return require(request, "sandbox")


@pytest.fixture(scope="session")
def server_image(request: pytest.FixtureRequest, docker_engine: str) -> str:
    """The id of the image of `deploy/server.Dockerfile`, in that engine."""
    return require(request, "server")
