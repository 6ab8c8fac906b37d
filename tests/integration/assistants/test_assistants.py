import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from afarensis_server.assistants.service import AssistantFields, AssistantLimits, Assistants
from afarensis_server.domain.tools import (
    CodeInterpreterTool,
    FunctionTool,
    ResponseFormat,
    ResponseFormatType,
    ToolResources,
)
from afarensis_server.errors import (
    AssistantNotFound,
    FileNotFound,
    InvalidFields,
    ModelUnknown,
    PageTokenInvalid,
    RequestIdReused,
)
from afarensis_server.files.blobs import DirectoryBlobs
from afarensis_server.files.service import FileLimits, Files, UploadHead
from afarensis_server.store.database import Database
from afarensis_server.store.pages import PageRequest

PROJECT = "default"


def check_model(name: str) -> None:
    if name not in {"direct", "other"}:
        raise ModelUnknown(model=name)


@pytest.fixture
def files(database: Database, tmp_path: Path) -> Files:
    return Files(database, DirectoryBlobs(tmp_path / "blobs"), FileLimits())


@pytest.fixture
def assistants(database: Database) -> Assistants:
    return Assistants(database, AssistantLimits(), default_model="direct", check_model=check_model)


async def stored(files: Files, count: int) -> Sequence[str]:
    return [(await files.create(PROJECT, UploadHead("data.csv"), b"%d" % n)).id for n in range(count)]


async def test_created_assistant_can_be_read_back(assistants: Assistants, files: Files) -> None:
    fields = AssistantFields(
        model="other",
        name="n" * 256,
        description="d" * 512,
        instructions="i" * 256_000,
        tools=(CodeInterpreterTool(30), *(FunctionTool(f"f{n}", "does", '{"type": "object"}') for n in range(127))),
        tool_resources=ToolResources(tuple(await stored(files, 20))),
        metadata={str(n): "v" * 512 for n in range(16)},
        temperature=2.0,
        top_p=0.0,
        response_format=ResponseFormat(ResponseFormatType.JSON_SCHEMA, "s", schema_json="{}"),
        reasoning_effort="low",
    )
    assistant = await assistants.create(PROJECT, fields)
    assert {name: getattr(assistant, name) for name in fields} == fields
    assert await assistants.get(PROJECT, assistant.id) == assistant


async def test_assistant_without_fields_has_the_default_model(assistants: Assistants) -> None:
    assistant = await assistants.create(PROJECT, {})
    assert (assistant.model, assistant.name, assistant.tools) == ("direct", None, ())
    assert (await assistants.create(PROJECT, {"model": ""})).model == "direct"


async def test_unknown_model_is_refused(assistants: Assistants) -> None:
    with pytest.raises(ModelUnknown, match="model 'gpt-9' is not available"):
        await assistants.create(PROJECT, {"model": "gpt-9"})
    assistant = await assistants.create(PROJECT, {})
    with pytest.raises(ModelUnknown):
        await assistants.update(PROJECT, assistant.id, {"model": "gpt-9"})


async def test_all_that_is_wrong_with_an_assistant_is_told(assistants: Assistants) -> None:
    fields = AssistantFields(
        model="m" * 257,
        name="n" * 257,
        description="d" * 513,
        instructions="i" * 256_001,
        tools=(CodeInterpreterTool(),) * 129,
        tool_resources=ToolResources(tuple(f"file-{n}" for n in range(21))),
        metadata={str(n): "" for n in range(17)},
        temperature=-0.5,
        top_p=1.5,
        response_format=ResponseFormat(ResponseFormatType.JSON_SCHEMA, "a b", schema_json="[]"),
        reasoning_effort="x" * 65,
    )
    with pytest.raises(InvalidFields) as refused:
        await assistants.create(PROJECT, fields, request_id="x" * 129)
    found = [
        (violation.field, violation.reason)
        for violation in refused.value.violations
        if violation.reason != "DUPLICATE_ITEM"
    ]
    assert found == [
        ("model", "STRING_TOO_LONG"),
        ("name", "STRING_TOO_LONG"),
        ("description", "STRING_TOO_LONG"),
        ("instructions", "STRING_TOO_LONG"),
        ("tools", "TOO_MANY_ITEMS"),
        ("tool_resources.code_interpreter.file_ids", "TOO_MANY_ITEMS"),
        ("metadata", "TOO_MANY_ITEMS"),
        ("temperature", "OUT_OF_RANGE_VALUE"),
        ("top_p", "OUT_OF_RANGE_VALUE"),
        ("reasoning_effort", "STRING_TOO_LONG"),
        ("response_format.json_schema.name", "INVALID_FORMAT"),
        ("response_format.json_schema.schema_json", "INVALID_JSON"),
        ("request_id", "STRING_TOO_LONG"),
    ]
    assert (await assistants.list(PROJECT, PageRequest())).items == []


