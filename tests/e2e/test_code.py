"""Code that runs in runs: it fails and is corrected, is cancelled, takes too long, dies; sessions of threads."""

import asyncio
import time
from collections.abc import Callable, Sequence

import pytest

from afarensis import v1
from tests.support.api import (
    CODE_INTERPRETER,
    LOOKUP,
    Api,
    event_name,
    is_event,
    output_of,
    printed,
    prints,
    result_of,
    seconds,
    text_of,
)
from tests.support.scripted_model import Wait, calls, code, text
from tests.support.scripts import Script

pytestmark = pytest.mark.asyncio(loop_scope="session")

Add = Callable[..., Script]

ENDLESS = """\
import time
kept = 41
count = 0
while True:
    count += 1
    print("line", count)
    time.sleep(0.01)"""


def direct(*blocks: str) -> str:
    """A message whose blocks `direct` runs."""
    return "\n\n".join(f"```python\n{block}\n```" for block in blocks)


# --- failing ----------------------------------------------------------------------------------------------------------


async def test_model_reads_the_error_of_its_code_and_corrects_it(api: Api, script: Add) -> None:
    author = script(
        code("total = 10\nprint('dividing')\ntotal / 0"), code("print(total / 2)"), text("It is 5, ", "not nothing.")
    )
    run = await api.settled(await api.run(author.model))
    assert run.status == v1.RUN_STATUS_COMPLETED
    told = author.requests[1].tool_texts[0]
    assert told.startswith("dividing\nTraceback (most recent call last):\n")
    assert told.endswith("ZeroDivisionError: division by zero\n\n[status: error]")
    assert author.requests[2].tool_texts == [told, "5.0\n\n[status: ok]"]

    failed, corrected = await api.code_calls(run)
    assert failed.result.status == v1.EXECUTION_STATUS_ERROR
    assert (failed.result.error.name, failed.result.error.value) == ("ZeroDivisionError", "division by zero")
    assert "line 3" in failed.result.error.traceback
    assert "afarensis" not in failed.result.error.traceback
    assert printed(failed) == "dividing\n"
    assert (corrected.result.status, printed(corrected)) == (v1.EXECUTION_STATUS_OK, "5.0\n")
    assert {step.status for step in await api.steps(run)} == {v1.RUN_STEP_STATUS_COMPLETED}


async def test_direct_stops_at_the_block_that_fails_and_says_which(api: Api) -> None:
    run = await api.settled(await api.run(text=direct("print('one')", "raise ValueError('two')", "print('three')")))
    assert run.status == v1.RUN_STATUS_COMPLETED
    assert len(await api.code_calls(run)) == 2
    answer = text_of(await api.answer(run))
    assert "block 2 of 3 raised ValueError: two" in answer


async def test_several_calls_of_one_answer_run_one_after_the_other(api: Api, script: Add) -> None:
    author = script(
        calls(("a", "code_interpreter", {"code": "x = 1"}), ("b", "code_interpreter", {"code": "print(x + 1)"})),
        text("2"),
    )
    run = await api.settled(await api.run(author.model))
    assert run.status == v1.RUN_STATUS_COMPLETED
    assert [printed(made) for made in await api.code_calls(run)] == ["", "2\n"]
    assert len(await api.steps(run)) == 2


async def test_code_and_functions_of_one_answer_are_both_answered(api: Api, script: Add) -> None:
    author = script(calls(("a", "code_interpreter", {"code": "print(1)"}), ("b", "lookup", {})), text("Done."))
    run = await api.settled(await api.run(author.model, CODE_INTERPRETER, LOOKUP))
    (asked,) = run.required_action.submit_tool_outputs.tool_calls
    submit = v1.SubmitToolOutputsRequest(
        run_id=run.id, tool_outputs=[v1.ToolOutput(tool_call_id=asked.id, output="found")]
    )
    await api.runs.SubmitToolOutputs(submit)
    assert (await api.settled(run)).status == v1.RUN_STATUS_COMPLETED
    assert author.requests[1].tool_texts == ["1\n\n[status: ok]", "found"]
    (made,) = await api.code_calls(run)
    assert printed(made) == "1\n"


