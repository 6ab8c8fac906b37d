"""An agent that lies: what the server makes of its stream."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afarensis_server.sandbox.docker import DockerSandboxSettings
from afarensis_server.sandbox.docker.connection import Connection
from afarensis_server.sandbox.docker.container import Container
from afarensis_server.sandbox.docker.engine import Death
from afarensis_server.sandbox.docker.execution import parse_change
from afarensis_server.sandbox.docker.session import DockerSession
from afarensis_server.sandbox.driver import ExecutionStatus, SandboxUnavailable, SessionSpec
from afarensis_server.sandbox.guest.frames import FrameBuffer, encode
from tests.support.sandbox import LIMITS, run


def piece(data: bytes, stream: int = 1) -> bytes:
    return struct.pack(">BxxxI", stream, len(data)) + data


class Liar:
    """The other end: answers as it is told, once there is a request of a kind."""

    def __init__(self, end: socket.socket, lies: dict[str, Callable[[dict[str, Any]], bytes]]) -> None:
        self._end = end
        self._lies = lies
        self._frames = FrameBuffer(2**24, 2**25)
        end.setblocking(False)

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self._end, 65536):
            for header, _ in self._frames.feed(data):
                if (lie := self._lies.get(header["type"])) is not None:
                    await loop.sock_sendall(self._end, lie(header))


class _Stub:
    """A container whose agent is a liar; what the engine would say is made up, too."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.name = "stub"
        self.files: dict[str, Any] = {}
        self.limits = LIMITS

    is_lost = Container.is_lost
    ask = Container.ask
    _settings = DockerSandboxSettings(image="", work_directory=Path("/"), answer_seconds=2.0)

    async def death(self) -> Death:
        return Death(f"is lost: {self.connection.lost}")

    async def leave(self) -> None:
        await self.connection.close()


@pytest.fixture
async def lied_to() -> AsyncIterator[Callable[..., DockerSession]]:
    """Makes a session whose agent tells these lies."""
    tasks, sessions, ends = [], [], []

    def make(**lies: Callable[[dict[str, Any]], bytes]) -> DockerSession:
        ours, theirs = socket.socketpair()
        ends.append(theirs)
        honest = {"prepare": lambda header: reply(header, fresh=False)}
        tasks.append(asyncio.create_task(Liar(theirs, honest | lies).serve()))
        stub = cast("Container", _Stub(Connection(ours)))

        async def replace(_: Container) -> Container:
            raise SandboxUnavailable("there is no other one")

        session = DockerSession(stub, _Stub._settings, SessionSpec("sess_test", LIMITS), replace, lambda _: None)
        sessions.append(session)
        return session

    yield make
    for session in sessions:
        await session.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        end.close()


def frame(header: dict[str, Any], body: bytes = b"") -> bytes:
    return piece(encode(header, body))


def reply(request: dict[str, Any], **fields: Any) -> bytes:
    return frame({"type": "reply", "id": request["id"], **fields})


def guest(request: dict[str, Any], header: dict[str, Any], body: bytes = b"") -> bytes:
    return frame({"type": "guest", "id": request["id"]}, encode(header, body))


@pytest.mark.parametrize(
    "lie",
    [
        lambda _: b"\xff" * 64,
        lambda _: struct.pack(">BxxxI", 1, 0xFFFFFFFF),
        lambda _: piece(struct.pack(">II", 0xFFFFFFFF, 0xFFFFFFFF)),
        lambda _: piece(struct.pack(">II", 2, 0) + b"[]"),
        lambda _: piece(struct.pack(">II", 200_000, 0) + b"[" * 200_000),
        lambda _: frame({"type": "reply"}),
        lambda _: frame({"type": "reply", "id": True}),
        lambda _: frame({"type": "reply", "id": 10**6}),
        lambda _: frame({"type": "hello", "id": 0}) * 2,
        lambda request: frame({"type": "unheard-of", "id": request["id"]}),
        lambda request: frame({"type": "output", "id": request["id"], "stream": 7}, b"x"),
        lambda request: frame({"type": "output", "id": request["id"], "stream": [1]}, b"x"),
        lambda request: frame({"type": "changes", "id": request["id"], "changes": "many"}),
        lambda request: frame({"type": "changes", "id": request["id"], "changes": [["../up", "created", 1]]}),
        lambda request: frame({"type": "changes", "id": request["id"], "changes": [["a", "eaten", 1]]}),
        lambda request: frame({"type": "changes", "id": request["id"], "changes": [["a", "created", -1]]}),
        lambda request: frame({"type": "changes", "id": request["id"], "changes": [["a", ["created"], 1]]}),
        lambda request: frame({"type": "data", "id": request["id"]}, b"x"),
        lambda request: frame({"type": "changes", "id": request["id"], "changes": []}, b"body"),
    ],
)
async def test_an_agent_that_breaks_the_protocol_is_hung_up_on(
    lied_to: Callable[..., DockerSession], lie: Callable[[dict[str, Any]], bytes]
) -> None:
    session = lied_to(execute=lie)
    cell = await run(session, "1 + 1")
    assert (cell.status, cell.result.state_lost) == (ExecutionStatus.SESSION_LOST, True)
    assert "protocol" in (cell.result.error.value if cell.result.error else "")
    with pytest.raises(SandboxUnavailable, match="no other one"):
        await run(session, "1 + 1")


