"""Attacks on the way into the sandbox, and on what is confined when code starts."""

import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from afarensis_server.sandbox.driver import SandboxUnavailable
from afarensis_server.sandbox.local import LocalSandbox, LocalSandboxSettings, zygotes
from tests.support.sandbox import guest_python, opened, run

pytestmark = pytest.mark.asyncio(loop_scope="session")

#: Starts a thread that Python knows nothing of, as a library might while the interpreter parks.
_NATIVE_THREAD = """

def park(control, data_directory, _park=park):
    import ctypes
    libc = ctypes.CDLL(None)
    libc.pthread_create(ctypes.byref(ctypes.c_ulong()), None, libc.pause, None)
    return _park(control, data_directory)
"""


def settings(directory: Path, **changes: object) -> LocalSandboxSettings:
    return LocalSandboxSettings(guest_python=guest_python(), work_directory=directory / "work", **changes)  # type: ignore[arg-type] # named as the settings are


async def test_an_interpreter_with_a_thread_of_a_library_s_own_runs_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = tmp_path / "guest"
    shutil.copytree(zygotes._GUEST_CODE, guest)
    with (guest / "runner.py").open("a") as runner:
        runner.write(_NATIVE_THREAD)
    monkeypatch.setattr(zygotes, "_GUEST_CODE", guest)
    with pytest.raises(SandboxUnavailable, match="2 threads run"):
        async with LocalSandbox(settings(tmp_path, pool_size=0)):
            pass


def _environment(place: Path, python: Path) -> Path:
    """A guest environment without packages; its Python."""
    (place / "bin").mkdir(parents=True)
    (place / "lib" / f"python3.{sys.version_info.minor}" / "site-packages").mkdir(parents=True)
    (place / "pyvenv.cfg").write_text(f"home = {guest_python().resolve().parent}\n")
    (place / "bin" / "python").symlink_to(python)
    return place / "bin" / "python"


async def test_a_link_to_python_in_a_home_does_not_show_the_home(tmp_path: Path) -> None:
    # Not in /tmp, which is the session's own inside.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        home = Path(directory, "home")
        (home / "bin").mkdir(parents=True)
        (home / "secret").write_text("a key")
        (home / "bin" / "python").symlink_to(guest_python().resolve())
        python = _environment(Path(directory, "guest"), home / "bin" / "python")
        async with LocalSandbox(replace(settings(tmp_path), guest_python=python)) as driver, opened(driver) as session:
            code = f"import os, subprocess, sys\nos.listdir({str(home)!r}), subprocess.call([sys.executable, '-c', ''])"
            assert (await run(session, code)).value == "(['bin'], 0)"


async def test_files_of_the_server_below_what_sessions_see_are_refused(tmp_path: Path) -> None:
    environment = tmp_path / "guest"
    python = _environment(environment, guest_python().resolve())
    inside = LocalSandboxSettings(guest_python=python, work_directory=environment / "data" / "sandbox")
    with pytest.raises(SandboxUnavailable, match="is not for them"):
        async with LocalSandbox(inside):
            pass