# --- files ------------------------------------------------------------------------------------------------------------


async def test_files_that_the_model_does_not_cite_are_attached_and_images_shown(api: Api, script: Add) -> None:
    author = script(
        code(
            "from PIL import Image\n"
            "Image.new('RGB', (3, 2)).save('/mnt/data/dot.png')\n"
            "open('/mnt/data/report.txt', 'w').write('all is well')"
        ),
        text("I wrote sandbox:/mnt/data/rapport.txt for you."),
    )
    message = await api.answer(await api.settled(await api.run(author.model)))
    (attachment,) = message.attachments
    assert await api.download(attachment.file_id) == b"all is well"
    assert list(attachment.tools) == [v1.TOOL_TYPE_CODE_INTERPRETER]
    (image,) = [part.image_file for part in message.content if part.HasField("image_file")]
    assert (await api.download(image.file_id)).startswith(b"\x89PNG")
    assert not any(part.text.annotations for part in message.content)


async def test_code_changes_its_view_of_an_input_and_never_the_file(api: Api) -> None:
    file = await api.upload(b"original", "notes.txt")
    thread = await api.thread(
        direct("open('/mnt/data/notes.txt', 'w').write('changed')", "print(open('/mnt/data/notes.txt').read())"),
        attachments=[file.id],
    )
    run = await api.settled(await api.run(thread_id=thread.id))
    changing, reading = await api.code_calls(run)
    assert printed(reading) == "changed\n"
    (changed,) = [output.file for output in changing.outputs if output.HasField("file")]
    assert (changed.path, changed.change) == ("/mnt/data/notes.txt", v1.FILE_CHANGE_MODIFIED)
    assert changed.file.id != file.id
    assert await api.download(changed.file.id) == b"changed"
    assert await api.download(file.id) == b"original"


async def test_every_change_of_a_file_is_told_with_the_same_id_for_the_same_content(api: Api) -> None:
    blocks = [
        "open('/mnt/data/a.txt', 'w').write('1')",
        "open('/mnt/data/a.txt', 'w').write('1')",
        "open('/mnt/data/a.txt', 'w').write('2')",
        "import os; os.remove('/mnt/data/a.txt')",
    ]
    run = await api.settled(await api.run(text=direct(*blocks)))
    told = [
        [(output.file.change, output.file.file.id) for output in made.outputs if output.HasField("file")]
        for made in await api.code_calls(run)
    ]
    created, touched, modified, deleted = told
    assert [change for change, _ in created] == [v1.FILE_CHANGE_CREATED]
    # Written again with the same content: not told, or told with the same id.
    assert {file_id for _, file_id in touched} <= {created[0][1]}
    assert [change for change, _ in modified] == [v1.FILE_CHANGE_MODIFIED]
    assert modified[0][1] != created[0][1]
    assert deleted == [(v1.FILE_CHANGE_DELETED, "")]
    assert not (await api.answer(run)).attachments


async def test_file_attached_between_two_runs_is_there_in_the_second(api: Api) -> None:
    run = await api.settled(await api.run_code("import os; print(sorted(os.listdir('/mnt/data')))"))
    file = await api.upload(b"new", "new.txt")
    message = v1.CreateMessageRequest(
        thread_id=run.thread_id,
        text=direct("print(open('/mnt/data/new.txt').read())"),
        attachments=[v1.MessageAttachment(file_id=file.id)],
    )
    await api.threads.CreateMessage(message)
    again = await api.settled(await api.run(thread_id=run.thread_id))
    (first,), (second,) = await api.code_calls(run), await api.code_calls(again)
    assert (printed(first), printed(second)) == ("[]\n", "new\n")
    assert first.session_id == second.session_id


