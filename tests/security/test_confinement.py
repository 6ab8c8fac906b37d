"""Attacks on the way into the sandbox, and on what is confined when code starts."""

import asyncio
import os
import resource
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from afarensis_server.sandbox.driver import SandboxSession, SandboxUnavailable, SessionSpec
from afarensis_server.sandbox.local import CgroupMode, LocalSandbox, LocalSandboxSettings, cgroups, zygotes
from afarensis_server.sandbox.zygote import syscalls
from tests.support.sandbox import LIMITS, guest_python, guest_with, opened, run

pytestmark = pytest.mark.asyncio(loop_scope="session")

#: Starts a thread that Python knows nothing of, as a library might before the interpreter is confined.
_NATIVE_THREAD = """

def attach(runner, control, _attach=Runner.attach):
    import ctypes
    libc = ctypes.CDLL(None)
    libc.pthread_create(ctypes.byref(ctypes.c_ulong()), None, libc.pause, None)
    _attach(runner, control)

Runner.attach = attach
"""

#: Leaves a descriptor of a directory that is nowhere below the root, as a defect of ours might.
_DIRECTORY_OUTSIDE = """

def attach(runner, control, _attach=Runner.attach):
    import ctypes
    libc = ctypes.CDLL(None)
    assert libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None) == 0
    with open("/tmp/canary", "w") as canary:
        canary.write("secret")
    os.dup2(os.open("/tmp", os.O_RDONLY | os.O_DIRECTORY), 100)
    assert libc.umount2(b"/tmp", 2) == 0
    _attach(runner, control)

Runner.attach = attach
"""


def settings(directory: Path, **changes: object) -> LocalSandboxSettings:
    return LocalSandboxSettings(guest_python=guest_python(), work_directory=directory / "work", **changes)  # type: ignore[arg-type] # named as the settings are


async def test_an_interpreter_with_a_thread_of_a_library_s_own_runs_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zygotes, "_GUEST_CODE", guest_with(_NATIVE_THREAD, tmp_path / "guest"))
    with pytest.raises(SandboxUnavailable, match="2 threads run"):
        async with LocalSandbox(settings(tmp_path, pool_size=0)):
            pass


async def test_a_directory_outside_that_was_left_open_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if syscalls.landlock_version() < 2:
        pytest.skip("the kernel has no Landlock")
    monkeypatch.setattr(zygotes, "_GUEST_CODE", guest_with(_DIRECTORY_OUTSIDE, tmp_path / "guest"))
    async with LocalSandbox(settings(tmp_path, pool_size=0)) as driver, opened(driver) as session:
        for attack in (
            "os.open('canary', os.O_RDONLY, dir_fd=100)",
            "os.open('new', os.O_WRONLY | os.O_CREAT, dir_fd=100)",
            "os.listdir(os.open('.', os.O_RDONLY, dir_fd=100))",
            "os.unlink('canary', dir_fd=100)",
        ):
            assert (await run(session, f"import os\n{attack}")).error == "PermissionError", attack


@pytest.mark.parametrize("place", ["/mnt/data", "/tmp", "/dev/shm"])
async def test_files_of_the_session_s_own_can_be_made_moved_linked_and_removed(
    session: SandboxSession, place: str
) -> None:
    code = f"""
import os, shutil, socket
os.chdir({place!r})
os.makedirs("a/b"); open("a/b/f", "w").write("x"); os.rename("a/b/f", "f"); os.link("f", "a/g"); os.symlink("f", "l")
os.truncate("f", 0); os.mkfifo("p"); s = socket.socket(socket.AF_UNIX); s.bind("s"); s.listen(); os.replace("a", "c")
socket.socket(socket.AF_UNIX).connect("s"); open("/dev/null", "w").write("x"); open("/dev/stdout", "w").write("out")
names = sorted(os.listdir()); shutil.rmtree("c"); [os.unlink(name) for name in os.listdir()]; names, os.listdir()
"""
    cell = await run(session, code)
    assert (cell.stdout, cell.value) == ("out", "(['c', 'f', 'l', 'p', 's'], [])"), cell.result.error


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


async def test_a_supervisor_that_hangs_fails_what_is_asked_of_it_and_holds_up_no_close(tmp_path: Path) -> None:
    async with LocalSandbox(settings(tmp_path, pool_size=0, answer_seconds=2.0)) as driver:
        assert driver._launcher is not None
        pid = driver._launcher.supervisor._process.pid
        spec = SessionSpec(session_id="sess_test", limits=LIMITS)
        session = await driver.open(spec)
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(SandboxUnavailable, match="did not answer within"):
                await driver.open(spec)
            # What needs no supervisor goes on.
            assert (await run(session, "1 + 1")).value == "2"
            async with asyncio.timeout(20):
                await session.close()
        finally:
            os.kill(pid, signal.SIGCONT)
        async with opened(driver) as after:
            assert (await run(after, "1 + 1")).value == "2"


