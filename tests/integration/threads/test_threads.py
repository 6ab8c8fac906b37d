import asyncio

import pytest

from afarensis_server.domain.threads import Attachment, MessageRole, TextContent
from afarensis_server.domain.tools import ToolResources
from afarensis_server.errors import (
    FileNotFound,
    InvalidFields,
    MessageNotFound,
    PageTokenInvalid,
    RequestIdReused,
    ThreadNotFound,
)
from afarensis_server.files.service import Files, UploadHead
from afarensis_server.store.pages import PageRequest
from afarensis_server.threads.service import MessageFields, ThreadFields, Threads

PROJECT = "default"
PAGE = PageRequest()


async def file_id(files: Files, project: str = PROJECT) -> str:
    return (await files.create(project, UploadHead("data.csv"), b"a,b\n1,2\n")).id


async def test_created_thread_can_be_read_back(threads: Threads, files: Files) -> None:
    resources = ToolResources((await file_id(files),))
    thread = await threads.create(PROJECT, {"tool_resources": resources, "metadata": {"k": "v"}})
    assert (thread.tool_resources, thread.metadata) == (resources, {"k": "v"})
    assert await threads.get(PROJECT, thread.id) == thread


async def test_thread_is_created_with_its_messages_in_order(threads: Threads, files: Files) -> None:
    attached = await file_id(files)
    thread = await threads.create(
        PROJECT,
        {},
        [
            {"text": "first"},
            {"role": MessageRole.ASSISTANT, "content": [TextContent("second")]},
            {"text": "third", "attachments": [Attachment(attached)], "metadata": {"k": "v"}},
        ],
    )
    assert thread.tool_resources == ToolResources((attached,))
    page = await threads.list_messages(PROJECT, thread.id, PageRequest(descending=False))
    assert [message.content for message in page.items] == [
        (TextContent("first"),),
        (TextContent("second"),),
        (TextContent("third"),),
    ]
    assert [message.role for message in page.items] == ["user", "assistant", "user"]


async def test_thread_with_a_message_that_is_refused_is_not_created(threads: Threads) -> None:
    with pytest.raises(InvalidFields) as refused:
        await threads.create(PROJECT, {"metadata": {"k" * 65: ""}}, [{"text": "a"}, {"text": ""}])
    assert [violation.field for violation in refused.value.violations] == ["metadata", "messages[1].content"]
    with pytest.raises(FileNotFound):
        await threads.create(PROJECT, {}, [{"text": "a"}, {"text": "b", "attachments": [Attachment("file-none")]}])
    assert (await threads.list(PROJECT, PAGE)).items == []


async def test_more_initial_messages_than_the_limit_are_refused(threads: Threads) -> None:
    fields = [MessageFields(text="a")] * 100
    assert len((await threads.list_messages(PROJECT, (await threads.create(PROJECT, {}, fields)).id, PAGE)).items) == 20
    with pytest.raises(InvalidFields, match="Invalid 'messages': array too long"):
        await threads.create(PROJECT, {}, [*fields, {"text": "a"}])


async def test_thread_with_too_many_files_is_refused(threads: Threads) -> None:
    with pytest.raises(InvalidFields) as refused:
        await threads.create(PROJECT, {"tool_resources": ToolResources(tuple(f"file-{n}" for n in range(21)))})
    assert [violation.field for violation in refused.value.violations] == ["tool_resources.code_interpreter.file_ids"]


async def test_unknown_file_is_named(threads: Threads, files: Files) -> None:
    theirs = await file_id(files, "theirs")
    with pytest.raises(FileNotFound, match=f"No such File object: {theirs}"):
        await threads.create(PROJECT, {"tool_resources": ToolResources((theirs,))})


async def test_update_replaces_only_the_fields_given(threads: Threads, files: Files) -> None:
    thread = await threads.create(PROJECT, {"metadata": {"k": "v"}})
    resources = ToolResources((await file_id(files),))
    changed = await threads.update(PROJECT, thread.id, {"tool_resources": resources})
    assert (changed.metadata, changed.tool_resources) == ({"k": "v"}, resources)
    assert await threads.update(PROJECT, thread.id, {"metadata": {}}) == await threads.get(PROJECT, thread.id)
    assert (await threads.get(PROJECT, thread.id)).metadata == {}