async def test_two_files_of_one_name_are_both_there(api: Api) -> None:
    files = [await api.upload(content, "data.csv") for content in (b"first", b"second")]
    names = ["data.csv", "data (2).csv", *(file.id for file in files)]
    thread = await api.thread(
        direct(f"print([open('/mnt/data/' + name).read() for name in {names}])"),
        attachments=[file.id for file in files],
    )
    (made,) = await api.code_calls(await api.settled(await api.run(thread_id=thread.id)))
    assert printed(made) == "['first', 'second', 'first', 'second']\n"


# --- cancelling -------------------------------------------------------------------------------------------------------


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


# --- what code made, however the message ends -------------------------------------------------------------------------

MAKE = """\
open('/mnt/data/cited.csv', 'w').write('a')
open('/mnt/data/forgotten.csv', 'w').write('b')"""
CITED = "It is in sandbox:/mnt/data/cited.csv"


async def check_files(api: Api, message: v1.Message) -> None:
    """The file that the text names is annotated, the other one attached."""
    (part,) = message.content
    (annotation,) = part.text.annotations
    text = part.text.value
    assert text[annotation.start_index : annotation.end_index] == "sandbox:/mnt/data/cited.csv"
    assert await api.download(annotation.file_path.file_id) == b"a"
    (attachment,) = message.attachments
    assert await api.download(attachment.file_id) == b"b"


async def test_files_are_brought_into_an_answer_that_is_cut_off(api: Api, script: Add) -> None:
    author = script(code(MAKE), text(CITED, finish="length"))
    run = await api.settled(await api.run(author.model))
    assert run.status == v1.RUN_STATUS_INCOMPLETE
    message = await api.answer(run)
    assert message.status == v1.MESSAGE_STATUS_INCOMPLETE
    await check_files(api, message)


async def test_files_are_brought_into_an_answer_that_is_cancelled(api: Api, script: Add) -> None:
    author = script(code(MAKE), text(CITED).then(Wait(asyncio.Event())))
    run = await api.run(author.model)
    await api.until(run.id, is_event("message.delta"))
    await api.runs.CancelRun(v1.CancelRunRequest(run_id=run.id))
    assert (await api.settled(run)).status == v1.RUN_STATUS_CANCELLED
    await check_files(api, await api.answer(run))
    stored = await api.stored_events(run.id)
    assert joined(stored) == CITED
    assert [event.message for event in stored if event.HasField("message")][-1] == await api.answer(run)


async def test_picture_that_was_saved_and_shown_comes_once(api: Api, script: Add) -> None:
    chart = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.savefig('/mnt/data/chart.png', dpi=150)\nplt.show()"
    author = script(code(chart), text("Look ", "at it."))
    run = await api.settled(await api.run(author.model))
    message = await api.answer(run)
    image, words = message.content
    assert (await api.download(image.image_file.file_id)).startswith(b"\x89PNG")
    assert words.text.value == "Look at it."
    assert list(message.attachments) == []
    stored = await api.stored_events(run.id)
    deltas = [delta for event in stored for delta in event.message_delta.content]
    assert [delta.image_file.file_id for delta in deltas if delta.HasField("image_file")] == [image.image_file.file_id]


async def test_file_of_an_earlier_session_can_be_cited(api: Api, script: Add) -> None:
    author = script(code(MAKE), text("Made."), text(CITED))
    first = await api.settled(await api.run(author.model))
    (made,) = await api.code_calls(first)
    await api.sessions.CloseSession(v1.CloseSessionRequest(session_id=made.session_id))
    await api.say(first.thread_id, "Where is it?")
    second = await api.settled(await api.run(author.model, thread_id=first.thread_id))
    (annotation,) = (await api.answer(second)).content[0].text.annotations
    assert await api.download(annotation.file_path.file_id) == b"a"


def joined(events: Sequence[v1.RunEvent]) -> str:
    """The text of a message as its deltas say it."""
    return "".join(part.text.value for event in events for part in event.message_delta.content)


# --- taking too long, dying -------------------------------------------------------------------------------------------


