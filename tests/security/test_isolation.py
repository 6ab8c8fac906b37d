"""Attacks from inside a session on what is outside of it; each test is named by what they come to."""

import asyncio
import contextlib
import fcntl
import os
import re
import secrets
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from afarensis_server.sandbox.driver import ExecutionStatus, SandboxSession
from afarensis_server.sandbox.local import LocalSandbox
from tests.support.sandbox import SOCKET, opened, run

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.on_docker,
    pytest.mark.on_podman,
    pytest.mark.shares_session,
]

_KERNEL = tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])
#: Calls a system call by number; the name of its error, or what it returned.
SYSCALL = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(value) for value in arguments))
    return errno.errorcode[ctypes.get_errno()] if result == -1 else result
"""


@pytest_asyncio.fixture(loop_scope="session")
async def neighbour(driver: LocalSandbox) -> AsyncIterator[SandboxSession]:
    async with opened(driver) as session:
        yield session


def _host_user(session: SandboxSession) -> int:
    pid = session.place.interpreter.pid  # type: ignore[attr-defined] # the local driver's
    return Path(f"/proc/{pid}").stat().st_uid


@pytest.mark.on_gvisor
@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET", "AF_ALG", "AF_VSOCK"])
async def test_sockets_of_a_network_cannot_be_made(session: SandboxSession, family: str) -> None:
    cell = await run(session, f"import socket\nsocket.socket(socket.{family}, socket.SOCK_DGRAM)")
    assert cell.error == "OSError"
    assert "Address family not supported" in (cell.result.error.value if cell.result.error else "")


async def test_a_listener_of_the_host_cannot_be_reached(session: SandboxSession) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code = f"import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}/', timeout=2)"
        assert (await run(session, code)).error == "URLError"
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()


async def test_an_abstract_socket_of_the_host_cannot_be_reached(session: SandboxSession) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        name = f"afarensis-canary-{os.getpid()}"
        listener.bind(f"\0{name}")
        listener.listen()
        code = f"import socket\nsocket.socket(socket.AF_UNIX).connect('\\0{name}')"
        assert (await run(session, code)).error == "ConnectionRefusedError"


@pytest.mark.on_local
async def test_files_of_the_host_do_not_exist(session: SandboxSession, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("secret")
    paths = [str(canary), "/etc/shadow", "/root/.bashrc", "/home", "/var", "/run", "/sys/kernel", "/boot", "/srv"]
    cell = await run(session, f"import os\n[path for path in {paths!r} if os.path.exists(path)]")
    assert cell.value == "[]"


async def test_the_host_s_name_is_not_told(session: SandboxSession) -> None:
    code = "import os, socket\nos.uname().nodename, socket.gethostname(), open('/etc/hostname').read().strip()"
    assert (await run(session, code)).value == "('sandbox', 'sandbox', 'sandbox')"


@pytest.mark.parametrize("path", ["/", "/usr", "/etc", "/opt", "/bin", "/dev", "/mnt", "/proc"])
async def test_the_system_is_read_only(session: SandboxSession, path: str) -> None:
    cell = await run(session, f"open('{path}/canary', 'w')")
    assert cell.error in {"OSError", "PermissionError", "FileNotFoundError"}


@pytest.mark.on_local
async def test_only_the_own_processes_are_seen(session: SandboxSession, neighbour: SandboxSession) -> None:
    code = "import os\nsorted(int(name) for name in os.listdir('/proc') if name.isdigit()), os.getpid(), os.getppid()"
    assert (await run(session, code)).value == "([1], 1, 0)"
    assert (await run(neighbour, code)).value == "([1], 1, 0)"


@pytest.mark.on_local
async def test_proc_shows_nothing_of_the_kernel(session: SandboxSession) -> None:
    code = "import os\nsorted(name for name in os.listdir('/proc') if not name.isdigit())"
    assert (await run(session, code)).value == "['self', 'thread-self']"


async def test_signals_reach_nobody_else(session: SandboxSession, neighbour: SandboxSession) -> None:
    await run(neighbour, "x = 1")
    code = """
import os, signal
reached = []
own_threads = {int(name) for name in os.listdir("/proc/self/task")}
for pid in [*({*range(2, 2000)} - own_threads), -1]:
    try:
        os.kill(pid, signal.SIGKILL); reached.append(pid)
    except ProcessLookupError:
        pass
