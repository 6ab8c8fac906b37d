"""Attacks on the way into the sandbox, and on what is confined when code starts."""

import shutil
from pathlib import Path

import pytest

from afarensis_server.sandbox.driver import SandboxUnavailable
from afarensis_server.sandbox.local import LocalSandbox, LocalSandboxSettings, zygotes
from tests.support.sandbox import guest_python

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
