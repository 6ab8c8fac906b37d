"""What the model is asked: files, images, earlier code, and as much of the thread as fits."""

import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from afarensis_server.domain.files import FilePurpose
from afarensis_server.domain.runs import (
    MessageCreation,
    Run,
    RunStatus,
    ToolCalls,
    TruncationStrategy,
    TruncationType,
)
from afarensis_server.domain.threads import ImageFileContent, ImageUrlContent, MessageRole, TextContent
from afarensis_server.domain.tools import CodeInterpreterTool, ToolResources
from afarensis_server.files.service import UploadHead
from afarensis_server.runs.models.protocol import (
    AssistantMessage,
    ModelRequest,
    ToolMessage,
    UserMessage,
)
from afarensis_server.runs.prompt import PromptLimits
from afarensis_server.runs.submitting import ToolOutput
from afarensis_server.sandbox.local import LocalSandbox, LocalSandboxSettings
from afarensis_server.store.database import Database
from afarensis_server.store.pages import PageRequest
from tests.integration.runs.conftest import LOOKUP, PROJECT, Build, House, Script, build
from tests.support.clocks import set_clock_back
from tests.support.sandbox import LIMITS, guest_python
from tests.support.scripted_model import Request, ScriptedModel, Turn, call, code, error, text

CODE = CodeInterpreterTool()
SHOW = "from PIL import Image\nImage.new('RGB', ({width}, 2))"


@asynccontextmanager
async def built(
    database: Database, directory: Path, script: Script, prompt: PromptLimits, *, sandbox: bool = False
) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(ScriptedModel(script))
        driver = None
        if sandbox:
            settings = LocalSandboxSettings(guest_python=guest_python(), work_directory=directory / "s", pool_size=1)
            driver = await stack.enter_async_context(LocalSandbox(settings))
        yield await stack.enter_async_context(
            build(database, directory, endpoint, driver=driver, limits=LIMITS, prompt=prompt)
        )


async def follow_up(house: House, run: Run, words: str = "And now?") -> Run:
    """The next run of the thread of one that is over."""
    await house.threads.create_message(PROJECT, run.thread_id, {"text": words})
    return await house.settled(await house.runs.create(PROJECT, run.thread_id, {"assistant_id": run.assistant_id}))


def system_of(request: Request) -> str:
    first = request.body["messages"][0]
    assert first["role"] == "system"
    content: str = first["content"]
    return content


def roles(request: Request) -> list[str]:
    return [message["role"] for message in request.body["messages"]]


def widths(request: Request) -> list[int]:
    """The widths of the PNG images in a request, in order."""
    found = []
    for message in request.body["messages"]:
        parts: list[dict[str, Any]] = message["content"] if isinstance(message["content"], list) else []
        found += [width_of(part) for part in parts if part["type"] == "image_url"]
    return found


def width_of(part: Mapping[str, Any]) -> int:
    data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
    return int.from_bytes(data[16:20], "big")


# --- the code interpreter ---------------------------------------------------------------------------------------------


async def test_run_without_files_is_told_its_limits(house_with_sandbox: Build) -> None:
    house = await house_with_sandbox([text("Hi.")])
    await house.settled(await house.run(CODE, instructions="Be short."))
    system = system_of(house.endpoint.requests[0])
    assert system.startswith("Be short.\n\nCode interpreter: Python runs in /mnt/data, without network.")
    assert "120 seconds per call, 256 MB of memory" in system
    assert system.endswith("There are no files in /mnt/data.")


async def test_run_without_the_tool_is_told_nothing(house: Build) -> None:
    built = await house([text("Hi.")])
    await built.settled(await built.run(LOOKUP))
    assert roles(built.endpoint.requests[0]) == ["user"]