async def test_code_that_takes_too_long_is_an_error_that_names_the_limit_to_the_model(api: Api, script: Add) -> None:
    author = script(code("x = 1\nprint('begun')\nwhile True: pass"), code("print(x)"), text("Too slow."))
    tool = v1.Tool(code_interpreter=v1.CodeInterpreterTool(execution_timeout=seconds(0.5)))
    run = await api.settled(await api.run(author.model, tool))
    assert run.status == v1.RUN_STATUS_COMPLETED
    slow, after = await api.code_calls(run)
    assert slow.result.status == v1.EXECUTION_STATUS_TIMEOUT
    assert "its time limit of 0.5 s" in slow.result.error.value
    (limit,) = slow.result.exceeded_limits
    assert (limit.name, limit.limit) == ("timeout", 500)
    assert 0.4 < slow.result.wall_duration.ToNanoseconds() / 1e9 < 5
    assert printed(slow) == "begun\n"
    told = author.requests[1].tool_texts[0]
    assert "its time limit of 0.5 s" in told
    assert told.endswith("[status: timeout]")
    assert (printed(after), after.state_lost) == ("1\n", False)
    # The model was told before it wrote the code.
    assert "One call may run for 0.5 seconds." in author.requests[0].body["tools"][0]["function"]["description"]


async def test_interpreter_that_dies_loses_its_variables_and_no_file_and_says_so(api: Api, script: Add) -> None:
    author = script(
        code("x = 1\nopen('/mnt/data/kept.txt', 'w').write('kept')"),
        code("print('before')\nimport os\nos._exit(3)"),
        code("print('x' in globals(), open('/mnt/data/kept.txt').read())"),
        text("It died."),
    )
    run = await api.settled(await api.run(author.model))
    assert run.status == v1.RUN_STATUS_COMPLETED
    first, died, after = await api.code_calls(run)
    assert (died.result.status, died.result.state_lost) == (v1.EXECUTION_STATUS_SESSION_LOST, True)
    assert died.result.error.value
    assert printed(died) == "before\n"
    assert after.state_lost
    assert printed(after) == "False kept\n"
    assert not first.state_lost
    assert not died.state_lost
    assert "variables, imports and functions are gone, files remain" in author.requests[2].tool_texts[1]
    assert "variables, imports and functions of earlier calls were gone" in author.requests[3].tool_texts[2]


async def test_output_beyond_the_limit_is_counted_and_its_end_is_kept(api: Api) -> None:
    (made,) = await api.code_calls(await api.settled(await api.run_code("print('x' * 5_000_000)\nprint('the end')")))
    assert made.result.status == v1.EXECUTION_STATUS_OK
    assert made.result.dropped_bytes > 3_000_000
    assert len(printed(made)) < 2_000_000
    assert "output_bytes" in [limit.name for limit in made.result.exceeded_limits]


# --- sessions of threads ----------------------------------------------------------------------------------------------


async def test_thread_keeps_its_variables_from_run_to_run(api: Api) -> None:
    first = await api.settled(await api.run_code("x = 20"))
    second = await api.settled(await api.run_code("print(x + 1)", first.thread_id))
    (one,), (two,) = await api.code_calls(first), await api.code_calls(second)
    assert (printed(two), two.state_lost) == ("21\n", False)
    assert one.session_id == two.session_id
    assert one.execution_id != two.execution_id


async def test_two_threads_are_two_sessions(api: Api) -> None:
    first = await api.settled(await api.run_code("x = 1\nopen('/mnt/data/mine.txt', 'w').write('mine')"))
    second = await api.settled(await api.run_code("import os\nprint('x' in globals(), os.listdir('/mnt/data'))"))
    (one,), (two,) = await api.code_calls(first), await api.code_calls(second)
    assert one.session_id != two.session_id
    assert printed(two) == "False []\n"


async def test_runs_of_many_threads_run_at_the_same_time(api: Api) -> None:
    # Each waits until all have begun, by a file that its own session never gets: hence by time, in one piece.
    begun = [await api.run(text=direct(ENDLESS)) for _ in range(4)]
    await asyncio.gather(*(api.until(run.id, prints("line 2\n")) for run in begun))
    await asyncio.gather(*(api.runs.CancelRun(v1.CancelRunRequest(run_id=run.id)) for run in begun))
    ended = await asyncio.gather(*(api.settled(run) for run in begun))
    assert {run.status for run in ended} == {v1.RUN_STATUS_CANCELLED}


