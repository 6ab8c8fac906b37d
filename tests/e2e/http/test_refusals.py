"""What the HTTP edge refuses, and in which words."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest

from afarensis import v1
from tests.support.api import Api, refused
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

_LONG = "Expected a string with maximum length 256, but got a string with length 257 instead."


def told(answer: httpx2.Response, status: int = 400) -> tuple[str, str | None, str | None]:
    """Message, param and code of an error, which is whole."""
    assert answer.status_code == status, answer.text
    assert answer.headers["x-request-id"]
    body: dict[str, Any] = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    return body["error"]["message"], body["error"]["param"], body["error"]["code"]


@pytest.mark.parametrize(
    ("body", "message", "param", "code"),
    [
        ({}, "Missing required parameter: 'model'.", "model", "missing_required_parameter"),
        (
            {"model": 7},
            "Invalid type for 'model': expected a string, but got an integer instead.",
            "model",
            "invalid_type",
        ),
        ({"model": "direct", "colour": 1}, "Unknown parameter: 'colour'.", "colour", "unknown_parameter"),
        (
            {"model": "direct", "name": "x" * 257},
            f"Invalid 'name': string too long. {_LONG}",
            "name",
            "string_above_max_length",
        ),
        (
            {"model": "direct", "tools": [{"type": "browser"}]},
            "Invalid value: 'browser'. Supported values are: 'code_interpreter' and 'function'.",
            "tools[0].type",
            "invalid_value",
        ),
        (
            {"model": "direct", "metadata": {"a": 1}},
            "Invalid type for 'metadata.a': expected a string, but got an integer instead.",
            "metadata.a",
            "invalid_type",
        ),
        ({"model": "direct", "tool_resources": {"code_interpreter": {"file_ids": ["file-x"]}}}, "", None, None),
    ],
)
async def test_fields_that_are_wrong_are_named(
    http: httpx2.AsyncClient, body: object, message: str, param: str | None, code: str | None
) -> None:
    answer = await http.post("/assistants", json=body)
    if not message:
        assert told(answer, 404)[0] == "No such File object: file-x"
        return
    assert told(answer) == (message, param, code)


async def test_search_in_files_is_refused_with_what_there_is_instead(http: httpx2.AsyncClient) -> None:
    answer = await http.post("/assistants", json={"model": "direct", "tools": [{"type": "file_search"}]})
    message, param, _ = told(answer)
    assert param == "tools[0].type"
    assert "This server has no search in files: give files to the code interpreter, which reads them." in message


async def test_bodies_that_are_no_json_objects_are_refused(http: httpx2.AsyncClient) -> None:
    kind = {"content-type": "application/json"}
    assert "We could not parse the JSON body" in told(await http.post("/threads", content=b"{", headers=kind))[0]
    nested = b"[" * 100_000
    assert "We could not parse the JSON body" in told(await http.post("/threads", content=nested, headers=kind))[0]
    assert told(await http.post("/threads", content=b"[1]", headers=kind))[0] == (
        "Invalid body: expected an object, but got an array instead."
    )
    plain = await http.post("/threads", content=b"{}", headers={"content-type": "text/plain"})
    assert told(plain)[2] == "unsupported_content_type"
    bad = await http.post("/threads", content=b'{"metadata": {"a": "\\ud800"}}', headers=kind)
    assert "may not contain U+D800" in told(bad)[0]
    assert (await http.post("/threads", content=b"")).status_code == 200


async def test_huge_bodies_are_refused_before_they_are_read(tmp_path: Path) -> None:
    settings = {"http.listen": "127.0.0.1:0", "http.body_bytes": "1KiB", "files.max_bytes": "64KiB"}
    with ServerProcess(tmp_path, settings) as server:
        async with httpx2.AsyncClient(base_url=server.base_url, timeout=30) as http:
            message, _, code = told(await http.post("/threads", json={"metadata": {"a": "x" * 2000}}), 413)
            assert (message, code) == ("The request body is larger than the limit of 1024 bytes.", "request_too_large")
            form = {"purpose": "assistants"}
            large = await http.post("/files", data=form, files={"file": ("a", b"x" * (64 * 1024 + 1))})
            assert told(large, 413)[0].startswith("The file is larger than the limit of 65536 bytes.")

            async def endless() -> AsyncIterator[bytes]:
                yield b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
                for _ in range(64):
                    yield b"x" * 65536

            kind = {"content-type": "multipart/form-data; boundary=x"}
            assert told(await http.post("/files", content=endless(), headers=kind), 413)[2] == "request_too_large"
            assert (await http.get("/files")).json()["data"] == []


async def test_limits_are_those_of_the_settings(tmp_path: Path) -> None:
    settings = {
        "http.listen": "127.0.0.1:0",
        "http.form_bytes": "4KiB",
        "http.page_files": 4,
        "http.container_page_files": 2,
        "limits.json_depth": 8,
    }
    with ServerProcess(tmp_path, settings) as server:
        async with httpx2.AsyncClient(base_url=server.base_url, timeout=30) as http:
            large = await http.post("/files", data={"purpose": "x" * 5_000}, files={"file": ("a", b"x")})
            assert told(large)[2] == "invalid_form"
            deep: object = 1
            for _ in range(8):
                deep = {"a": deep}
            assert told(await http.post("/threads", json={"metadata": deep}))[0] == (
                "Invalid body: arrays and objects may be nested 8 deep, and not deeper."
            )
            made = (await http.post("/containers", json={"name": "Pages"})).json()["id"]
            for name in "abc":
                await http.post(f"/containers/{made}/files", files={"file": (name, b"x")})
            assert told(await http.get(f"/containers/{made}/files", params={"limit": 3}))[1] == "limit"
            page = (await http.get(f"/containers/{made}/files")).json()
            assert (len(page["data"]), page["has_more"]) == (2, True)
            for name in "de":
                await http.post("/files", data={"purpose": "vision"}, files={"file": (name, b"x")})
            assert told(await http.get("/files", params={"limit": 5}))[1] == "limit"
            page = (await http.get("/files")).json()
            assert ([file["filename"] for file in page["data"]], page["has_more"]) == (list("edcb"), True)
        async with Api(server.address) as api:
            tool = v1.Tool(function=v1.FunctionTool(name="f", parameters_json='{"a":' * 9 + "1" + "}" * 9))
            request = v1.CreateAssistantRequest(model="direct", tools=[tool])
            with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS") as refusal:
                await api.assistants.CreateAssistant(request)
            assert "nested 8 deep" in refusal.message


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"", "application/json", "Unsupported content type: 'application/json'."),
        (b"--x", "multipart/form-data", "Missing boundary in multipart."),
        (b"nonsense", "multipart/form-data; boundary=x", "Could not parse multipart form"),
    ],
)
async def test_forms_that_are_none_are_refused(
    http: httpx2.AsyncClient, content: bytes, kind: str, message: str
) -> None:
    assert message in told(await http.post("/files", content=content, headers={"content-type": kind}))[0]


async def test_uploads_need_a_file_and_a_purpose(http: httpx2.AsyncClient) -> None:
    message, param, _ = told(await http.post("/files", data={"purpose": "assistants"}, files={"other": ("a", b"x")}))
    assert (param, "Missing required parameter: 'file'." in message) == ("other", True)
    wrong = await http.post("/files", data={"purpose": "fine-tune"}, files={"file": ("a", b"x")})
    expected = "Invalid value: 'fine-tune'. Supported values are: 'assistants', 'vision', and 'user_data'."
    assert told(wrong) == (expected, "purpose", "invalid_value")
    nameless = await http.post("/files", data={"purpose": "assistants"}, files={"file": ("a/b", b"x")})
    assert told(nameless)[1] == "filename"


async def test_unknown_paths_and_methods_are_told(http: httpx2.AsyncClient) -> None:
    assert told(await http.get("/nothing"), 404) == ("Invalid URL (GET /v1/nothing)", None, "unknown_url")
    wrong = await http.put("/threads", json={})
    assert told(wrong, 405)[2] == "method_not_supported"
    assert wrong.headers["allow"] == "POST"
    assert (await http.get("/threads/thread_none")).json()["error"]["message"] == (
        "No thread found with id 'thread_none'."
    )


async def test_ids_that_cannot_be_are_repeated_in_short(http: httpx2.AsyncClient) -> None:
    long = "x" * 10_000
    thread = (await http.post("/threads", json={})).json()["id"]
    for answer in (
        await http.get(f"/threads/{long}"),
        await http.get(f"/threads/{thread}/messages/{long}"),
        await http.get(f"/files/{long}/content"),
        await http.post(f"/threads/{thread}/runs", json={"assistant_id": long * 10}),
    ):
        assert long[:100] in told(answer, 404)[0]
        assert len(answer.content) < 1_000
    assert len((await http.get("/assistants", params={"after": long})).content) < 1_000
    for body in ({"model": "direct", long: 1}, {"model": "direct", "metadata": {long: "x"}}):
        assert len((await http.post("/assistants", json=body)).content) < 1_000


async def test_ids_of_another_thread_are_not_found(http: httpx2.AsyncClient) -> None:
    one, other = [(await http.post("/threads", json={})).json()["id"] for _ in range(2)]
    message = (await http.post(f"/threads/{one}/messages", json={"role": "user", "content": "x"})).json()["id"]
    assert told(await http.get(f"/threads/{other}/messages/{message}"), 404)[0] == (
        f"No message found with id '{message}'."
    )
    assert told(await http.get(f"/threads/{one}/runs/{message}"), 404)[0] == f"No run found with id '{message}'."


@pytest.mark.parametrize(
    ("query", "param"),
    [({"limit": "0"}, "limit"), ({"limit": "101"}, "limit"), ({"limit": "x"}, "limit"), ({"order": "up"}, "order")],
)
async def test_queries_that_are_wrong_are_named(http: httpx2.AsyncClient, query: dict[str, str], param: str) -> None:
    assert told(await http.get("/assistants", params=query))[1] == param


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example"}, "unknown_host"),
        ({"Host": "evil.example:8080"}, "unknown_host"),
        ({"Host": ""}, "unknown_host"),
        ({"Origin": "https://evil.example"}, "foreign_origin"),
        ({"Origin": "null"}, "foreign_origin"),
        ({"Host": "localhost:1", "Origin": "http://localhost:2"}, "foreign_origin"),
    ],
)
async def test_web_pages_of_others_are_kept_out(http: httpx2.AsyncClient, headers: dict[str, str], code: str) -> None:
    form = {"purpose": "assistants"}
    answer = await http.post("/files", data=form, files={"file": ("a", b"x")}, headers=headers)
    assert told(answer, 403)[2] == code


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:80", "LOCALHOST"])
async def test_names_of_this_machine_are_its_own(http: httpx2.AsyncClient, host: str) -> None:
    answer = await http.get("/models", headers={"Host": host, "Origin": f"http://{host}"})
    assert answer.status_code == 200


async def test_other_names_are_told_to_the_server(tmp_path: Path) -> None:
    settings = {"http.listen": "127.0.0.1:0", "http.host_names": "files.example.com, other.example.com"}
    with ServerProcess(tmp_path, settings) as server:
        async with httpx2.AsyncClient(base_url=server.base_url) as http:
            assert (await http.get("/models", headers={"Host": "files.example.com"})).status_code == 200
            assert (await http.get("/models", headers={"Host": "evil.example.com"})).status_code == 403


async def test_version_that_never_was_is_refused(http: httpx2.AsyncClient) -> None:
    answer = await http.get("/assistants", headers={"OpenAI-Beta": "assistants=v9"})
    assert told(answer)[2] == "invalid_beta"


async def test_same_request_twice_makes_one_object(http: httpx2.AsyncClient) -> None:
    key = {"Idempotency-Key": "http-once"}
    first, second = [(await http.post("/threads", json={}, headers=key)).json()["id"] for _ in range(2)]
    assert first == second
    changed = await http.post("/threads", json={"metadata": {"a": "b"}}, headers=key)
    assert "was used before with a different request" in told(changed, 409)[0]


async def test_fields_of_a_run_beside_its_thread_are_named_as_they_were_given(http: httpx2.AsyncClient) -> None:
    long = [{"role": "user", "content": "x" * 256_001}]
    body = {"assistant_id": "asst_x", "temperature": 3, "thread": {"messages": long}, "additional_messages": long}
    message, param, _ = told(await http.post("/threads/runs", json=body))
    assert param == "thread.messages[0].content"
    for name in (param, "temperature", "additional_messages[0].content"):
        assert f"Invalid '{name}'" in message


NOT_JSON = {"x": float("nan")}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": NOT_JSON}}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/assistants", {"model": "direct", "tools": [FUNCTION]}, "tools[0].function.parameters"),
        (
            "/assistants",
            {
                "model": "direct",
                "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": NOT_JSON}},
            },
            "response_format.json_schema.schema",
        ),
        ("/threads", {"messages": [{"role": "user"}]}, "messages[0].content"),
        ("/threads", {"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ("/threads", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ("/threads", {"messages": [{"role": "user", "content": "x" * 256_001}]}, "messages[0].content"),
    ],
)
async def test_fields_that_grpc_calls_otherwise_are_named_as_they_were_sent(
    http: httpx2.AsyncClient, path: str, body: object, param: str
) -> None:
    answer = await http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    message, named, _ = told(answer)
    assert named == param
    # To its end, and nothing else: neither what is below it nor another name.
    assert [part for part in message.split("'") if part.startswith(param.partition("[")[0])] == [param]
    assert "'text'" not in message.replace(f"'{param}'", "")


async def test_words_of_grpc_alone_do_not_reach_http(http: httpx2.AsyncClient) -> None:
    long = await http.post("/threads", json={}, headers={"Idempotency-Key": "k" * 129})
    message, param, _ = told(long)
    assert param == "Idempotency-Key"
    assert message.startswith("Invalid 'Idempotency-Key': string too long.")
    key = {"Idempotency-Key": "http-changed"}
    await http.post("/threads", json={}, headers=key)
    assert "Idempotency-Key" in told(await http.post("/threads", json={"metadata": {"a": "b"}}, headers=key), 409)[0]
    body = {"assistant_id": "asst_x", "truncation_strategy": {"type": "auto", "last_messages": 3}}
    message, param, _ = told(await http.post("/threads/thread_x/runs", json=body))
    assert param == "truncation_strategy.last_messages"
    assert "LAST_MESSAGES" not in message


async def test_unknown_fields_keep_the_names_that_they_came_with(http: httpx2.AsyncClient) -> None:
    for path, name in (("/threads/runs", "run.model"), ("/threads", "request_id"), ("/uploads", "ttl")):
        message, _, _ = told(await http.post(path, json={name: 1}))
        assert f"Unknown parameter: '{name}'." in message


async def test_bodies_of_wrong_fields_are_told_of_in_short(http: httpx2.AsyncClient) -> None:
    many = {"model": "direct", "metadata": {f"k{number}": 1 for number in range(50_000)}}
    tools = {"model": "direct", "tools": [{"type": "x"}] * 50_000}
    unknown = {"model": "direct", **{f"u{number}": 1 for number in range(50_000)}}
    for body in (many, tools, unknown):
        answer = await http.post("/assistants", json=body)
        assert answer.status_code == 400
        assert len(answer.content) < 32_000


async def test_json_that_could_not_be_written_again_is_not_taken(http: httpx2.AsyncClient) -> None:
    deep: object = 1
    for _ in range(100):
        deep = {"a": deep}
    tool = {"type": "function", "function": {"name": "f", "parameters": deep}}
    answer = await http.post("/assistants", json={"model": "direct", "tools": [tool]})
    assert "nested 64 deep" in told(answer)[0]
    function = b'{"name": "f", "parameters": {"a": "\\ud800"}}'
    surrogate = b'{"model": "direct", "tools": [{"type": "function", "function": %s}]}' % function
    answer = await http.post("/assistants", content=surrogate, headers={"content-type": "application/json"})
    assert "may not contain U+D800" in told(answer)[0]


@pytest.mark.parametrize("digits", [20, 400])
async def test_numbers_that_nothing_holds_are_refused(http: httpx2.AsyncClient, digits: int) -> None:
    for path, name in (("/assistants", "temperature"), ("/threads/runs", "max_prompt_tokens")):
        body = f'{{"model": "direct", "assistant_id": "asst_x", "{name}": {"9" * digits}}}'.encode()
        answer = await http.post(path, content=body, headers={"content-type": "application/json"})
        assert f"Invalid '{name}'" in told(answer)[0]


async def test_clients_that_send_slowly_keep_nobody_out(tmp_path: Path) -> None:
    settings = {"http.listen": "127.0.0.1:0", "http.body_seconds": 2, "server.max_calls": 3}
    with ServerProcess(tmp_path, settings) as server:
        host, _, port = server.base_url.removeprefix("http://").removesuffix("/v1").rpartition(":")
        slow = [await asyncio.open_connection(host, int(port)) for _ in range(10)]
        for _, writer in slow:
            writer.write(b"POST /v1/threads HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            await writer.drain()
        async with httpx2.AsyncClient(base_url=server.base_url) as http:
            assert (await http.get("/models")).status_code == 200
        for reader, writer in slow:
            assert (await reader.readline()).startswith(b"HTTP/1.1 408")
            writer.close()


@pytest.mark.parametrize("given", ["run_x:-1", "run_x:1.5", "run_x:", "x", "run_x:" + "9" * 5000])
async def test_places_that_are_none_are_refused(http: httpx2.AsyncClient, given: str) -> None:
    thread = (await http.post("/threads", json={})).json()["id"]
    body = {"assistant_id": "asst_x", "stream": True}
    answer = await http.post(f"/threads/{thread}/runs", json=body, headers={"Last-Event-ID": given})
    assert told(answer)[1] == "Last-Event-ID"


async def test_forms_of_no_known_text_and_origins_that_are_none_are_refused(http: httpx2.AsyncClient) -> None:
    part = b'--BB\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nassistants\r\n--BB--\r\n'
    kind = {"content-type": "multipart/form-data; boundary=BB; charset=undefined"}
    assert told(await http.post("/files", content=part, headers=kind))[2] is not None
    assert told(await http.get("/models", headers={"Origin": "http://["}), 403)[2] == "foreign_origin"
