"""Ids that a request must have: what the code asks for is what the contract says."""

import re
from pathlib import Path

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from afarensis import v1 as pb
from afarensis_server.errors import InvalidFields
from afarensis_server.rpc.required import check_required, required_ids

PROTOS = Path(__file__).parents[3] / "protos" / "afarensis" / "v1"
_ID = re.compile(r"  string (?P<name>\w+_id) = \d+;")
METHODS: list[MethodDescriptor] = [
    method
    for module in (
        pb.assistant_service_pb2,
        pb.event_service_pb2,
        pb.file_service_pb2,
        pb.model_service_pb2,
        pb.run_service_pb2,
        pb.session_service_pb2,
        pb.thread_service_pb2,
        pb.usage_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


def documented() -> dict[str, set[str]]:
    """The ids of each request whose comment says that they are required."""
    found: dict[str, set[str]] = {}
    for file in PROTOS.glob("*_service.proto"):
        message, comment = "", ""
        for line in file.read_text().splitlines():
            if line.startswith("message "):
                message = line.split()[1]
            if line.startswith("  //"):
                comment += line
                continue
            if (field := _ID.fullmatch(line)) and "Required." in comment:
                found.setdefault(message, set()).add(field["name"])
            comment = ""
    return found


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_ids_that_the_contract_requires_are_required(method: MethodDescriptor) -> None:
    required = {path for path in required_ids(method.input_type) if "." not in path}
    assert required == documented().get(method.input_type.name, set())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_empty_request_is_told_which_ids_it_lacks(method: MethodDescriptor) -> None:
    lacking = [path for path in required_ids(method.input_type) if "." not in path]
    request = message_factory.GetMessageClass(method.input_type)()
    if not lacking:
        check_required(request)
        return
    with pytest.raises(InvalidFields) as refused:
        check_required(request)
    assert [violation.field for violation in refused.value.violations] == lacking
    assert {violation.reason for violation in refused.value.violations} == {"REQUIRED"}
    assert refused.value.violations[0].description == f"Missing required parameter: '{lacking[0]}'."


def test_run_within_another_request_lacks_its_own_ids() -> None:
    assert _lacking(pb.CreateThreadAndRunRequest()) == []
    assert _lacking(pb.CreateThreadAndRunRequest(run=pb.CreateRunRequest())) == ["run.assistant_id"]
    assert _lacking(pb.CreateRunStreamRequest()) == []
    assert _lacking(pb.CreateRunStreamRequest(run=pb.CreateRunRequest())) == ["run.thread_id", "run.assistant_id"]
    nested = pb.CreateRunStreamRequest(thread_and_run=pb.CreateThreadAndRunRequest(run=pb.CreateRunRequest()))
    assert _lacking(nested) == ["thread_and_run.run.assistant_id"]


def test_request_with_its_ids_passes() -> None:
    check_required(pb.CreateRunRequest(thread_id="thread_x", assistant_id="asst_x"))
    check_required(pb.ListRunsRequest())


def _lacking(request: Message) -> list[str]:
    try:
        check_required(request)
    except InvalidFields as refused:
        return [violation.field for violation in refused.violations]
    return []
