"""A guest that lies, and files made to trip up whoever collects them."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from afarensis_server.sandbox.driver import ExecutionStatus, InputFile, Output, SandboxSession, SandboxUnavailable
from afarensis_server.sandbox.local import LocalSandbox
from tests.support.sandbox import SOCKET, opened, read, run, spoken

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.on_docker]


@pytest.mark.parametrize(
    "attack",
    [
        "control.sendall(b'garbage' * 1000)",
        "control.sendall(struct.pack('>II', 0xFFFFFFFF, 0xFFFFFFFF))",
        "control.sendall(struct.pack('>II', 10, 0x7FFFFFFF))",
        "control.sendall(struct.pack('>II', 2, 0) + b'[]')",
        "control.sendall(struct.pack('>II', 200000, 0) + b'[' * 200000)",
        "control.sendall(frame({'type': 'result', 'id': 999, 'status': 'ok', 'error': None}))",
        "control.sendall(frame({'type': 'result', 'id': True, 'status': 'ok', 'error': None}))",
        "control.sendall(frame({'type': 'unheard-of', 'id': 1}))",
        "control.sendall(frame({'type': 'result', 'id': request, 'status': 'great', 'error': None}))",
        "control.sendall(frame({'type': 'result', 'id': request, 'status': 'error', 'error': {'name': 5}}))",
        "control.sendall(shown('many'))",
        "control.sendall(shown([{'media_type': 'a', 'length': -5}]))",
        "control.sendall(shown([{'media_type': 'a', 'length': 1e9}]))",
        "control.sendall(shown([], b'body'))",
        "control.sendall(shown([{'media_type': 'text/plain', 'length': 1, 'text': True}], b'\\xff'))",
        "control.shutdown(socket.SHUT_RDWR)",
    ],
)
async def test_a_guest_that_breaks_the_protocol_ends_only_itself(driver: LocalSandbox, attack: str) -> None:
    async with opened(driver) as neighbour, opened(driver) as session:
        await run(neighbour, "x = 1")
        cell = await run(session, f"{SOCKET}\n{attack}\nimport time; time.sleep(20)", timeout_seconds=10)
        assert (cell.status, cell.result.state_lost) == (ExecutionStatus.SESSION_LOST, True)
        assert cell.result.wall_seconds < 5
        assert (await run(session, "1 + 1")).value == "2"
        assert (await run(neighbour, "x")).value == "1"


@pytest.mark.on_gvisor
@pytest.mark.on_podman
async def test_a_forged_result_ends_its_own_request_alone(session: SandboxSession) -> None:
    forged = "control.sendall(frame({'type': 'result', 'id': request, 'status': 'ok', 'error': None}))"
    cell = await run(session, f"{SOCKET}\n{forged}\nimport time; time.sleep(1)")
    assert cell.status is ExecutionStatus.OK
    # The true result comes while nothing or something else is asked for, which no interpreter does.
    assert (await run(session, "1 + 1")).status in {ExecutionStatus.SESSION_LOST, ExecutionStatus.OK}
    assert (await run(session, "2 + 2")).value == "4"


async def test_a_result_forged_ahead_of_its_request_is_not_believed(session: SandboxSession) -> None:
    ahead = """
import threading, time
def forge():
    time.sleep(0.3)  # until the cell has ended
    for guess in [*range(1, 50), *range(request + 1, request + 50)]:
        control.sendall(frame({"type": "result", "id": guess, "status": "ok", "error": None}))
threading.Thread(target=forge, daemon=True).start()
"""
    await run(session, SOCKET + ahead)
    await spoken(session)
    cell = await run(session, "print('true')")
    assert (cell.status, cell.stdout, cell.result.state_lost) == (ExecutionStatus.OK, "true\n", True)


async def test_frames_behind_the_result_cost_the_interpreter_and_nothing_else(session: SandboxSession) -> None:
    await run(session, f"{SOCKET}\ncontrol.sendall(frame({{'type': 'result', 'id': request, 'status': 'ok'}}) * 2)")
    cell = await run(session, "print('next')")
    assert (cell.status, cell.stdout, cell.result.state_lost) == (ExecutionStatus.OK, "next\n", True)


async def test_output_of_a_closed_session_is_not_another_s(driver: LocalSandbox) -> None:
    async with opened(driver) as first:
        events = first.execute("while True: print('a' * 100)", timeout_seconds=10)
        await anext(events)  # and then its reader does nothing for a while
        await first.close()
        async with opened(driver) as second:
            secret = asyncio.create_task(
                run(second, "import time\nfor _ in range(10): print('secret', flush=True); time.sleep(0.05)")
            )
            rest = [event async for event in events]
            assert not [event for event in rest if isinstance(event, Output) and "secret" in event.text]
            assert (await secret).stdout == "secret\n" * 10


async def test_siblings_share_no_key_and_no_names(driver: LocalSandbox) -> None:
    code = "import multiprocessing, tempfile\nbytes(multiprocessing.current_process().authkey), tempfile.mktemp()"
    async with opened(driver) as one, opened(driver) as two:
        keys = [(await run(session, code)).value for session in (one, two)]
    assert len({part for key in keys for part in str(key).strip("()").rsplit(", ", 1)}) == 4


@pytest.mark.on_gvisor
@pytest.mark.on_podman
async def test_only_regular_files_with_honest_names_come_out(session: SandboxSession) -> None:
    code = r"""