async def test_session_of_a_thread_is_shared_by_runs_and_clients(api: Api) -> None:
    run = await api.settled(await api.run_code("x = 5"))
    (made,) = await api.code_calls(run)
    session = (await api.sessions.GetSession(v1.GetSessionRequest(session_id=made.session_id))).session
    assert (session.thread_id, session.status) == (run.thread_id, v1.SESSION_STATUS_ACTIVE)
    assert output_of(await api.execute(session.id, "print(x)\nx = 6")) == "5\n"
    again = await api.settled(await api.run_code("print(x)", run.thread_id))
    (after,) = await api.code_calls(again)
    assert printed(after) == "6\n"


async def test_thread_whose_session_was_closed_gets_a_new_one_with_its_files(api: Api) -> None:
    run = await api.settled(await api.run_code("x = 5\nopen('/mnt/data/made.txt', 'w').write('made')"))
    (made,) = await api.code_calls(run)
    await api.sessions.CloseSession(v1.CloseSessionRequest(session_id=made.session_id))
    again = await api.settled(
        await api.run_code("print('x' in globals(), open('/mnt/data/made.txt').read())", run.thread_id)
    )
    (after,) = await api.code_calls(again)
    assert after.session_id != made.session_id
    assert after.state_lost
    assert printed(after) == "False made\n"


async def test_session_of_a_thread_can_be_opened_before_its_first_run(api: Api) -> None:
    file = await api.upload(b"1,2", "pair.csv")
    thread = await api.thread(direct("print(y)"), attachments=[file.id])
    session = await api.session(thread_id=thread.id)
    assert list(session.file_ids) == [file.id]
    assert output_of(await api.execute(session.id, "y = open('/mnt/data/pair.csv').read()")) == ""
    (made,) = await api.code_calls(await api.settled(await api.run(thread_id=thread.id)))
    assert (made.session_id, printed(made)) == (session.id, "1,2\n")


# --- leaving an execution ---------------------------------------------------------------------------------------------


async def test_execution_that_asked_for_it_is_interrupted_when_its_stream_is_dropped(api: Api) -> None:
    session = await api.session()
    request = v1.ExecuteRequest(session_id=session.id, code=ENDLESS, interrupt_on_disconnect=True)
    items = api.sessions.Execute(request)
    async for item in items:
        if "line 2\n" in item.event.output.text:
            break
    items.cancel()
    events = await _execute_when_free(api, session.id, "print(kept)")
    assert output_of(events) == "41\n"
    assert result_of(events).status == v1.EXECUTION_STATUS_OK


async def _execute_when_free(api: Api, session_id: str, source: str) -> list[v1.ExecutionEvent]:
    """Nothing tells a client when a session is free again: ask until it is."""
    async with asyncio.timeout(20):
        while True:
            session = (await api.sessions.GetSession(v1.GetSessionRequest(session_id=session_id))).session
            if not session.active_execution_id:
                return await api.execute(session_id, source)


async def test_code_whose_session_ends_before_it_begins_runs_in_the_next_one(api: Api) -> None:
    thread = await api.thread()
    session = await api.session(thread_id=thread.id)
    running = api.sessions.Execute(v1.ExecuteRequest(session_id=session.id, code=ENDLESS))
    async for item in running:
        if item.event.output.text:
            break
    run = await api.run_code("print('here')", thread_id=thread.id)
    # The code is known, and waits for the code that runs.
    await api.until(run.id, lambda event: any(call.code_interpreter.input for call in event.run_step_delta.tool_calls))
    await api.sessions.CloseSession(v1.CloseSessionRequest(session_id=session.id))
    run = await api.settled(run)
    assert run.status == v1.RUN_STATUS_COMPLETED, run.last_error
    (call,) = await api.code_calls(run)
    assert printed(call) == "here\n"
    assert call.session_id != session.id
    assert call.state_lost