@pytest.mark.parametrize(
    "header",
    [
        {"type": "result", "id": 1, "status": "ok"},
        {"type": "result", "id": None, "status": "ok"},
        {"type": "unheard-of"},
        {"type": "result", "status": "great"},
        {"type": "display", "representations": [{"media_type": "a", "length": 9}]},
    ],
)
async def test_a_guest_s_frame_that_its_agent_let_pass_is_not_believed(
    lied_to: Callable[..., DockerSession], header: dict[str, Any]
) -> None:
    def lie(request: dict[str, Any]) -> bytes:
        return guest(request, {"id": request["request"]} | header) + reply(request, exit_code=None)

    session = lied_to(execute=lie, discard=reply)
    cell = await run(session, "1 + 1")
    assert (cell.status, cell.result.state_lost) == (ExecutionStatus.SESSION_LOST, True)
    assert "sent what no interpreter sends" in (cell.result.error.value if cell.result.error else "")


async def test_numbers_of_an_account_that_cannot_be_are_none(lied_to: Callable[..., DockerSession]) -> None:
    def lie(request: dict[str, Any]) -> bytes:
        account = {"exit_code": "3", "cpu_seconds": 1e300, "peak_memory_bytes": -5, "oom_kills": True}
        account |= {"refused_forks": [], "full": ["disk_bytes data", "everything", 3], "fresh": 1, "broken": {}}
        return guest(request, {"type": "result", "id": request["request"], "status": "ok"}) + reply(request, **account)

    cell = await run(lied_to(execute=lie), "1 + 1")
    assert cell.status is ExecutionStatus.OK
    assert (cell.result.cpu_seconds, cell.result.peak_memory_bytes) == (0, 0)
    assert cell.exceeded == {"disk_bytes"}


@pytest.mark.parametrize(
    "files",
    [
        "many",
        [["a", 1, 2, True]],
        [["/etc/passwd", 1, 2, True, True]],
        [["a", -1, 2, True, True]],
        [["a", 1, 2**80, True, True]],
        [["a\n", 1, 2, True, True]],
        [[5, 1, 2, True, True]],
    ],
)
async def test_a_list_of_files_that_cannot_be_is_refused(lied_to: Callable[..., DockerSession], files: object) -> None:
    session = lied_to(list=lambda request: frame({"type": "files", "id": request["id"], "files": files}))
    with pytest.raises(SandboxUnavailable, match="broke the protocol"):
        await session.list_files()


async def test_a_file_that_was_not_asked_for_is_refused(lied_to: Callable[..., DockerSession]) -> None:
    session = lied_to(stat=lambda request: reply(request, file=["other", 1, 2, True, True]))
    with pytest.raises(SandboxUnavailable, match="another file"):
        await session.stat_file("mine")


async def test_content_without_an_end_stops_with_its_reader(lied_to: Callable[..., DockerSession]) -> None:
    session = lied_to(read=lambda request: frame({"type": "data", "id": request["id"]}, bytes(2**20)) * 80)
    chunks = session.read_file("a")
    await anext(chunks)
    # While its reader does something else: an honest agent would wait.
    await session.container.connection.ended
    while (lost := session.container.connection.lost) is None:
        await anext(chunks)
    assert "more than was asked for" in lost
    await chunks.aclose()


async def test_an_agent_that_says_nothing_is_given_up(lied_to: Callable[..., DockerSession]) -> None:
    session = lied_to()
    with pytest.raises(SandboxUnavailable, match="did not answer within 2 s"):
        await session.stat_file("a")


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=150, deadline=None, database=None)
def test_any_bytes_are_believed_or_refused_and_nothing_else(data: bytes, is_piece: bool) -> None:
    async def feed() -> None:
        ours, theirs = socket.socketpair()
        connection = Connection(ours)
        call = connection.call("execute", window=1024)
        with theirs:
            theirs.sendall(piece(data) if is_piece else data)
        await connection.ended
        assert connection.lost is not None
        call.close()
        await connection.close()

    asyncio.run(feed())


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5))
@settings(database=None)
def test_any_change_is_believed_or_refused_and_nothing_else(value: object) -> None:
    try:
        change = parse_change(json.loads(json.dumps(value)))
    except ValueError:
        return
    assert not Path(change.path).is_absolute()