async def test_files_must_exist_in_the_project(assistants: Assistants, files: Files) -> None:
    theirs = (await files.create("theirs", UploadHead("data.csv"), b"1")).id
    assistant = await assistants.create(PROJECT, {})
    for file_id in (theirs, "file-none"):
        resources = ToolResources((file_id,))
        with pytest.raises(FileNotFound, match=f"No such File object: {file_id}"):
            await assistants.create(PROJECT, {"tool_resources": resources})
        with pytest.raises(FileNotFound):
            await assistants.update(PROJECT, assistant.id, {"tool_resources": resources})


async def test_files_may_come_before_the_tool_that_reads_them(assistants: Assistants, files: Files) -> None:
    resources = ToolResources(tuple(await stored(files, 1)))
    assert (await assistants.create(PROJECT, {"tool_resources": resources})).tool_resources == resources


async def test_update_replaces_only_the_fields_given(assistants: Assistants) -> None:
    assistant = await assistants.create(PROJECT, {"model": "other", "name": "old", "metadata": {"k": "v"}})
    changed = await assistants.update(PROJECT, assistant.id, {"name": "new", "tools": (CodeInterpreterTool(),)})
    assert changed == replace(assistant, name="new", tools=(CodeInterpreterTool(),))
    assert await assistants.get(PROJECT, assistant.id) == changed
    cleared = await assistants.update(PROJECT, assistant.id, {"model": "", "name": None, "metadata": {}})
    assert (cleared.model, cleared.name, cleared.metadata) == ("direct", None, {})


async def test_assistant_of_a_file_that_was_deleted_since_can_still_be_updated(
    assistants: Assistants, files: Files
) -> None:
    gone, other = await stored(files, 2)
    assistant = await assistants.create(PROJECT, {"tool_resources": ToolResources((gone,))})
    await files.delete(PROJECT, gone)
    assert (await assistants.update(PROJECT, assistant.id, {"name": "new"})).name == "new"
    resources = ToolResources((gone, other))
    assert (await assistants.update(PROJECT, assistant.id, {"tool_resources": resources})).tool_resources == resources
    with pytest.raises(FileNotFound, match="No such File object: file-none"):
        await assistants.update(PROJECT, assistant.id, {"tool_resources": ToolResources((gone, "file-none"))})


async def test_updates_of_different_fields_at_the_same_time_all_last(assistants: Assistants) -> None:
    assistant = await assistants.create(PROJECT, {})
    await asyncio.gather(
        assistants.update(PROJECT, assistant.id, {"name": "n"}),
        assistants.update(PROJECT, assistant.id, {"description": "d"}),
        assistants.update(PROJECT, assistant.id, {"instructions": "i"}),
    )
    found = await assistants.get(PROJECT, assistant.id)
    assert (found.name, found.description, found.instructions) == ("n", "d", "i")


async def test_assistants_that_are_deleted_or_of_another_project_do_not_exist(assistants: Assistants) -> None:
    deleted, theirs = await assistants.create(PROJECT, {}), await assistants.create("theirs", {})
    await assistants.delete(PROJECT, deleted.id)
    for assistant_id in (deleted.id, theirs.id, "", "asst_none"):
        for attempt in (
            assistants.get(PROJECT, assistant_id),
            assistants.update(PROJECT, assistant_id, {"name": "n"}),
            assistants.delete(PROJECT, assistant_id),
        ):
            with pytest.raises(AssistantNotFound, match=f"No assistant found with id '{assistant_id}'."):
                await attempt
    assert (await assistants.get("theirs", theirs.id)) == theirs


async def test_assistants_are_listed_newest_first(assistants: Assistants) -> None:
    created = [await assistants.create(PROJECT, {"name": str(n)}) for n in range(21)]
    page = await assistants.list(PROJECT, PageRequest())
    assert page.items == created[:0:-1]
    assert (await assistants.list(PROJECT, PageRequest(token=page.next_token))).items == [created[0]]
    with pytest.raises(PageTokenInvalid):
        await assistants.list(PROJECT, PageRequest(token=page.next_token, descending=False))
    for size in (-1, 101):
        with pytest.raises(InvalidFields, match="page_size"):
            await assistants.list(PROJECT, PageRequest(size))


async def test_repeated_request_gives_the_assistant_as_it_is_now(assistants: Assistants) -> None:
    assistant = await assistants.create(PROJECT, {"name": "n"}, "r1")
    changed = await assistants.update(PROJECT, assistant.id, {"description": "d"})
    assert await assistants.create(PROJECT, {"name": "n"}, "r1") == changed
    with pytest.raises(RequestIdReused):
        await assistants.create(PROJECT, {"name": "other"}, "r1")
    assert (await assistants.list(PROJECT, PageRequest())).items == [changed]