reached
"""
    assert (await run(session, code)).value == "[]"
    assert (await run(neighbour, "x")).value == "1"


async def test_files_of_another_session_are_not_seen(session: SandboxSession, neighbour: SandboxSession) -> None:
    write = "for place in ('/mnt/data', '/tmp', '/dev/shm'): open(place + '/canary', 'w').write('secret')"
    await run(neighbour, write)
    code = "import os\n[p for p in ('/mnt/data', '/tmp', '/dev/shm') if 'canary' in os.listdir(p)]"
    assert (await run(session, code)).value == "[]"


async def test_abstract_sockets_are_not_shared(session: SandboxSession, neighbour: SandboxSession) -> None:
    await run(neighbour, "import socket\ns = socket.socket(socket.AF_UNIX); s.bind('\\0canary'); s.listen()")
    cell = await run(session, "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0canary')")
    assert cell.error == "ConnectionRefusedError"


async def test_system_v_ipc_is_not_shared(session: SandboxSession, neighbour: SandboxSession) -> None:
    get = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nlibc.semget(0x4242, 1, {flags})"
    assert (await run(neighbour, get.format(flags=0o1666))).value != "-1"
    assert (await run(session, get.format(flags=0o666))).value == "-1"


@pytest.mark.on_gvisor
async def test_no_capability_is_left(session: SandboxSession) -> None:
    code = "[line.split()[1] for line in open('/proc/self/status') if line.startswith('Cap')]"
    found = (await run(session, code)).value or ""
    assert set(found.strip("[]").split(", ")) == {"'0000000000000000'"}


async def test_the_user_is_nobody_in_particular(session: SandboxSession) -> None:
    code = "import os\nos.getresuid(), os.getresgid()"
    assert (await run(session, code)).value == "((1000, 1000, 1000), (1000, 1000, 1000))"
    assert (await run(session, "import os\nos.setuid(0)")).error in {"OSError", "PermissionError"}


async def test_set_user_id_programs_give_nothing(session: SandboxSession) -> None:
    code = "import subprocess\nsubprocess.run(['cat', '/proc/self/status'], capture_output=True, text=True).stdout"
    cell = await run(session, code)
    assert "NoNewPrivs:\\t1" in (cell.value or "")
    assert "CapEff:\\t0000000000000000" in (cell.value or "")


@pytest.mark.on_local
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give each session a host user of its own")
async def test_each_session_is_another_user_of_the_host(driver: LocalSandbox) -> None:
    async with opened(driver) as one, opened(driver) as other:
        users = {_host_user(session) for session in (one, other)}
    assert len(users) == 2
    assert all(user > 100_000 for user in users)


async def test_the_environment_holds_nothing_of_the_server(
    session: SandboxSession, request: pytest.FixtureRequest
) -> None:
    allowed = {"PATH", "HOME", "USER", "LANG", "TZ", "LC_CTYPE", "PYTHONDONTWRITEBYTECODE", "PLOTLY_RENDERER"}
    allowed |= {"MPLBACKEND", "MPLCONFIGDIR"} | {
        f"{name}_NUM_THREADS" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")
    }
    if request.node.callspec.params["driver"] == "podman":
        # The same in each of its containers.
        allowed |= {"container", "TERM"}
    names = (await run(session, "import os\nprint(*os.environ)")).stdout.split()
    assert set(names) - allowed - {name for name in names if name.startswith(("KMP_", "__KMP"))} == set()


async def test_only_the_guest_s_own_descriptors_are_open(session: SandboxSession) -> None:
    code = """
import os
kinds = []
for name in os.listdir("/proc/self/fd"):
    try: kinds.append(os.readlink(f"/proc/self/fd/{name}").split(":")[0])
    except FileNotFoundError: pass
