"""The tests' container engine, from pytest's side: begun as soon as it is known to be needed, awaited when used."""

import json
import os
import subprocess
import sys
import threading

import pytest

from .docker_engine import ROOT, Report

#: Seconds that everything may take where nothing is cached.
_READY_SECONDS = 480.0


class Keeper:
    """The process behind `docker_engine`, and what it has said so far."""

    def __init__(self) -> None:
        # Nicely: it works while other tests run.
        self._process = subprocess.Popen(
            ["nice", sys.executable, "-m", "tests.support.docker_engine"],
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

    def get(self, what: str) -> Report:
        """What was reported of this, as soon as it is."""
        with self._changed:
            if not self._changed.wait_for(lambda: what in self._reports or self._ended, _READY_SECONDS):
                raise RuntimeError(f"no {what} within {_READY_SECONDS:g} s")
            if what not in self._reports:
                raise RuntimeError(f"the engine's keeper ended before it had {what}:\n{self._complaints}")
            return self._reports[what]

    def reports(self) -> list[Report]:
        with self._changed:
            return list(self._reports.values())

    def close(self) -> None:
        """Have the engine stopped."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

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


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin at once if any test will ask."""
    wanted = any(
        "docker_engine" in getattr(item, "fixturenames", ()) or item.get_closest_marker("engine")
        for item in session.items
    )
    if wanted and not session.config.option.collectonly:
        session.config.stash[_KEEPER] = Keeper()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (keeper := session.config.stash.get(_KEEPER, None)) is not None:
        keeper.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say loudly what was not tested."""
    if (keeper := config.stash.get(_KEEPER, None)) is None:
        return
    for report in keeper.reports():
        if report.missing and report.what == "engine":
            skipped = [
                test
                for test in terminalreporter.stats.get("skipped", ())
                if "no container engine" in str(test.longrepr)
            ]
            terminalreporter.section("NO CONTAINER ENGINE", red=True, bold=True)
            terminalreporter.line(f"{len(skipped)} tests were SKIPPED: {report.missing}.", red=True)
        else:
            terminalreporter.line(f"{report.what}: ready after {report.seconds:.0f} s")


def require(request: pytest.FixtureRequest, what: str) -> str:
    """Wait for something; skip where it cannot be had, but fail in CI, where it can."""
    report = request.config.stash[_KEEPER].get(what)
    if report.missing:
        reason = f"no container engine: {report.missing}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return report.value


@pytest.fixture(scope="session")
def docker_engine(request: pytest.FixtureRequest) -> str:
    """The address of a real dockerd, with the runtimes runc and runsc."""
    return require(request, "engine")


@pytest.fixture(scope="session")
def sandbox_image(request: pytest.FixtureRequest, docker_engine: str) -> str:
    """The id of the image of `deploy/sandbox.Dockerfile`, in that engine."""
    return require(request, "sandbox")


@pytest.fixture(scope="session")
def server_image(request: pytest.FixtureRequest, docker_engine: str) -> str:
    """The id of the image of `deploy/server.Dockerfile`, in that engine."""
    return require(request, "server")