@pytest.mark.parametrize(
    "fields", [ThreadFields(metadata={"": ""}), ThreadFields(tool_resources=ToolResources(("x", "x")))]
)
async def test_refused_update_changes_nothing(threads: Threads, fields: ThreadFields) -> None:
    thread = await threads.create(PROJECT, {})
    with pytest.raises(InvalidFields):
        await threads.update(PROJECT, thread.id, fields)
    with pytest.raises(FileNotFound):
        await threads.update(PROJECT, thread.id, {"metadata": {"k": "v"}, "tool_resources": ToolResources(("x",))})
    assert await threads.get(PROJECT, thread.id) == thread


async def test_thread_of_a_file_that_was_deleted_since_can_still_be_updated(threads: Threads, files: Files) -> None:
    gone = await file_id(files)
    thread = await threads.create(PROJECT, {"tool_resources": ToolResources((gone,))})
    await files.delete(PROJECT, gone)
    assert (await threads.update(PROJECT, thread.id, {"metadata": {"k": "v"}})).metadata == {"k": "v"}
    assert (await threads.create_message(PROJECT, thread.id, {"text": "still here"})).thread_id == thread.id
    resources = ToolResources((gone, await file_id(files)))
    assert (await threads.update(PROJECT, thread.id, {"tool_resources": resources})).tool_resources == resources
    with pytest.raises(FileNotFound, match="No such File object: file-none"):
        await threads.update(PROJECT, thread.id, {"tool_resources": ToolResources((gone, "file-none"))})


async def test_deleted_thread_takes_its_messages_along(threads: Threads) -> None:
    thread = await threads.create(PROJECT, {})
    message = await threads.create_message(PROJECT, thread.id, {"text": "a"})
    await threads.delete(PROJECT, thread.id)
    with pytest.raises(MessageNotFound):
        await threads.get_message(PROJECT, message.id)
    for call in (threads.get, threads.delete):
        with pytest.raises(ThreadNotFound, match=f"No thread found with id '{thread.id}'."):
            await call(PROJECT, thread.id)


async def test_threads_of_another_project_do_not_exist(threads: Threads) -> None:
    thread = await threads.create("theirs", {})
    message = await threads.create_message("theirs", thread.id, {"text": "secret"})
    for attempt in (
        threads.get(PROJECT, thread.id),
        threads.update(PROJECT, thread.id, {}),
        threads.delete(PROJECT, thread.id),
        threads.create_message(PROJECT, thread.id, {"text": "a"}),
        threads.list_messages(PROJECT, thread.id, PAGE),
    ):
        with pytest.raises(ThreadNotFound):
            await attempt
    for attempt_on_message in (
        threads.get_message(PROJECT, message.id),
        threads.update_message(PROJECT, message.id, {}),
        threads.delete_message(PROJECT, message.id),
    ):
        with pytest.raises(MessageNotFound):
            await attempt_on_message
    assert (await threads.list(PROJECT, PAGE)).items == []


async def test_threads_are_listed_newest_first(threads: Threads) -> None:
    first, second = await threads.create(PROJECT, {}), await threads.create(PROJECT, {})
    page = await threads.list(PROJECT, PageRequest(1))
    assert page.items == [second]
    assert (await threads.list(PROJECT, PageRequest(1, page.next_token))).items == [first]


async def test_page_token_of_another_thread_is_refused(threads: Threads) -> None:
    one, other = [await threads.create(PROJECT, {}, [{"text": "a"}, {"text": "b"}]) for _ in range(2)]
    token = (await threads.list_messages(PROJECT, one.id, PageRequest(1))).next_token
    with pytest.raises(PageTokenInvalid):
        await threads.list_messages(PROJECT, other.id, PageRequest(1, token))


async def test_repeated_request_gives_the_thread_it_created(threads: Threads) -> None:
    created = await asyncio.gather(*(threads.create(PROJECT, {}, [{"text": "a"}], "r1") for _ in range(4)))
    assert len({thread.id for thread in created}) == 1
    assert len((await threads.list_messages(PROJECT, created[0].id, PAGE)).items) == 1
    with pytest.raises(RequestIdReused, match="'r1' was used before"):
        await threads.create(PROJECT, {}, [{"text": "b"}], "r1")
    assert (await threads.create("theirs", {}, [{"text": "b"}], "r1")).id != created[0].id


async def test_too_long_request_id_is_refused(threads: Threads) -> None:
    with pytest.raises(InvalidFields, match="Invalid 'request_id': string too long"):
        await threads.create(PROJECT, {}, request_id="x" * 129)