sorted(set(kinds)), kinds.count("socket")
"""
    assert (await run(session, code)).value == "(['/dev/null', 'anon_inode', 'pipe', 'socket'], 1)"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86-64")
@pytest.mark.parametrize(
    ("name", "number", "arguments", "answer"),
    [
        ("ptrace", 101, (0,), "EPERM"),
        ("process_vm_readv", 310, (1,), "EPERM"),
        ("pidfd_getfd", 438, (0, 0, 0), "EPERM"),
        ("userfaultfd", 323, (0,), "EPERM"),
        ("bpf", 321, (0,), "EPERM"),
        ("perf_event_open", 298, (0,), "EPERM"),
        ("keyctl", 250, (0,), "EPERM"),
        ("add_key", 248, (0,), "EPERM"),
        ("mount", 165, (0,), "EPERM"),
        ("umount2", 166, (0,), "EPERM"),
        ("pivot_root", 155, (0,), "EPERM"),
        ("chroot", 161, (0,), "EPERM"),
        ("unshare", 272, (0x10000000,), "EPERM"),
        ("setns", 308, (0, 0), "EPERM"),
        ("clone into a user namespace", 56, (0x10000011, 0, 0, 0, 0), "EPERM"),
        ("open_by_handle_at", 304, (0,), "EPERM"),
        ("name_to_handle_at", 303, (0,), "EPERM"),
        ("splice", 275, (0,), "EPERM"),
        ("vmsplice", 278, (0,), "EPERM"),
        ("tee", 276, (0,), "EPERM"),
        ("kexec_load", 246, (0,), "EPERM"),
        ("init_module", 175, (0,), "EPERM"),
        ("TIOCSTI", 16, (0, 0x5412, 0), "EPERM"),
        ("TIOCSTI with high bits", 16, (0, 0x7FFF00005412, 0), "EPERM"),
        ("TIOCLINUX", 16, (0, 0x541C, 0), "EPERM"),
        ("personality", 135, (0x0040000,), "EPERM"),
        ("clone3", 435, (0, 0), "ENOSYS"),
        ("io_uring_setup", 425, (1, 0), "ENOSYS"),
        ("fsopen", 430, (0, 0), "ENOSYS"),
        ("open_tree", 428, (0, 0, 0), "ENOSYS"),
        ("move_mount", 429, (0,), "ENOSYS"),
        ("mount_setattr", 442, (0,), "ENOSYS"),
        ("inotify_init", 253, (), "ENOSYS"),
        ("inotify_init1", 294, (0,), "ENOSYS"),
        ("io_setup", 206, (1, 0), "ENOSYS"),
        ("cachestat", 451, (0, 0, 0, 0), "ENOSYS"),
        ("a pidfd of the server", 55, (3, 1, 77, 0, 0), "ENOPROTOOPT"),
        ("pidfds with the server's messages", 54, (3, 1, 76, 0, 0), "ENOPROTOOPT"),
        ("the host's network interfaces", 16, (3, 0x8912, 0), "ENODEV"),
        ("the last ioctl of sockets", 16, (3, 0x7FFF000089FF, 0), "ENODEV"),
        ("a filter for a socket", 54, (3, 1, 26, 0, 0), "ENOPROTOOPT"),
        ("a program for a socket", 54, (3, 1, 50, 0, 0), "ENOPROTOOPT"),
        ("a filter for sockets that share a port", 54, (3, 1, 51, 0, 0), "ENOPROTOOPT"),
        ("a filter for system calls", 157, (22, 2, 0, 0, 0), "EPERM"),
        ("memory merged with others'", 157, (67, 1, 0, 0, 0), "EPERM"),
        ("a call that does not exist", 900, (0,), "ENOSYS"),
    ],
)
async def test_dangerous_system_calls_are_refused(
    session: SandboxSession, name: str, number: int, arguments: tuple[int, ...], answer: str
) -> None:
    cell = await run(session, f"{SYSCALL}\ncall({number}, *{arguments})")
    assert cell.value == repr(answer), name


@pytest.mark.on_local
async def test_the_socket_to_the_server_takes_no_name_of_the_host_s(session: SandboxSession) -> None:
    """It is of the server's network, where a name that code took would be missing."""
    name = f"afarensis-{secrets.token_hex(8)}"
    cell = await run(session, f"{SOCKET}\ncontrol.bind('\\0{name}')")
    assert cell.result.error is not None
    assert cell.result.error.value == "[Errno 22] Invalid argument"
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(f"\0{name}")


