"""Code that runs in runs: it fails and is corrected, takes too long, dies, says too much."""

from collections.abc import Callable

import pytest

from afarensis import v1
from tests.support.api import CODE_INTERPRETER, LOOKUP, Api, direct, printed, seconds, text_of
from tests.support.scripted_model import calls, code, text
from tests.support.scripts import Script

pytestmark = pytest.mark.asyncio(loop_scope="session")

Add = Callable[..., Script]


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
