import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from afarensis import v1 as pb
from afarensis_server.errors import UpdateMaskInvalid
from afarensis_server.rpc.masks import fields_to_change


def changed(request: pb.UpdateAssistantRequest) -> set[str]:
    return set(fields_to_change(request, request.update_mask, "assistant_id"))


def test_without_a_mask_the_fields_that_are_set_change() -> None:
    request = pb.UpdateAssistantRequest(assistant_id="x", name="", metadata={"a": "b"}, temperature=0)
    assert changed(request) == {"name", "metadata", "temperature"}


def test_mask_names_fields_to_clear_too() -> None:
    request = pb.UpdateAssistantRequest(update_mask=FieldMask(paths=["name", "tools"]), name="x")
    assert changed(request) == {"name", "tools"}


def test_star_stands_for_every_field_but_the_id() -> None:
    request = pb.UpdateThreadRequest(update_mask=FieldMask(paths=["*"]))
    assert fields_to_change(request, request.update_mask, "thread_id") == {"tool_resources", "metadata"}


@pytest.mark.parametrize("path", ["id", "assistant_id", "update_mask", "tool_resources.code_interpreter", "Name", ""])
def test_what_cannot_change_is_refused_and_what_can_is_named(path: str) -> None:
    with pytest.raises(UpdateMaskInvalid) as refused:
        changed(pb.UpdateAssistantRequest(update_mask=FieldMask(paths=["name", path])))
    assert f"'{path}'" in str(refused.value)
    assert "'instructions'" in str(refused.value)
    assert refused.value.violations[0].field == "update_mask"