@pytest.mark.on_local
@pytest.mark.skipif(_KERNEL < (6, 16), reason="sockets of older kernels cannot refuse descriptors: docs/security.md")
async def test_no_descriptors_are_sent_to_the_server(session: SandboxSession) -> None:
    """Those that it dropped would be let go of in its time, with all the memory that hangs on them."""
    send = "control.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack('i', 1))])"
    cell = await run(session, f"{SOCKET}\n{send}")
    assert cell.result.error is not None
    assert cell.result.error.name == "PermissionError"


async def test_a_crash_starts_no_handler_of_the_host(session: SandboxSession) -> None:
    code = """
import resource
def lower():
    try: resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except ValueError: return "refused"
lower(), resource.getrlimit(resource.RLIMIT_CORE)
"""
    # Only 1 keeps a program that the host has for core files from being started; 0 does not.
    assert (await run(session, code)).value == "('refused', (1, 1))"
    code = "resource.prlimit(0, resource.RLIMIT_NOFILE, (100, 100)), resource.prlimit(0, resource.RLIMIT_CORE)"
    assert (await run(session, code)).value == "((256, 256), (1, 1))"


async def test_a_session_does_not_make_the_host_write_out_its_files(session: SandboxSession) -> None:
    code = "import os\nos.sync(), os.fsync(os.open('/mnt/data/x', os.O_CREAT | os.O_RDWR))"
    assert (await run(session, code)).value == "(None, None)"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86-64")
async def test_the_32_bit_numbering_ends_the_process(session: SandboxSession) -> None:
    await run(session, f"{SYSCALL}")
    assert (await run(session, "call(0x40000000 + 39)")).result.state_lost


@pytest.mark.on_local
async def test_what_a_session_writes_over_the_memory_it_shares_is_its_own(driver: LocalSandbox) -> None:
    find = """
import ctypes, os
copies = [line.split() for line in open("/proc/self/maps") if "afarensis-zygote" in line and " r--p " in line]
start = int(copies[0][0].split("-")[0], 16)
"""
    overwrite = """
libc = ctypes.CDLL(None)
# Shared again under the same file: only who has a descriptor of it could, and sealed as it is not even that.
libc.mprotect(ctypes.c_void_p(start), 4096, 3)
ctypes.memset(start, 0x41, 4096)
try: descriptors = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
except OSError: descriptors = []
any("memfd" in one for one in descriptors), ctypes.string_at(start, 4)
"""
    async with opened(driver) as first, opened(driver) as second:
        before = (await run(second, f"{find}ctypes.string_at(start, 64).hex()")).value
        assert (await run(first, find + overwrite)).value == "(False, b'AAAA')"
        assert (await run(second, f"{find}ctypes.string_at(start, 64).hex()")).value == before


@pytest.mark.parametrize("path", ["/", "/etc", "/etc/passwd", "/usr", "/usr/bin/env", "/opt/afarensis", "os.__file__"])
async def test_locks_on_the_system_s_files_are_nobody_else_s(
    session: SandboxSession, neighbour: SandboxSession, path: str
) -> None:
    lock = f"""
import fcntl, os, struct
file = os.open({"os.__file__" if path == "os.__file__" else repr(path)}, os.O_RDONLY)
fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
is_free = True
if not os.path.isdir(file):
    asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
    is_free = struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, asked))[0] == fcntl.F_UNLCK
    fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
is_free
"""
    with contextlib.ExitStack() as stack:
        # The host's, and so the same file if it is one of the system's.
        place = os.__file__ if path == "os.__file__" else path
        if os.access(place, os.R_OK):
            host = os.open(place, os.O_RDONLY)
            stack.callback(os.close, host)
            fcntl.flock(host, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for one in (session, neighbour):
            cell = await run(one, lock)
            assert (cell.status, cell.value) == (ExecutionStatus.OK, "True"), cell.result


async def test_floods_of_two_sessions_do_not_mix(session: SandboxSession, neighbour: SandboxSession) -> None:
    code = "import os\nfor _ in range(200): os.write(1, {!r} * 20_000)"
    cells = await asyncio.gather(run(session, code.format(b"a")), run(neighbour, code.format(b"b")))
    for cell, letter in zip(cells, "ab", strict=True):
        assert set(cell.stdout) == {letter}
        assert len(cell.stdout) + cell.result.dropped_bytes == 4_000_000
