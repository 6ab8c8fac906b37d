"""Code that is cancelled with its run, or left by its client."""

import asyncio
import time

import pytest

from afarensis import v1
from tests.support.api import ENDLESS, Api, direct, event_name, printed, prints

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_cancelled_code_keeps_what_it_printed_and_its_variables(api: Api) -> None:
    run = await api.run(text=direct(ENDLESS))
    await api.until(run.id, prints("line 3\n"))
    await api.runs.CancelRun(v1.CancelRunRequest(run_id=run.id))
    async with asyncio.timeout(10):
        events = await api.events(run.id)
    assert [event_name(event) for event in events[-2:]] == ["run.step.cancelled", "run.cancelled"]

    (step,) = await api.steps(run)
    assert step.status == v1.RUN_STEP_STATUS_CANCELLED
    (made,) = await api.code_calls(run)
    assert printed(made).startswith("line 1\nline 2\nline 3\n")
    assert made.result.status == v1.EXECUTION_STATUS_INTERRUPTED

    again = await api.settled(await api.run_code("print(kept + 1)", run.thread_id))
    (next_call,) = await api.code_calls(again)
    assert (printed(next_call), next_call.state_lost) == ("42\n", False)
    assert next_call.session_id == made.session_id


async def test_cancelled_code_that_does_not_obey_is_killed_and_its_files_stay(api: Api) -> None:
    stubborn = """\
open("/mnt/data/left.txt", "w").write("left")
print("begun")
while True:
    try:
        while True:
            pass
    except KeyboardInterrupt:
        pass"""
    run = await api.run(text=direct(stubborn))
    await api.until(run.id, prints("begun"))
    await api.runs.CancelRun(v1.CancelRunRequest(run_id=run.id))
    async with asyncio.timeout(20):
        assert (await api.settled(run)).status == v1.RUN_STATUS_CANCELLED
    again = await api.settled(await api.run_code("print(open('/mnt/data/left.txt').read())", run.thread_id))
    (made,) = await api.code_calls(again)
    assert printed(made) == "left\n"
    assert made.state_lost


#: Notes the time again and again, whatever is done to the code itself.
BEAT = """\
import time
def beat():
    while True:
        open("/mnt/data/beat.txt", "w").write("alive")
        time.sleep(0.01)
"""
UNSTOPPABLE = {
    "code that catches the interrupt": """\
print("begun", flush=True)
while True:
    try:
        beat()
    except KeyboardInterrupt:
        pass""",
    "a process that it started": """\
import os, subprocess, sys
subprocess.Popen([sys.executable, "-c", BEAT + "beat()"], start_new_session=True)
while not os.path.exists("/mnt/data/beat.txt"):
    time.sleep(0.01)
print("begun", flush=True)
time.sleep(1000)""",
    "a thread that it started": """\
import os, threading
threading.Thread(target=beat).start()
while not os.path.exists("/mnt/data/beat.txt"):
    time.sleep(0.01)
print("begun", flush=True)
time.sleep(1000)""",
    "processes that start processes": """\
import os
print("begun", flush=True)
while True:
    try:
        if os.fork() == 0:
            open("/mnt/data/beat.txt", "w").write("alive")
    except BaseException:
        pass""",
    "a long call of native code": """\
import numpy as np
print("begun", flush=True)
numbers = np.random.rand(3000, 3000)
while True:
    np.linalg.svd(numbers)""",
}


@pytest.mark.parametrize("code", UNSTOPPABLE.values(), ids=UNSTOPPABLE.keys())
async def test_nothing_of_a_cancelled_run_s_code_is_alive_a_second_later(api: Api, code: str) -> None:
    run = await api.run(text=direct(f"BEAT = {BEAT!r}\nexec(BEAT)\n{code}"))
    await api.until(run.id, prints("begun"))
    asked = time.time()
    await api.runs.CancelRun(v1.CancelRunRequest(run_id=run.id))
    assert (await api.settled(run)).status == v1.RUN_STATUS_CANCELLED
    (made,) = await api.code_calls(run)
    assert made.result.status == v1.EXECUTION_STATUS_INTERRUPTED
    assert made.result.error.value.startswith("The run was cancelled while this code was running.")

    # Whatever is still alive in the session after that would beat meanwhile.
    look = "import os, time; time.sleep(1.5); print(os.path.exists(name) and os.stat(name).st_mtime)"
    again = await api.settled(await api.run_code(f"name = '/mnt/data/beat.txt'; {look}", run.thread_id))
    (after,) = await api.code_calls(again)
    if "beat" in code:
        assert float(printed(after)) - asked < 1.0
    assert after.state_lost == made.result.state_lost


async def test_files_of_cancelled_code_are_kept_for_the_next_session(api: Api) -> None:
    run = await api.run(text=direct(f"open('/mnt/data/half.txt', 'w').write('half')\n{ENDLESS}"))
    await api.until(run.id, prints("line 1\n"))
    await api.runs.CancelRun(v1.CancelRunRequest(run_id=run.id))
    assert (await api.settled(run)).status == v1.RUN_STATUS_CANCELLED
    (made,) = await api.code_calls(run)
    (file,) = [item.file.file for item in made.outputs if item.HasField("file")]
    assert await api.download(file.id) == b"half"

    await api.sessions.CloseSession(v1.CloseSessionRequest(session_id=made.session_id))
    (after,) = await api.code_calls(
        await api.settled(await api.run_code("print(open('/mnt/data/half.txt').read())", run.thread_id))
    )
    assert printed(after) == "half\n"


async def test_file_is_there_before_the_code_that_made_it_ends(api: Api) -> None:
    run = await api.run(
        text=direct(
            """\
import os, time
open("/mnt/data/early.csv", "w").write("a,b")
while not os.path.exists("/mnt/data/go.txt"):
    time.sleep(0.05)
print("goes on")"""
        )
    )

    def files(event: v1.RunEvent) -> list[v1.ExecutionFile]:
        outputs = [output for call in event.run_step_delta.tool_calls for output in call.code_interpreter.outputs]
        return [output.file for output in outputs if output.HasField("file")]

    (shown,) = files((await api.until(run.id, lambda event: bool(files(event))))[-1])
    assert (shown.path, await api.download(shown.file.id)) == ("/mnt/data/early.csv", b"a,b")
    assert (await api.runs.GetRun(v1.GetRunRequest(run_id=run.id))).run.status == v1.RUN_STATUS_IN_PROGRESS
    await api.runs.CancelRun(v1.CancelRunRequest(run_id=run.id))
    await api.settled(run)
    (made,) = await api.code_calls(run)
    assert [item.file.path for item in made.outputs if item.HasField("file")] == ["/mnt/data/early.csv"]


async def test_stream_that_asked_for_it_cancels_its_run_when_it_is_dropped(api: Api) -> None:
    assistant, thread = await api.assistant(), await api.thread(direct(ENDLESS))
    create = v1.CreateRunRequest(thread_id=thread.id, assistant_id=assistant.id)
    items = api.runs.CreateRunStream(v1.CreateRunStreamRequest(run=create, cancel_on_disconnect=True))
    run_id = ""
    async for item in items:
        run_id = run_id or item.event.run.id
        if prints("line 2\n")(item.event):
            break
    items.cancel()
    run = await api.settled(v1.Run(id=run_id))
    assert run.status == v1.RUN_STATUS_CANCELLED