async def test_next_run_is_told_of_files_that_code_made_and_of_the_session_that_ended(
    house_with_sandbox: Build,
) -> None:
    make = "open('/mnt/data/made.csv', 'w').write('a,b')\nkept = 1"
    house = await house_with_sandbox([code(make), text("Made."), text("Still there."), code("1"), text("Gone.")])
    first = await house.settled(await house.run(CODE))
    assert "There are no files" in system_of(house.endpoint.requests[1]), "its own transcript tells of them"

    second = await follow_up(house, first)
    told = system_of(house.endpoint.requests[2])
    assert "- /mnt/data/made.csv (text/csv, 3 bytes, made by code)" in told
    assert "has ended" not in told

    await house.sessions.close_thread(first.thread_id)
    await follow_up(house, second)
    before, after = (system_of(request) for request in house.endpoint.requests[3:5])
    assert "- /mnt/data/made.csv (text/csv, 3 bytes, made by code)" in before
    assert "The Python session of earlier calls has ended" in before
    assert before.startswith(after), "the transcript of the first call tells it from then on"
    assert "this was a new interpreter" in house.endpoint.requests[4].tool_texts[-1]


async def test_inputs_come_first_and_keep_their_name(house_with_sandbox: Build) -> None:
    house = await house_with_sandbox([code("open('/mnt/data/made.txt', 'w').write('x')"), text("One."), text("Two.")])
    file = await house.files.create(PROJECT, UploadHead("in.csv", FilePurpose.ASSISTANTS), b"1,2\n")
    assistant = await house.assistants.create(
        PROJECT, {"model": "scripted", "tools": (CODE,), "tool_resources": ToolResources((file.id,))}
    )
    thread = await house.thread()
    first = await house.settled(await house.runs.create(PROJECT, thread.id, {"assistant_id": assistant.id}))
    await follow_up(house, first)
    lines = system_of(house.endpoint.requests[2]).split("\n")
    assert lines[lines.index("Files in /mnt/data:") + 1 :] == [
        f"- /mnt/data/in.csv (text/csv, 4 bytes, id {file.id})",
        "- /mnt/data/made.txt (text/plain, 1 byte, made by code)",
    ]


