import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from afarensis import v1 as pb
from tests.support.rpc import refused

CODE = pb.Tool(code_interpreter=pb.CodeInterpreterTool())


def full(file: pb.File) -> pb.CreateAssistantRequest:
    return pb.CreateAssistantRequest(
        model="direct",
        name="Analyst",
        description="Looks at data.",
        instructions="Be brief. 簡潔に。",
        tools=[CODE, pb.Tool(function=pb.FunctionTool(name="f", parameters_json='{"type": "object"}', strict=False))],
        tool_resources=pb.ToolResources(code_interpreter=pb.CodeInterpreterResources(file_ids=[file.id])),
        metadata={"team": "α"},
        temperature=0,
        top_p=1,
        response_format=pb.ResponseFormat(json_object=pb.JsonObjectResponseFormat()),
        reasoning_effort="low",
    )


def test_assistant_comes_back_as_it_was_created(assistants: pb.AssistantServiceStub, file: pb.File) -> None:
    request = full(file)
    created = assistants.CreateAssistant(request).assistant
    assert created.id.startswith("asst_")
    assert len(created.id) == len("asst_") + 26
    assert created.create_time.seconds > 0
    for field in ("model", "name", "description", "instructions", "tools", "tool_resources", "metadata"):
        assert getattr(created, field) == getattr(request, field)
    assert (created.temperature, created.top_p, created.reasoning_effort) == (0, 1, "low")
    assert created.HasField("temperature")
    assert assistants.GetAssistant(pb.GetAssistantRequest(assistant_id=created.id)).assistant == created


def test_absent_fields_stay_absent_and_the_model_is_the_default(assistants: pb.AssistantServiceStub) -> None:
    created = assistants.CreateAssistant(pb.CreateAssistantRequest()).assistant
    assert created.model == "direct"
    assert not created.HasField("name")
    assert not created.HasField("instructions")
    assert not created.HasField("temperature")
    assert not created.HasField("response_format")


def test_empty_name_is_not_an_absent_one(assistants: pb.AssistantServiceStub) -> None:
    created = assistants.CreateAssistant(pb.CreateAssistantRequest(name="")).assistant
    assert created.HasField("name")


def test_only_what_the_mask_names_changes(assistants: pb.AssistantServiceStub, file: pb.File) -> None:
    created = assistants.CreateAssistant(full(file)).assistant
    request = pb.UpdateAssistantRequest(
        assistant_id=created.id,
        update_mask=FieldMask(paths=["name", "temperature", "tools"]),
        name="Other",
        description="not named, so it stays",
    )
    updated = assistants.UpdateAssistant(request).assistant
    assert (updated.name, updated.description) == ("Other", "Looks at data.")
    assert not updated.HasField("temperature")
    assert list(updated.tools) == []
    assert updated.metadata == created.metadata
    assert updated.create_time == created.create_time


def test_without_a_mask_what_is_set_changes(assistants: pb.AssistantServiceStub, file: pb.File) -> None:
    created = assistants.CreateAssistant(full(file)).assistant
    updated = assistants.UpdateAssistant(pb.UpdateAssistantRequest(assistant_id=created.id, top_p=0.5)).assistant
    assert updated.top_p == 0.5
    assert (updated.name, list(updated.tools)) == (created.name, list(created.tools))


def test_star_clears_all_that_is_not_set(assistants: pb.AssistantServiceStub, file: pb.File) -> None:
    created = assistants.CreateAssistant(full(file)).assistant
    request = pb.UpdateAssistantRequest(assistant_id=created.id, update_mask=FieldMask(paths=["*"]), name="Only")
    updated = assistants.UpdateAssistant(request).assistant
    assert (updated.name, updated.model) == ("Only", "direct")
    assert not updated.HasField("instructions")
    assert not updated.metadata
    assert not updated.tool_resources.code_interpreter.file_ids


@pytest.mark.parametrize("path", ["id", "create_time", "tool_resources.code_interpreter", "nonsense"])
def test_mask_of_what_cannot_change_is_refused(assistants: pb.AssistantServiceStub, path: str) -> None:
    created = assistants.CreateAssistant(pb.CreateAssistantRequest()).assistant
    request = pb.UpdateAssistantRequest(assistant_id=created.id, update_mask=FieldMask(paths=[path]))
    refusal = refused(lambda: assistants.UpdateAssistant(request))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UPDATE_MASK_INVALID")
    assert refusal.fields == ["update_mask"]
    assert f"'{path}' cannot be updated" in refusal.message


def test_deleted_assistant_is_not_found(assistants: pb.AssistantServiceStub) -> None:
    created = assistants.CreateAssistant(pb.CreateAssistantRequest()).assistant
    assistants.DeleteAssistant(pb.DeleteAssistantRequest(assistant_id=created.id))
    for call in (
        lambda: assistants.GetAssistant(pb.GetAssistantRequest(assistant_id=created.id)),
        lambda: assistants.DeleteAssistant(pb.DeleteAssistantRequest(assistant_id=created.id)),
        lambda: assistants.UpdateAssistant(pb.UpdateAssistantRequest(assistant_id=created.id, name="x")),
    ):
        refusal = refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "ASSISTANT_NOT_FOUND")
        assert refusal.message == f"No assistant found with id '{created.id}'."
        assert refusal.metadata == {"id": created.id}


