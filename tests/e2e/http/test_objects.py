"""Objects over HTTP: their shapes in both versions, lists, and that gRPC clients see the same ones."""

from collections.abc import AsyncIterable, Awaitable, Callable
from functools import partial
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI

from afarensis import v1
from tests.support.api import Api
from tests.support.server_process import ServerProcess

# The SDK warns of each call that its own server has gone.
pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]

V1 = {"OpenAI-Beta": "assistants=v1"}
FUNCTION = {
    "name": "f",
    "description": "Does it.",
    "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}},
}
SCHEMA = {"name": "answer", "schema": {"type": "object", "properties": {"n": {"type": "number"}}}, "strict": True}


async def post(http: httpx2.AsyncClient, path: str, body: object = None, **options: Any) -> Any:
    answer = await http.post(path, json=body or {}, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def upload(http: httpx2.AsyncClient, name: str = "a.csv", content: bytes = b"a,b\n1,2\n") -> dict[str, Any]:
    answer = await http.post("/files", data={"purpose": "assistants"}, files={"file": (name, content)})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_files_of_an_assistant_are_changed_though_one_of_them_was_deleted(http: httpx2.AsyncClient) -> None:
    gone, first, second = [(await upload(http, name))["id"] for name in ("gone.csv", "a.csv", "b.csv")]
    assistant = await post(http, "/assistants", {"model": "direct", "file_ids": [gone, first]}, headers=V1)
    assert (await http.delete(f"/files/{gone}")).status_code == 200
    path = f"/assistants/{assistant['id']}/files"
    assert (await post(http, path, {"file_id": second}, headers=V1))["id"] == second
    assert (await http.delete(f"{path}/{first}", headers=V1)).json()["deleted"]
    assert (await http.delete(f"{path}/{gone}", headers=V1)).json()["deleted"]
    assert [file["id"] for file in (await http.get(path, headers=V1)).json()["data"]] == [second]
    refused = await http.post(path, json={"file_id": gone}, headers=V1)
    assert (refused.status_code, refused.json()["error"]["message"]) == (404, f"No such File object: {gone}")


async def test_assistant_has_all_fields_of_either_version(http: httpx2.AsyncClient) -> None:
    file_id = (await upload(http))["id"]
    created = await post(
        http,
        "/assistants",
        {
            "model": "direct",
            "name": "Tutor",
            "instructions": "Teach.",
            "tools": [{"type": "code_interpreter"}, {"type": "function", "function": FUNCTION}],
            "tool_resources": {"code_interpreter": {"file_ids": [file_id]}},
            "temperature": 0.5,
            "response_format": {"type": "json_schema", "json_schema": SCHEMA},
            "metadata": {"a": "b"},
        },
    )
    assert isinstance(created.pop("created_at"), int)
    assert created.pop("id").startswith("asst_")
    assert created == {
        "object": "assistant",
        "name": "Tutor",
        "description": None,
        "model": "direct",
        "instructions": "Teach.",
        "tools": [{"type": "code_interpreter"}, {"type": "function", "function": {**FUNCTION, "strict": False}}],
        "tool_resources": {"code_interpreter": {"file_ids": [file_id]}},
        "metadata": {"a": "b"},
        "temperature": 0.5,
        "top_p": 1.0,
        "response_format": {"type": "json_schema", "json_schema": SCHEMA},
        "reasoning_effort": None,
    }
    old = await post(http, "/assistants", {"model": "direct", "file_ids": [file_id]}, headers=V1)
    assert old["file_ids"] == [file_id]
    assert "tool_resources" not in old


@pytest.mark.parametrize("kind", ["assistants", "threads"])
async def test_files_of_code_stay_where_an_update_does_not_name_them(http: httpx2.AsyncClient, kind: str) -> None:
    files = {"code_interpreter": {"file_ids": [(await upload(http))["id"]]}}
    model = {"model": "direct"} if kind == "assistants" else {}
    made = await post(http, f"/{kind}", {**model, "tool_resources": files})
    path = f"/{kind}/{made['id']}"
    unnamed: list[object] = [{"file_search": {"vector_store_ids": []}}, {"file_search": None}, {}]
    for others in unnamed:
        assert (await post(http, path, {"tool_resources": others}))["tool_resources"] == files
    cleared: list[object] = [{"code_interpreter": {"file_ids": []}}, {"code_interpreter": None}, None]
    for none in cleared:
        assert (await post(http, path, {"tool_resources": none}))["tool_resources"] == {}
        assert (await post(http, path, {"tool_resources": files}))["tool_resources"] == files


async def test_files_of_assistants_are_added_and_taken_away_as_in_the_first_version(http: httpx2.AsyncClient) -> None:
    one, other = [(await upload(http, name))["id"] for name in ("a.csv", "b.csv")]
    made = await post(http, "/assistants", {"model": "direct", "file_ids": [one]}, headers=V1)
    path = f"/assistants/{made['id']}/files"
    added = await post(http, path, {"file_id": other}, headers=V1)
    assert (added["id"], added["object"], added["assistant_id"]) == (other, "assistant.file", made["id"])
    assert [file["id"] for file in (await http.get(path)).json()["data"]] == [one, other]
    gone = (await http.delete(f"{path}/{one}")).json()
    assert gone == {"id": one, "object": "assistant.file.deleted", "deleted": True}
    assert (await http.get(f"{path}/{one}")).status_code == 404
    assert (await http.get(f"/assistants/{made['id']}", headers=V1)).json()["file_ids"] == [other]
    # Taken from the assistant, and not deleted.
    assert (await http.get(f"/files/{one}")).status_code == 200


async def test_update_changes_what_is_given_and_null_clears(http: httpx2.AsyncClient) -> None:
    made = await post(http, "/assistants", {"model": "direct", "name": "A", "description": "B", "metadata": {"k": "v"}})
    changed = await post(http, f"/assistants/{made['id']}", {"name": None, "instructions": "C"})
    assert (changed["name"], changed["description"], changed["instructions"]) == (None, "B", "C")
    assert changed["metadata"] == {"k": "v"}
    gone = await http.delete(f"/assistants/{made['id']}")
    assert gone.json() == {"id": made["id"], "object": "assistant.deleted", "deleted": True}
    missing = await http.get(f"/assistants/{made['id']}")
    assert (missing.status_code, missing.json()["error"]["message"]) == (
        404,
        f"No assistant found with id '{made['id']}'.",
    )


async def test_message_has_all_fields_of_either_version(http: httpx2.AsyncClient) -> None:
    file_id = (await upload(http))["id"]
    thread = await post(http, "/threads", {"metadata": {"t": "1"}})
    assert thread["tool_resources"] == {}
    path = f"/threads/{thread['id']}/messages"
    image = {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}
    content = [{"type": "text", "text": "Look"}, image]
    attachments = [{"file_id": file_id, "tools": [{"type": "code_interpreter"}]}]
    made = await post(http, path, {"role": "user", "content": content, "attachments": attachments})
    assert isinstance(made.pop("completed_at"), int)
    assert isinstance(made.pop("created_at"), int)
    message_id = made.pop("id")
    assert made == {
        "object": "thread.message",
        "assistant_id": None,
        "thread_id": thread["id"],
        "run_id": None,
        "status": "completed",
        "incomplete_details": None,
        "incomplete_at": None,
        "role": "user",
        "content": [
            {"type": "text", "text": {"value": "Look", "annotations": []}},
            {"type": "image_url", "image_url": {"url": "https://example.com/x.png", "detail": "auto"}},
        ],
        "attachments": attachments,
        "metadata": {},
    }
    old = (await http.get(f"{path}/{message_id}", headers=V1)).json()
    assert old["file_ids"] == [file_id]
    assert "attachments" not in old
    files = (await http.get(f"{path}/{message_id}/files")).json()
    assert [(file["id"], file["object"]) for file in files["data"]] == [(file_id, "thread.message.file")]
    renamed = await post(http, f"{path}/{message_id}", {"metadata": {"x": "y"}})
    assert renamed["metadata"] == {"x": "y"}
    resources = (await http.get(f"/threads/{thread['id']}")).json()["tool_resources"]
    assert resources == {"code_interpreter": {"file_ids": [file_id]}}


async def test_lists_go_both_ways_by_ids(http: httpx2.AsyncClient) -> None:
    thread = await post(http, "/threads")
    path = f"/threads/{thread['id']}/messages"
    empty = (await http.get(path)).json()
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    made = [(await post(http, path, {"role": "user", "content": str(number)}))["id"] for number in range(5)]

    async def listed(**query: str | int) -> tuple[list[int], bool]:
        page = (await http.get(path, params=query)).json()
        assert [page["first_id"], page["last_id"]] == [page["data"][0]["id"], page["data"][-1]["id"]]
        return [made.index(message["id"]) for message in page["data"]], page["has_more"]

    assert await listed() == ([4, 3, 2, 1, 0], False)
    assert await listed(limit=2) == ([4, 3], True)
    assert await listed(limit=2, after=made[3]) == ([2, 1], True)
    assert await listed(limit=2, before=made[0]) == ([2, 1], True)
    assert await listed(limit=2, order="asc", after=made[2]) == ([3, 4], False)
    assert await listed(limit=2, order="asc", before=made[2]) == ([0, 1], False)
    assert await listed(limit=100, after=made[4], before=made[0]) == ([3, 2, 1], False)
    for wrong in ("msg_unknown", thread["id"], made[0].upper(), f"{made[0]}\0"):
        refused = await http.get(path, params={"before": wrong})
        error = refused.json()["error"]
        assert (refused.status_code, error["param"], error["code"]) == (400, "before", "invalid_value")
        assert error["message"].endswith("Expected an ID of this list, which begins with 'msg_'.")


async def test_sdk_walks_through_all_pages(sdk: AsyncOpenAI) -> None:
    thread = await sdk.beta.threads.create()
    for number in range(7):
        await sdk.beta.threads.messages.create(thread.id, role="user", content=str(number))
    texts = []
    async for message in sdk.beta.threads.messages.list(thread.id, limit=3, order="asc"):
        (part,) = message.content
        assert part.type == "text"
        texts.append(part.text.value)
    assert texts == [str(number) for number in range(7)]


async def delete_while_walking(
    listed: AsyncIterable[Any], delete: Callable[[str], Awaitable[object]], made: set[str]
) -> None:
    """Delete what was made as the list comes to it, so that the object that a page ended with is gone at the next."""
    left = set(made)
    async for one in listed:
        if one.id in left:
            await delete(one.id)
            left.remove(one.id)
        if not left:
            break
    assert left == set()


async def test_objects_can_be_deleted_while_their_list_is_walked_through(sdk: AsyncOpenAI) -> None:
    assistants, files, containers, messages = sdk.beta.assistants, sdk.files, sdk.containers, sdk.beta.threads.messages
    made = {(await assistants.create(model="direct")).id for _ in range(5)}
    await delete_while_walking(assistants.list(limit=2), assistants.delete, made)
    made = {(await files.create(file=("a.txt", b"x"), purpose="vision")).id for _ in range(5)}
    await delete_while_walking(files.list(limit=2, purpose="vision"), files.delete, made)
    made = {(await containers.create(name="Walk")).id for _ in range(5)}
    await delete_while_walking(containers.list(limit=2), containers.delete, made)
    thread = await sdk.beta.threads.create()
    made = {(await messages.create(thread.id, role="user", content="x")).id for _ in range(5)}
    delete = partial(messages.delete, thread_id=thread.id)
    await delete_while_walking(messages.list(thread.id, limit=2, order="asc"), delete, made)
    assert (await messages.list(thread.id)).data == []


async def test_list_of_files_has_all_of_them_where_no_number_is_asked_for(sdk: AsyncOpenAI) -> None:
    made = {(await sdk.files.create(file=("a.txt", b"x"), purpose="vision")).id for _ in range(101)}
    page = await sdk.files.list(purpose="vision")
    assert made <= {file.id for file in page.data}
    assert not page.has_more
    assert len((await sdk.files.list(purpose="vision", limit=101)).data) == 101


async def test_files_come_back_as_they_were_sent(http: httpx2.AsyncClient, sdk: AsyncOpenAI) -> None:
    content = bytes(range(256)) * 8192
    file = await sdk.files.create(
        file=("größe 1.bin", content), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert (file.bytes, file.filename, file.status) == (len(content), "größe 1.bin", "processed")
    assert file.expires_at is not None
    assert file.expires_at - file.created_at == 3600
    answer = await http.get(f"/files/{file.id}/content")
    assert answer.content == content
    assert answer.headers["content-length"] == str(len(content))
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''gr%C3%B6%C3%9Fe%201.bin"
    assert answer.headers["x-content-type-options"] == "nosniff"
    listed = (await http.get("/files", params={"purpose": "user_data"})).json()
    assert file.id in [one["id"] for one in listed["data"]]
    assert (await http.delete(f"/files/{file.id}")).json() == {"id": file.id, "object": "file", "deleted": True}
    missing = await http.get(f"/files/{file.id}")
    assert (missing.status_code, missing.json()["error"]["message"]) == (404, f"No such File object: {file.id}")


async def test_file_that_is_sent_again_with_its_key_is_stored_once(http: httpx2.AsyncClient) -> None:
    key = {"idempotency-key": "file-once"}

    async def send(content: bytes) -> httpx2.Response:
        return await http.post("/files", data={"purpose": "user_data"}, files={"file": ("a.txt", content)}, headers=key)

    first, again, other = await send(b"once"), await send(b"once"), await send(b"another")
    assert first.json() == again.json()
    assert (other.status_code, other.headers["x-afarensis-reason"]) == (409, "REQUEST_ID_REUSED")


async def test_grpc_clients_see_the_same_objects_in_the_same_order(http: httpx2.AsyncClient, api: Api) -> None:
    made = await post(http, "/assistants", {"model": "direct", "name": "Shared"})
    seen = (await api.assistants.GetAssistant(v1.GetAssistantRequest(assistant_id=made["id"]))).assistant
    assert (seen.name, int(seen.create_time.ToSeconds())) == ("Shared", made["created_at"])
    thread = (await api.threads.CreateThread(v1.CreateThreadRequest())).thread
    first = await api.threads.CreateMessage(v1.CreateMessageRequest(thread_id=thread.id, text="over gRPC"))
    second = await post(http, f"/threads/{thread.id}/messages", {"role": "user", "content": "over HTTP"})
    page = (await http.get(f"/threads/{thread.id}/messages")).json()
    assert [message["id"] for message in page["data"]] == [second["id"], first.message.id]
    listed = await api.threads.ListMessages(v1.ListMessagesRequest(thread_id=thread.id))
    assert [message.id for message in listed.messages] == [second["id"], first.message.id]


async def test_models_are_listed(sdk: AsyncOpenAI, server: ServerProcess) -> None:
    assert "direct" in [model.id async for model in sdk.models.list()]
    assert (await sdk.models.retrieve("direct")).object == "model"