async def test_a_supervisor_that_hangs_does_not_keep_the_server_from_ending(tmp_path: Path) -> None:
    async with asyncio.timeout(20), LocalSandbox(settings(tmp_path, pool_size=1, answer_seconds=2.0)) as driver:
        assert driver._launcher is not None
        await driver.open(SessionSpec(session_id="sess_test", limits=LIMITS))
        os.kill(driver._launcher.supervisor._process.pid, signal.SIGSTOP)


async def test_a_zygote_that_hangs_is_replaced_and_its_sessions_go_on(tmp_path: Path) -> None:
    async with LocalSandbox(settings(tmp_path, pool_size=0, answer_seconds=2.0)) as driver, opened(driver) as session:
        assert driver._launcher is not None
        assert driver._launcher._zygote is not None
        signal.pidfd_send_signal(driver._launcher._zygote._pidfd, signal.SIGSTOP)
        with pytest.raises(SandboxUnavailable, match="did not answer within"):
            await driver.open(SessionSpec(session_id="sess_test", limits=LIMITS))
        async with opened(driver) as other:
            assert (await run(other, "1 + 1")).value == "2"
        assert (await run(session, "2 + 2")).value == "4"


async def test_a_zygote_that_can_start_nothing_leaks_nothing_and_says_why(tmp_path: Path) -> None:
    async with LocalSandbox(settings(tmp_path, pool_size=0)) as driver, opened(driver) as session:
        assert driver._launcher is not None
        zygote = driver._launcher._zygote
        assert zygote is not None
        parent = _parent(str(session.place.interpreter.pid))  # type: ignore[attr-defined] # the local driver's
        before = _descriptors(parent)
        for _ in range(20):
            # No such user is mapped in the zygote's namespace.
            with pytest.raises(SandboxUnavailable, match="Error"):
                await zygote.spawn("nobody", 2**31 - 1)
        # What it forked ends by itself, and with the next request at the latest it has taken note of that.
        async with asyncio.timeout(10):
            while _descriptors(parent) > before:
                await run(session, "1")
        assert _children(parent) == 1


async def test_a_server_that_may_open_no_more_files_than_a_session_does_not_start(tmp_path: Path) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pytest.raises(SandboxUnavailable, match="must be allowed more than a session"):
        async with LocalSandbox(settings(tmp_path, max_open_files=max(soft, 2**30))):
            pass


@pytest.mark.parametrize("mode", CgroupMode)
async def test_without_control_groups_only_a_server_that_requires_them_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: CgroupMode
) -> None:
    monkeypatch.setattr(cgroups, "_mounts", list)
    if mode is CgroupMode.REQUIRED:
        with pytest.raises(SandboxUnavailable, match="requires control groups"):
            cgroups.Cgroups.find(mode)
    else:
        assert cgroups.Cgroups.find(mode).version == 0


def _descriptors(pid: str) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _children(pid: str) -> int:
    return sum(_parent(path.name) == pid for path in Path("/proc").glob("[0-9]*"))


def _parent(pid: str) -> str:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return next((line.split()[1] for line in lines if line.startswith("PPid:")), "")


@pytest.mark.parametrize(
    "hoard",
    [
        "fd = os.memfd_create('x'); os.write(fd, b'x'); kept.append(fd)",
        "if libc.shmget(0, size, 0o1600) == -1: raise MemoryError",
        "kept.append(mmap.mmap(-1, size))",
        "kept.append(mmap.mmap(os.open('/dev/zero', os.O_RDWR), size))",
    ],
    ids=["memfd", "System V", "shared mapping", "mapping of a device"],
)
async def test_memory_that_no_limit_of_data_counts_is_limited_without_control_groups(
    tmp_path: Path, hoard: str
) -> None:
    off = settings(tmp_path, pool_size=0, cgroups=CgroupMode.OFF)
    async with LocalSandbox(off) as driver, opened(driver) as session:
        code = f"""
import ctypes, mmap, os
libc = ctypes.CDLL(None); size = 64 * 2**20; kept = []
try:
    for count in range(100):
        {hoard}
except (OSError, MemoryError): pass
count
"""
        count = (await run(session, code)).value
        assert count is not None
        assert int(count) * 64 <= 4 * 256
