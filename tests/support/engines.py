"""Keeps the tests' own container engines: a dockerd, the images of `deploy/` in it, and Podman, of root's and a user's.

    python -m tests.support.engines [podman] [rootless]

prints a line of JSON for each thing that is ready (see `Report`), keeps the engines until its standard input ends, and
stops them then, by their process ids.
"""

import json
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from . import docker_engine, podman_engine
from .docker_engine import SANDBOX_IMAGE, SERVER_IMAGE, CannotHaveOneError

IMAGES = {"sandbox": SANDBOX_IMAGE, "server": SERVER_IMAGE}
PODMANS = {"podman": podman_engine.running, "rootless": podman_engine.running_rootless}


@dataclass(frozen=True, slots=True)
class Report:
    """Something is ready, or will never be."""

    #: ``engine``, then its images, then each Podman, which has the sandbox's image, too.
    what: str
    #: The engine's address, or the image's id.
    value: str = ""
    #: Why there is none.
    missing: str = ""
    seconds: float = 0.0


def main(podmans: Sequence[str]) -> None:
    """Prepare, report, and wait."""
    # Ctrl-C in a terminal reaches everybody; whoever started this says when it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with ExitStack() as stack:
        try:
            began = time.monotonic()
            docker_engine.install(docker_engine.PACKAGES)
            engine = stack.enter_context(docker_engine.running(docker_engine.cache_directory()))
            _say(Report("engine", engine.url, seconds=time.monotonic() - began))
            base = engine.base()
            for what, image in IMAGES.items():
                began = time.monotonic()
                _say(Report(what, engine.build(what, image, base), seconds=time.monotonic() - began))
        except CannotHaveOneError as error:
            for what in ("engine", *IMAGES, *podmans):
                _say(Report(what, missing=str(error)))
        else:
            for what in podmans:
                began = time.monotonic()
                try:
                    docker_engine.install(podman_engine.PACKAGES)
                    address = stack.enter_context(PODMANS[what](engine))
                    _say(Report(what, address, seconds=time.monotonic() - began))
                except CannotHaveOneError as error:
                    _say(Report(what, missing=str(error)))
        sys.stdin.read()


def _say(report: Report) -> None:
    sys.stdout.write(json.dumps(asdict(report)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
