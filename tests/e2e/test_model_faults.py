"""A model endpoint that fails in every way endpoints do: the run ends, and says truthfully why."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from afarensis import v1
from tests.support.api import Api, text_of
from tests.support.scripted_model import Cut, Pause, Raw, ScriptedModel, Turn, Wait, call, calls, code, error, text
from tests.support.scripts import Script, Scripts
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

KEY = "sk-nobody-may-see-this"

SERVER_ERROR = v1.LAST_ERROR_CODE_SERVER_ERROR
RATE_LIMITED = v1.LAST_ERROR_CODE_RATE_LIMIT_EXCEEDED
INVALID_PROMPT = v1.LAST_ERROR_CODE_INVALID_PROMPT


@dataclass(slots=True)
class Place:
    """A server with little patience, and its endpoint."""

    api: Api
    scripts: Scripts
    endpoint: ScriptedModel
    server: ServerProcess

    async def run(self, *turns: Turn) -> tuple[v1.Run, Script]:
        script = self.scripts.add(*turns)
        return await self.api.settled(await self.api.run(script.model)), script


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    scripts = Scripts()
    async with ScriptedModel(scripts.next_turn) as endpoint:
        settings = {
            "openai.base_url": endpoint.base_url,
            "openai.api_key": KEY,
            "openai.max_retries": 0,
            "openai.stall_seconds": 1,
        }
        with ServerProcess(tmp_path_factory.mktemp("faults"), settings) as server:
            async with Api(server.address) as api:
                yield Place(api, scripts, endpoint, server)


@pytest.mark.parametrize(
    ("turn", "code_", "reason", "said"),
    [
        (error(401, f"Bad key {KEY}."), SERVER_ERROR, "MODEL_CREDENTIALS_REFUSED", "AFARENSIS_OPENAI_API_KEY"),
        (error(403, "Not yours."), SERVER_ERROR, "MODEL_CREDENTIALS_REFUSED", "(403)"),
        (error(404, "No such model."), SERVER_ERROR, "MODEL_UNKNOWN", "No such model"),
        (error(429, "Slow down."), RATE_LIMITED, "MODEL_RATE_LIMITED", "Slow down"),
        (error(400, "Too hot."), INVALID_PROMPT, "MODEL_REQUEST_REFUSED", "Too hot"),
        (error(400, "x", code="context_length_exceeded"), INVALID_PROMPT, "CONTEXT_LENGTH_EXCEEDED", "too long"),
        (error(500, f"Overheated, {KEY}."), SERVER_ERROR, "MODEL_FAILED", "Overheated, ***"),
        (Turn(status=502, body="<html>Bad gateway</html>"), SERVER_ERROR, "MODEL_FAILED", "(502). Try again later."),
        (Turn(body="<html>Hello</html>"), SERVER_ERROR, "MODEL_ANSWER_BROKEN", "text/html"),
        (Turn((Pause(30),)), SERVER_ERROR, "MODEL_TIMEOUT", "sent nothing for 1 seconds"),
        (Turn((Raw(b"data: {nonsense\n\n"),)), SERVER_ERROR, "MODEL_ANSWER_BROKEN", ""),
        (Turn((Cut(),)), SERVER_ERROR, "MODEL_ANSWER_BROKEN", "closed the connection"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isupper() else "",
)
async def test_endpoint_that_fails_ends_the_run_with_the_reason(
    place: Place, turn: Turn, code_: v1.LastErrorCode.ValueType, reason: str, said: str
) -> None:
    run, _ = await place.run(turn)
    assert run.status == v1.RUN_STATUS_FAILED
    assert (run.last_error.code, run.last_error.reason) == (code_, reason), run.last_error
    assert said in run.last_error.message
    assert KEY not in run.last_error.message
    assert run.HasField("fail_time")
    # The thread is free again.
    again = await place.api.run(place.scripts.add(text("Better.")).model, thread_id=run.thread_id)
    assert (await place.api.settled(again)).status == v1.RUN_STATUS_COMPLETED


async def test_endpoint_that_is_down_ends_the_run_with_the_reason(place: Place) -> None:
    await place.endpoint.__aexit__(None, None, None)
    try:
        run, _ = await place.run()
    finally:
        await place.endpoint.__aenter__()
    assert (run.status, run.last_error.code) == (v1.RUN_STATUS_FAILED, SERVER_ERROR)
    assert run.last_error.reason == "MODEL_UNREACHABLE"
    assert run.last_error.message == (
        f"The model endpoint {place.endpoint.base_url} cannot be reached: the connection was refused. Check that it "
        "runs, and AFARENSIS_OPENAI_BASE_URL on the server."
    )
    assert (await place.run(text("Up again.")))[0].status == v1.RUN_STATUS_COMPLETED


@pytest.mark.parametrize(
    ("cut", "reason"), [(Cut(), "MODEL_ANSWER_BROKEN"), (Wait(asyncio.Event()), "MODEL_TIMEOUT")], ids=["cut", "stall"]
)
async def test_answer_that_breaks_off_keeps_its_words_and_says_that_it_failed(
    place: Place, cut: Cut | Wait, reason: str
) -> None:
    # What lies unread in a connection goes with it when it is reset: that is TCP's.
    run, _ = await place.run(text("So far ", "so good").then(Pause(0.3), cut))
    assert run.status == v1.RUN_STATUS_FAILED
    assert run.last_error.reason == reason
    message = await place.api.answer(run)
    assert (message.status, text_of(message)) == (v1.MESSAGE_STATUS_INCOMPLETE, "So far so good")
    assert message.incomplete_details.reason == v1.MESSAGE_INCOMPLETE_REASON_RUN_FAILED
    (step,) = await place.api.steps(run)
    assert step.status == v1.RUN_STEP_STATUS_FAILED
    assert step.last_error == run.last_error


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ('{"code": "print(1)', "The arguments are not valid JSON, so nothing was run"),
        ("", "The arguments are empty, so nothing was run."),
        ('["print(1)"]', "The arguments are an array instead of an object; nothing was run."),
        ('{"source": "print(1)"}', "The field 'code' is missing (there is 'source'); nothing was run."),
        ('{"code": 1}', "The field 'code' is a number instead of a string; nothing was run."),
    ],
    ids=["broken", "empty", "array", "other-field", "number"],
)
async def test_broken_call_goes_back_to_the_model_which_does_better(place: Place, arguments: str, told: str) -> None:
    run, script = await place.run(call("code_interpreter", arguments), code("print(6 * 7)"), text("42"))
    assert run.status == v1.RUN_STATUS_COMPLETED
    assert told in script.requests[1].tool_texts[0]
    assert script.requests[2].tool_texts[1] == "42\n\n[status: ok]"
    first, second = await place.api.code_calls(run)
    assert first.result.status == v1.EXECUTION_STATUS_ERROR
    assert told in first.result.error.value
    assert not first.execution_id
    assert second.result.status == v1.EXECUTION_STATUS_OK


async def test_call_of_a_tool_that_the_run_does_not_have_goes_back_to_the_model(place: Place) -> None:
    run, script = await place.run(calls(("a", "browse", {}), ("b", "code_interpreter", {"code": "7"})), text("7"))
    assert run.status == v1.RUN_STATUS_COMPLETED
    assert script.requests[1].tool_texts == ["There is no tool named 'browse' in this run.", "7\n\n[status: ok]"]


async def test_model_that_never_answers_is_stopped_after_so_many_calls(
    place: Place, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = {"openai.base_url": place.endpoint.base_url, "runs.model_calls": 3}
    with ServerProcess(tmp_path_factory.mktemp("circles"), settings) as server:
        async with Api(server.address) as api:
            script = place.scripts.add(*(code("1") for _ in range(10)))
            run = await api.settled(await api.run(script.model))
    assert (run.status, run.last_error.reason) == (v1.RUN_STATUS_FAILED, "MODEL_CALLS_EXCEEDED")
    assert len(script.requests) == 3


async def test_log_holds_neither_the_key_nor_what_anybody_said(place: Place) -> None:
    script = place.scripts.add(code("print('secret ' + 'output')\n1/0 # secret code"), text("secret answer"))
    run = await place.api.settled(await place.api.run(script.model, text="secret question"))
    assert run.status == v1.RUN_STATUS_COMPLETED
    log = place.server.log.read_text()
    assert run.thread_id in log
    assert "secret" not in log
    assert KEY not in log