@pytest.mark.parametrize("wrong", ["asst_x", "thread_01m82t7e9adzz4ed4ewbv3xxrb", "'; DROP TABLE assistants; --", "漢"])
def test_wrong_ids_are_not_found(assistants: pb.AssistantServiceStub, wrong: str) -> None:
    refusal = refused(lambda: assistants.GetAssistant(pb.GetAssistantRequest(assistant_id=wrong)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "ASSISTANT_NOT_FOUND")
    assert refusal.message == f"No assistant found with id '{wrong}'."


def test_every_violation_is_reported_at_once(assistants: pb.AssistantServiceStub) -> None:
    request = pb.CreateAssistantRequest(
        name="n" * 257,
        description="d" * 513,
        temperature=2.1,
        top_p=-0.1,
        tools=[CODE, CODE, pb.Tool(function=pb.FunctionTool(name="not a name", parameters_json="[]"))],
        metadata={str(number): "" for number in range(17)},
    )
    refusal = refused(lambda: assistants.CreateAssistant(request))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
    assert set(refusal.fields) == {
        "name",
        "description",
        "temperature",
        "top_p",
        "tools[1]",
        "tools[2].function.name",
        "tools[2].function.parameters_json",
        "metadata",
    }
    text = (
        "Invalid 'name': string too long. Expected a string with maximum length 256, "
        "but got a string with length 257 instead."
    )
    assert ("name", "STRING_TOO_LONG", text) in refusal.violations
    assert text in refusal.message


def test_tool_without_a_kind_is_refused(assistants: pb.AssistantServiceStub) -> None:
    refusal = refused(lambda: assistants.CreateAssistant(pb.CreateAssistantRequest(tools=[pb.Tool()])))
    assert refusal.violations[0][:2] == ("tools[0]", "REQUIRED")


def test_unknown_file_is_refused(assistants: pb.AssistantServiceStub) -> None:
    resources = pb.ToolResources(code_interpreter=pb.CodeInterpreterResources(file_ids=["file-x"]))
    refusal = refused(lambda: assistants.CreateAssistant(pb.CreateAssistantRequest(tool_resources=resources)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "FILE_NOT_FOUND")
    assert refusal.message == "No such File object: file-x"


def test_unknown_model_is_refused(assistants: pb.AssistantServiceStub) -> None:
    refusal = refused(lambda: assistants.CreateAssistant(pb.CreateAssistantRequest(model="gpt-4.1")))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MODEL_UNKNOWN")


def test_request_id_creates_once(assistants: pb.AssistantServiceStub) -> None:
    request = pb.CreateAssistantRequest(request_id="once-assistant", name="a")
    first = assistants.CreateAssistant(request).assistant
    assert assistants.CreateAssistant(request).assistant == first
    other = pb.CreateAssistantRequest(request_id="once-assistant", name="b")
    refusal = refused(lambda: assistants.CreateAssistant(other))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert "'once-assistant' was used before" in refusal.message


def test_pages_hold_every_assistant_once_in_either_order(assistants: pb.AssistantServiceStub) -> None:
    made = [assistants.CreateAssistant(pb.CreateAssistantRequest()).assistant.id for _ in range(5)]
    for order in (pb.SORT_ORDER_ASCENDING, pb.SORT_ORDER_DESCENDING, pb.SORT_ORDER_UNSPECIFIED):
        seen: list[str] = []
        token = ""
        while True:
            request = pb.ListAssistantsRequest(page_size=2, page_token=token, order=order)
            page = assistants.ListAssistants(request)
            assert len(page.assistants) <= 2
            seen += [item.id for item in page.assistants]
            token = page.next_page_token
            if not token:
                break
        assert len(seen) == len(set(seen))
        mine = [item for item in seen if item in made]
        assert mine == (made if order == pb.SORT_ORDER_ASCENDING else made[::-1])


@pytest.mark.parametrize("size", [-1, 101, 2**31 - 1])
def test_page_size_outside_of_its_limits_is_refused(assistants: pb.AssistantServiceStub, size: int) -> None:
    refusal = refused(lambda: assistants.ListAssistants(pb.ListAssistantsRequest(page_size=size)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
    assert refusal.fields == ["page_size"]


def test_page_token_of_another_list_or_order_is_refused(
    assistants: pb.AssistantServiceStub, threads: pb.ThreadServiceStub
) -> None:
    for _ in range(2):
        assistants.CreateAssistant(pb.CreateAssistantRequest())
    token = assistants.ListAssistants(pb.ListAssistantsRequest(page_size=1)).next_page_token
    changed = ("A" if token[0] != "A" else "B") + token[1:]
    ascending = pb.ListAssistantsRequest(page_token=token, order=pb.SORT_ORDER_ASCENDING)
    for call in (
        lambda: threads.ListThreads(pb.ListThreadsRequest(page_token=token)),
        lambda: assistants.ListAssistants(ascending),
        lambda: assistants.ListAssistants(pb.ListAssistantsRequest(page_token=changed)),
        lambda: assistants.ListAssistants(pb.ListAssistantsRequest(page_token="漢")),
        lambda: assistants.ListAssistants(pb.ListAssistantsRequest(page_token="x" * 100_000)),
    ):
        refusal = refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")
