"""A server that is not root has no distinct users and often no control groups: all the rest must hold."""

import os
import subprocess
import sys

import pytest

from tests.support.errands import ROOT, Errand

_PROGRAM = "tests.support.ordinary_user"
#: Counts what the machine holds: other sessions at the same time would be taken for leaks.
_ALONE = "tests/security/test_leaks.py"


@pytest.mark.timeout(300)
@pytest.mark.errand(_PROGRAM, "tests/security", "tests/integration/sandbox", f"--ignore={_ALONE}")
def test_every_sandbox_test_passes_as_an_ordinary_user(errand: Errand) -> None:
    if os.geteuid() != 0:
        pytest.skip("this is one already: every test here has run as an ordinary user")
    assert errand.wait() == 0, errand.said[-8000:]
    done = subprocess.run(
        [sys.executable, "-m", _PROGRAM, _ALONE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