import os
os.symlink("/etc/passwd", "link"); os.symlink("/proc/self/environ", "environ"); os.symlink("/", "root")
os.mkfifo("fifo")
import socket; s = socket.socket(socket.AF_UNIX); s.bind("socket")
open("good.txt", "w").write("x"); os.link("good.txt", "hard.txt")
for name in (b"bad\xff", b"new\nline", b"tab\t", "line\u2028separator".encode()): open(name, "w").close()
for name in ("\u202egpj.exe", "a\u2066b", "..\\..\\windows"): open(name, "w").close()
os.makedirs("a" * 200 + "/" + "b" * 200 + "/" + "c" * 200 + "/" + "d" * 200 + "/" + "e" * 200)
open("/mnt/data/" + "/".join(letter * 200 for letter in "abcde") + "/" + "f" * 200, "w").close()
"""
    cell = await run(session, code)
    assert cell.changes == {"good.txt": "created", "hard.txt": "created"}, cell.result.error
    assert {file.path for file in await session.list_files()} == {"good.txt", "hard.txt"}


@pytest.mark.parametrize("path", ["link", "root/etc/passwd", "fifo", "socket", "up/passwd", "dev"])
async def test_nothing_but_a_regular_file_is_read(session: SandboxSession, path: str) -> None:
    code = """
import os, socket
os.symlink("/etc/passwd", "link"); os.symlink("/", "root"); os.mkfifo("fifo"); os.symlink("../../etc", "up")
s = socket.socket(socket.AF_UNIX); s.bind("socket"); os.symlink("/dev/zero", "dev")
"""
    await run(session, code)
    with pytest.raises(OSError):  # noqa: PT011 - the protocol's word
        await read(session, path)


async def test_a_file_swapped_while_it_is_read_stays_what_it_was(session: SandboxSession) -> None:
    await run(session, "import os\nopen('a.bin', 'wb').write(b'a' * 2**20)")
    content = b""
    async for chunk in session.read_file("a.bin"):
        if not content:
            await run(session, "os.remove('a.bin'); os.symlink('/etc/passwd', 'a.bin')")
        content += chunk
    assert content == b"a" * 2**20


async def test_a_file_that_grows_while_it_is_read_ends(session: SandboxSession) -> None:
    await run(session, "open('a.bin', 'wb').write(b'a' * 2**19)")
    size = 0
    async for chunk in session.read_file("a.bin"):
        size += len(chunk)
        await run(session, "open('a.bin', 'ab').write(b'a' * 2**20)")
    assert size == 2**19


async def test_unreadable_files_do_not_stop_the_others(session: SandboxSession) -> None:
    code = """
import os
os.mkdir("closed", 0); open("closed.txt", "w").close(); os.chmod("closed.txt", 0); open("open.txt", "w").close()
"""
    cell = await run(session, code)
    assert cell.changes["open.txt"] == "created"


@pytest.mark.parametrize("mode", [0, 0o400])
async def test_closing_the_directory_deletes_nothing(session: SandboxSession, mode: int) -> None:
    await run(
        session, "import os\nos.makedirs('d/e'); open('a.txt', 'w').write('1'); open('d/e/b.txt', 'w').write('2')"
    )
    for place in ("/mnt/data", "/mnt/data/d"):
        cell = await run(session, f"os.chmod({place!r}, {mode})")
        assert (cell.status, cell.changes) == (ExecutionStatus.OK, {})
        assert {file.path for file in await session.list_files()} == {"a.txt", "d/e/b.txt"}
        cell = await run(session, f"os.chmod({place!r}, 0o755)")
        assert (cell.status, cell.changes) == (ExecutionStatus.OK, {})


async def test_a_file_under_a_lease_is_told_again(session: SandboxSession) -> None:
    lease = """
import fcntl, os
fd = os.open('leased', os.O_RDWR | os.O_CREAT); os.write(fd, b'abc'); fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
"""
    cell = await run(session, lease)
    assert cell.changes == {"leased": "created"}
    with pytest.raises(OSError):  # noqa: PT011 - the protocol's word
        await read(session, "leased")
    assert (await run(session, "fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)")).changes == {"leased": "modified"}
    assert await read(session, "leased") == b"abc"
    assert (await run(session, "1")).changes == {}


async def test_devices_cannot_be_made(session: SandboxSession) -> None:
    code = "import os, stat\nos.mknod('device', {kind}, os.makedev({number}, 0))"
    for kind, number in (("stat.S_IFBLK", 8), ("stat.S_IFCHR", 1), ("stat.S_IFCHR", 0)):
        assert (await run(session, code.format(kind=kind, number=number))).error == "PermissionError"


@pytest.mark.on_local
@pytest.mark.parametrize(
    "grab",
    ["os.symlink({canary!r}, 'in.csv')", "os.mkfifo('in.csv')", "os.makedirs('in.csv/in.csv')"],
    ids=["link to a host file", "pipe", "directory"],
)
async def test_a_name_that_code_keeps_taking_leads_nowhere(driver: LocalSandbox, tmp_path: Path, grab: str) -> None:
    canary, source = tmp_path / "canary", tmp_path / "upload"
    canary.write_text("the host's own")
    canary.chmod(0o600)
    source.write_text("of the client")
    file = InputFile(file_id="file-1", name="in.csv", path=source, size_bytes=source.stat().st_size)
    code = f"""
import os
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        while True:
            try: {grab.format(canary=str(canary))}
            except OSError: pass
"""
    # It takes luck to be faster than the host: some tries.
    for _ in range(16):
        async with opened(driver, cpu_cores=2.0) as session:
            await run(session, code)
            async with asyncio.timeout(20):
                # The name may stay the session's; the session may lose it. Nothing else is touched.
                with suppress(SandboxUnavailable):
                    await session.add_files([file])
        assert canary.read_text() == "the host's own"
        assert canary.stat().st_mode & 0o777 == 0o600
