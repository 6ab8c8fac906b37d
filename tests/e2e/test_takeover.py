"""Two servers on one database: one stands still for longer than its leases, and the other goes on with its run."""

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

from afarensis import v1
from tests.support.api import Api, event_name, is_event, text_of
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
