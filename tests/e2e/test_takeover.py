"""Two servers on one database: one stands still, dies or starts, and the other goes on with what it has to."""

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import grpc

from afarensis import v1
from tests.support.api import ENDLESS, Api, event_name, is_event, output_of, printed, refused, text_of
from tests.support.scripted_model import Delta, ScriptedModel, Wait, text
from tests.support.scripts import Scripts
from tests.support.server_process import ServerProcess


async def test_server_that_stood_still_adds_nothing_to_what_another_went_on_with(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    wake = asyncio.Event()
    scripts = Scripts()
    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(ScriptedModel(scripts.next_turn))
        settings = {
            "openai.base_url": endpoint.base_url,
            "openai.max_retries": 0,
            "runs.lease_seconds": 5,
            "store.url": f"sqlite:///{tmp_path / 'shared.db'}",
        }
        first = stack.enter_context(ServerProcess(tmp_path / "first", settings))
        second = stack.enter_context(ServerProcess(tmp_path / "second", settings))
        api = await stack.enter_async_context(Api(second.address))
        script = scripts.add(
            text("The first att").then(Wait(wake), Delta({"content": "empt."})), text("The second attempt.")
        )
        async with Api(first.address) as asking:
            run = await asking.run(script.model)
            before = await asking.until(run.id, is_event("message.delta"))
        os.kill(first.pid, signal.SIGSTOP)
        try:
            # Its reader asks the other server, which takes the run up once the lease is over.
            async with asyncio.timeout(60):
                after = await api.events(run.id, before[-1].sequence)
            assert event_name(after[-1]) == "run.completed"
            wake.set()
        finally:
            os.kill(first.pid, signal.SIGCONT)
        # It lets go of the run when it wants to write its next words.
        async with asyncio.timeout(30):
            while b"run let go" not in await loop.run_in_executor(None, first.log.read_bytes):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await api.stored_events(run.id) == before + after
        answers = [(message.status, text_of(message)) for message in (await api.messages(run.thread_id))[1:]]
        assert answers == [
            (v1.MESSAGE_STATUS_INCOMPLETE, "The first att"),
            (v1.MESSAGE_STATUS_COMPLETED, "The second attempt."),
        ]
        assert len(script.requests) == 2


def sharing(directory: Path, base_url: str) -> dict[str, object]:
    """What both servers are started with."""
    return {"openai.base_url": base_url, "runs.lease_seconds": 5, "store.url": f"sqlite:///{directory / 'shared.db'}"}


async def test_start_of_another_server_ends_no_session_and_no_execution(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(ScriptedModel(Scripts().next_turn))
        settings = sharing(tmp_path, endpoint.base_url)
        first = stack.enter_context(ServerProcess(tmp_path / "first", settings))
        api = await stack.enter_async_context(Api(first.address))
        session = await api.session()
        items = api.sessions.Execute(v1.ExecuteRequest(session_id=session.id, code=f"x = 1\n{ENDLESS}"))
        execution_id = (await anext(aiter(items))).event.started.execution_id
        second = stack.enter_context(ServerProcess(tmp_path / "second", settings))
        async with Api(second.address) as other:
            listed = await other.sessions.ListSessions(v1.ListSessionsRequest(status=v1.SESSION_STATUS_ACTIVE))
            assert [one.id for one in listed.sessions] == [session.id]
            with refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_ELSEWHERE"):
                await other.execute(session.id, "1")
            with refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_ELSEWHERE"):
                await other.sessions.CloseSession(v1.CloseSessionRequest(session_id=session.id))
            await api.sessions.InterruptExecution(v1.InterruptExecutionRequest(execution_id=execution_id))
            told = [item.event async for item in items if item.HasField("event")]
            assert told[-1].result.status == v1.EXECUTION_STATUS_INTERRUPTED
            assert not told[-1].result.state_lost
            seen = other.sessions.StreamExecutionEvents(
                v1.StreamExecutionEventsRequest(execution_id=execution_id, after_sequence=told[-2].sequence)
            )
            assert [item.event async for item in seen if item.HasField("event")] == [told[-1]]
        assert output_of(await api.execute(session.id, "print(x)")) == "1\n"


async def test_code_of_a_thread_goes_on_at_another_server_when_its_own_is_gone(tmp_path: Path) -> None:
    scripts = Scripts()
    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(ScriptedModel(scripts.next_turn))
        settings = sharing(tmp_path, endpoint.base_url)
        first = stack.enter_context(ServerProcess(tmp_path / "first", settings))
        second = stack.enter_context(ServerProcess(tmp_path / "second", settings))
        async with Api(first.address) as api:
            run = await api.settled(await api.run_code("x = 1; print('first')"))
            assert run.status == v1.RUN_STATUS_COMPLETED
        first.kill()
        async with Api(second.address) as other:
            again = await other.settled(await other.run_code("print('x' in globals())", run.thread_id))
            assert again.status == v1.RUN_STATUS_COMPLETED
            (made,) = await other.code_calls(again)
            assert (printed(made), made.state_lost) == ("False\n", True)
