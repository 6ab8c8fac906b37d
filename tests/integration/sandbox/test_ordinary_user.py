"""A server that is not root has no distinct users and often no control groups: all the rest must hold."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ordinary_user import NOBODY
from tests.support.sandbox import REPOSITORY


@pytest.mark.skipif(os.geteuid() != 0, reason="this is one already")
@pytest.mark.timeout(300)
def test_every_sandbox_test_passes_as_an_ordinary_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    try:
        os.chown(directory, NOBODY, NOBODY)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.support.ordinary_user",
                directory,
                "tests/security",
                "tests/integration/sandbox",
            ],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    finally:
        subprocess.run(["rm", "-rf", directory], check=True)