async def test_files_that_code_made_are_told_newest_first_though_the_clock_was_set_back(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = iter([code("open('1.txt', 'w')"), code("open('2.txt', 'w')"), text("Made."), text("There.")])

    def answer(request: Request) -> Turn:
        if request.tool_texts:
            set_clock_back(monkeypatch, timedelta(seconds=10))
        return next(turns)

    async with built(database, tmp_path, answer, PromptLimits(), sandbox=True) as house:
        await follow_up(house, await house.settled(await house.run(CODE)))
        lines = system_of(house.endpoint.requests[3]).split("\n")
    assert lines[lines.index("Files in /mnt/data:") + 1 :] == [
        f"- /mnt/data/{number}.txt (text/plain, 0 bytes, made by code)" for number in (2, 1)
    ]


# --- earlier calls ----------------------------------------------------------------------------------------------------


async def test_next_run_reads_the_code_of_the_one_before(house_with_sandbox: Build) -> None:
    house = await house_with_sandbox([code("print('median', 4)"), text("It is 4."), text("It is robust.")])
    await follow_up(house, await house.settled(await house.run(CODE)), "Why the median?")
    asked = house.endpoint.requests[2]
    assert roles(asked) == ["system", "user", "assistant", "tool", "assistant", "user"]
    assert "print('median', 4)" in asked.body["messages"][2]["tool_calls"][0]["function"]["arguments"]
    assert asked.tool_texts == ["median 4\n\n[status: ok]"]


async def test_earlier_calls_are_the_last_ones_and_cut(database: Database, tmp_path: Path) -> None:
    script = [code("print('first')"), code("print('a' * 5_000)"), text("Done."), text("Because.")]
    limits = PromptLimits(tool_turns=1, tool_turn_characters=1_000)
    async with built(database, tmp_path, script, limits, sandbox=True) as house:
        await follow_up(house, await house.settled(await house.run(CODE)))
        (told,) = house.endpoint.requests[3].tool_texts
        assert told.startswith("a" * 300)
        assert len(told) < 1_200
        assert "characters left out here" in told
        assert len(house.endpoint.requests[2].tool_texts[1]) > 5_000, "its own run reads it whole"


async def test_earlier_calls_of_tools_that_the_run_lacks_are_left_out(house: Build) -> None:
    built = await house([call("lookup", {"word": "x"}), text("Found."), text("A."), text("B.")])
    run = await built.settled(await built.run(LOOKUP))
    assert run.required_action is not None
    await built.runs.submit_tool_outputs(PROJECT, run.id, [ToolOutput(run.required_action.calls[0].id, "y")])
    second = await follow_up(built, await built.settled(run))
    assert roles(built.endpoint.requests[2]) == ["user", "assistant", "tool", "assistant", "user"]
    await built.threads.create_message(PROJECT, run.thread_id, {"text": "Without tools?"})
    await built.settled(
        await built.runs.create(PROJECT, run.thread_id, {"assistant_id": second.assistant_id, "tools": ()})
    )
    assert roles(built.endpoint.requests[3]) == ["user", "assistant", "user", "assistant", "user"]


async def test_model_reads_what_was_said_in_order_though_the_clock_was_set_back(
    house: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = await house([call("lookup", {"word": "a"}), call("lookup", {"word": "b"}), text("Found."), text("Now.")])
    run = await built.settled(await built.run(LOOKUP))
    for seconds, answer in ((10, "first"), (20, "second")):
        assert run.required_action is not None
        set_clock_back(monkeypatch, timedelta(seconds=seconds))
        await built.runs.submit_tool_outputs(PROJECT, run.id, [ToolOutput(run.required_action.calls[0].id, answer)])
        run = await built.settled(run)
    set_clock_back(monkeypatch, timedelta(seconds=30))
    await follow_up(built, run)
    own, later = built.endpoint.requests[2:]
    calls = ["assistant", "tool", "assistant", "tool"]
    assert (roles(own), own.tool_texts) == (["user", *calls], ["first", "second"])
    assert (roles(later), later.tool_texts) == (["user", *calls, "assistant", "user"], ["first", "second"])
    assert later.body["messages"][-1]["content"] == "And now?"
    listed = await built.runs.list_steps(PROJECT, run.id, PageRequest(descending=False))
    assert [type(step.details) for step in listed.items] == [ToolCalls, ToolCalls, MessageCreation]


# --- images -----------------------------------------------------------------------------------------------------------


async def test_images_that_code_showed_reach_the_model(house_with_sandbox: Build) -> None:
    house = await house_with_sandbox([code(SHOW.format(width=31)), text("Wide."), text("As I said.")])
    await follow_up(house, await house.settled(await house.run(CODE)))
    assert [widths(request) for request in house.endpoint.requests] == [[], [31], [31]]


async def test_images_of_messages_reach_the_model(house: Build) -> None:
    built = await house([text("Nice."), text("Still nice.")])
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (77).to_bytes(4, "big")
    file = await built.files.create(PROJECT, UploadHead("a.png", FilePurpose.VISION), png)
    content = (TextContent("Look:"), ImageFileContent(file.id, "low"), ImageUrlContent("https://example.com/b.png"))
    thread = await built.threads.create(PROJECT, {}, [{"content": content}])
    assistant = await built.assistant()
    run = await built.settled(await built.runs.create(PROJECT, thread.id, {"assistant_id": assistant.id}))
    parts = built.endpoint.requests[0].body["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["text", "image_url", "image_url"]
    assert (width_of(parts[1]), parts[1]["image_url"]["detail"]) == (77, "low")
    assert parts[2]["image_url"] == {"url": "https://example.com/b.png"}

    await built.files.delete(PROJECT, file.id)
    await follow_up(built, run)
    parts = built.endpoint.requests[1].body["messages"][0]["content"]
    assert parts[1] == {"type": "text", "text": f"[the image {file.id} was deleted]"}


async def test_newest_images_are_sent(database: Database, tmp_path: Path) -> None:
    script = [*(code(SHOW.format(width=width)) for width in (31, 32, 33)), text("Three.")]
    async with built(database, tmp_path, script, PromptLimits(images=2), sandbox=True) as house:
        run = await house.settled(await house.run(CODE))
        assert [widths(request) for request in house.endpoint.requests] == [[], [31], [31, 32], [32, 33]]
        shorter = await house.prompts.build(run, 120.0, history_tokens=4_000)
        assert sum(len(message.images) for message in shorter.messages if isinstance(message, ToolMessage)) == 1


async def test_model_that_takes_no_images_answers_all_the_same(house_with_sandbox: Build) -> None:
    house = await house_with_sandbox(
        [
            code(SHOW.format(width=31)),
            error(400, "This model does not support image input."),
            text("I cannot see it."),
        ]
    )
    run = await house.settled(await house.run(CODE))
    assert run.status is RunStatus.COMPLETED
    assert [widths(request) for request in house.endpoint.requests] == [[], [31], []]


async def test_image_is_read_once_for_all_model_calls(house_with_sandbox: Build, tmp_path: Path) -> None:
    turns = [code(SHOW.format(width=31)), code("1"), text("Wide.")]

    def answer(request: Request) -> Turn:
        if widths(request):
            for path in filter(Path.is_file, (tmp_path / "blobs").rglob("*")):
                path.unlink()
        return turns.pop(0)

    house = await house_with_sandbox(answer)
    assert (await house.settled(await house.run(CODE))).status is RunStatus.COMPLETED
    assert [widths(request) for request in house.endpoint.requests] == [[], [31], [31]]


# --- the thread -------------------------------------------------------------------------------------------------------


async def long_thread(house: House, count: int, characters: int = 400) -> Run:
    """A run on a thread with so many messages, each of which begins with its number; it is not begun."""
    thread = await house.threads.create(PROJECT, {})
    for number in range(count):
        words = f"{number} ".ljust(characters, "x")
        await house.threads.create_message(PROJECT, thread.id, {"text": words, "role": MessageRole.USER})
    assistant = await house.assistant()
    return replace(
        await house.settled(await house.runs.create(PROJECT, thread.id, {"assistant_id": assistant.id})), id="run_next"
    )


def numbers(request: ModelRequest) -> list[int]:
    return [int(message.text.split()[0]) for message in request.messages if isinstance(message, UserMessage)]


async def test_newest_messages_that_fit_are_sent(database: Database, tmp_path: Path) -> None:
    async with built(database, tmp_path, [text("")], PromptLimits(history_tokens=250)) as house:
        run = await long_thread(house, 5)
        request = await house.prompts.build(run, 120.0)
        assert numbers(request) == [3, 4]
        assert numbers(await house.prompts.build(run, 120.0, history_tokens=350)) == [2, 3, 4]


async def test_newest_message_is_sent_in_any_case(database: Database, tmp_path: Path) -> None:
    async with built(database, tmp_path, [text("")], PromptLimits(history_tokens=1)) as house:
        run = await long_thread(house, 2)
        (answer,) = (await house.prompts.build(run, 120.0)).messages
        assert isinstance(answer, AssistantMessage), "the first run's answer is the newest"


async def test_all_messages_are_sent_where_no_limit_is_set(database: Database, tmp_path: Path) -> None:
    async with built(database, tmp_path, [text("")], PromptLimits(history_tokens=0)) as house:
        run = await long_thread(house, 70, 4_000)
        assert numbers(await house.prompts.build(run, 120.0)) == list(range(70))


async def test_number_of_messages_that_the_client_chose_is_kept(database: Database, tmp_path: Path) -> None:
    async with built(database, tmp_path, [text("")], PromptLimits(history_tokens=150)) as house:
        run = replace(
            await long_thread(house, 5), truncation_strategy=TruncationStrategy(TruncationType.LAST_MESSAGES, 4)
        )
        assert numbers(await house.prompts.build(run, 120.0)) == [2, 3, 4]
        # Unless the model cannot take them.
        assert numbers(await house.prompts.build(run, 120.0, history_tokens=150)) == [4]


async def test_prompt_budget_of_the_run_bounds_its_history(database: Database, tmp_path: Path) -> None:
    async with built(database, tmp_path, [text("")], PromptLimits()) as house:
        run = replace(await long_thread(house, 5), max_prompt_tokens=256)
        assert numbers(await house.prompts.build(run, 120.0)) == [3, 4]


async def test_shorter_prompt_cuts_the_outputs_of_its_own_run(house_with_sandbox: Build) -> None:
    house = await house_with_sandbox([code("print('a' * 9_000)"), text("Much.")])
    run = await house.settled(await house.run(CODE))
    usual, shorter = [await house.prompts.build(run, 120.0, history_tokens=tokens) for tokens in (None, 1_000)]
    sizes = [
        sum(len(message.text) for message in request.messages if isinstance(message, ToolMessage))
        for request in (usual, shorter)
    ]
    assert sizes[0] > 9_000
    assert sizes[1] < 1_200
