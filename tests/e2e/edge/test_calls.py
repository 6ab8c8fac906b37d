"""What holds for every call, whichever service it belongs to."""

from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from afarensis import v1 as pb
from tests.support.rpc import refused
from tests.support.server_process import ServerProcess

SERVING = health_pb2.HealthCheckResponse.SERVING


def raw(channel: grpc.Channel, method: str) -> Any:
    """A method that takes the bytes of its requests as they are, one or more, and gives those of its responses."""
    return channel.stream_stream(method if method.startswith("/") else f"/afarensis.v1.{method}")


def health(channel: grpc.Channel) -> Any:
    """The health service. Its stub is typed without its methods."""
    return health_pb2_grpc.HealthStub(channel)


def test_text_that_is_not_utf8_is_refused_by_name(channel: grpc.Channel) -> None:
    request = pb.CreateFileRequest(filename="@@").SerializeToString().replace(b"@@", b"\xff\xfe")
    refusal = refused(lambda: raw(channel, "FileService/CreateFile")(iter([request])))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
    assert refusal.violations == (
        ("filename", "INVALID_CHARACTER", "Invalid 'filename': the text is not valid UTF-8."),
    )


def test_bytes_that_are_no_message_are_refused(channel: grpc.Channel) -> None:
    refusal = refused(lambda: raw(channel, "FileService/CreateFile")(iter([b"\x0a\xff"])))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_MALFORMED")


def test_first_message_of_a_stream_that_is_not_utf8_is_refused(channel: grpc.Channel) -> None:
    metadata = pb.UploadFileRequest(metadata=pb.UploadFileMetadata(filename="@@"))
    request = metadata.SerializeToString().replace(b"@@", b"\xff\xfe")
    call = raw(channel, "FileService/UploadFile")
    assert refused(lambda: call(iter([request]))).fields == ["metadata.filename"]


def test_request_beyond_4_mib_is_refused(channel: grpc.Channel) -> None:
    request = pb.CreateFileRequest(filename="x", content=bytes(4 * 1024 * 1024)).SerializeToString()
    refusal = refused(lambda: raw(channel, "FileService/CreateFile")(iter([request])))
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    refusal = refused(lambda: raw(channel, "FileService/CreateFolder")(iter([b""])))
    assert refusal.code is grpc.StatusCode.UNIMPLEMENTED


def test_request_id_of_the_client_comes_back(assistants: pb.AssistantServiceStub) -> None:
    request = pb.CreateAssistantRequest()
    _, call = assistants.CreateAssistant.with_call(request, metadata=(("x-request-id", "my-id-1"),))
    assert dict(call.trailing_metadata() or ())["x-request-id"] == "my-id-1"
    refusal = refused(
        lambda: assistants.GetAssistant(
            pb.GetAssistantRequest(assistant_id="x"), metadata=(("x-request-id", "my-id-2"),)
        )
    )
    assert refusal.trailers["x-request-id"] == "my-id-2"


@pytest.mark.parametrize("given", ["", "x" * 129, "two words"])
def test_request_id_that_is_none_is_replaced(assistants: pb.AssistantServiceStub, given: str) -> None:
    _, call = assistants.ListAssistants.with_call(pb.ListAssistantsRequest(), metadata=(("x-request-id", given),))
    made = dict(call.trailing_metadata() or ())["x-request-id"]
    assert made != given
    assert len(made) == 32


def test_each_call_is_logged_by_its_id_and_without_its_content(
    assistants: pb.AssistantServiceStub, files: pb.FileServiceStub, server: ServerProcess
) -> None:
    secret = "a-very-particular-instruction"
    metadata = (("x-request-id", "logged-1"),)
    assistants.CreateAssistant(pb.CreateAssistantRequest(instructions=secret), metadata=metadata)
    refused(lambda: assistants.CreateAssistant(pb.CreateAssistantRequest(name=secret * 20)))
    files.CreateFile(pb.CreateFileRequest(filename=f"{secret}.txt", content=secret.encode()))
    log = server.log.read_text()
    (line,) = (line for line in log.splitlines() if "logged-1" in line)
    assert '"method": "/afarensis.v1.AssistantService/CreateAssistant"' in line
    assert '"status": "OK"' in line
    assert secret not in log


def test_status_survives_a_request_that_would_make_it_too_long(assistants: pb.AssistantServiceStub) -> None:
    tools = [pb.Tool(function=pb.FunctionTool(name="漢" * 1_000)) for _ in range(500)]
    request = pb.CreateAssistantRequest(tools=tools, metadata={"漢" * 600: "x"})
    refusal = refused(lambda: assistants.CreateAssistant(request))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
    assert refusal.violations[-1][1] == "MORE_VIOLATIONS"
    refusal = refused(lambda: assistants.GetAssistant(pb.GetAssistantRequest(assistant_id="漢" * 1_000_000)))
    assert refusal.reason == "ASSISTANT_NOT_FOUND"


def test_health_tells_of_the_process_and_of_runs(channel: grpc.Channel) -> None:
    service = health(channel)
    for name in ("", "afarensis.v1.RunService"):
        assert service.Check(health_pb2.HealthCheckRequest(service=name)).status == SERVING
    refusal = refused(lambda: service.Check(health_pb2.HealthCheckRequest(service="nothing")))
    assert refusal.code is grpc.StatusCode.NOT_FOUND


def test_watchers_of_health_do_not_disturb_each_other(channel: grpc.Channel) -> None:
    service = health(channel)
    first, second = (service.Watch(health_pb2.HealthCheckRequest(service="")) for _ in range(2))
    assert next(first).status == next(second).status == SERVING
    first.cancel()
    third = service.Watch(health_pb2.HealthCheckRequest(service="nothing"))
    assert next(third).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    second.cancel()
    third.cancel()


def test_reflection_gives_every_service_with_all_its_methods(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    services = set(database.get_services())
    contract = {name for module in vars(pb).values() for name in _services_in(module)}
    assert contract
    assert contract | {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} == services
    file = database.FindFileContainingSymbol("afarensis.v1.RunService")
    assert "CreateRunStream" in {method.name for method in file.service[0].method}


def _services_in(module: object) -> list[str]:
    descriptor = getattr(module, "DESCRIPTOR", None)
    services = getattr(descriptor, "services_by_name", {})
    return [service.full_name for service in services.values()]


METHODS = [
    method
    for module in list(vars(pb).values())
    for service in getattr(getattr(module, "DESCRIPTOR", None), "services_by_name", {}).values()
    for method in service.methods
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_no_method_is_left_to_the_stubs(channel: grpc.Channel, method: Any) -> None:
    path = f"/{method.containing_service.full_name}/{method.name}"
    call = raw(channel, path)(iter([b""]), timeout=20)
    said = ""
    try:
        next(call, None)
    except grpc.RpcError as error:
        said = str(error)
    call.cancel()
    assert "not implemented!" not in said


@pytest.mark.parametrize(("service", "method"), [("UsageService", "GetUsage")])
def test_what_later_versions_bring_says_so(channel: grpc.Channel, service: str, method: str) -> None:
    refusal = refused(lambda: raw(channel, f"{service}/{method}")(iter([b""])))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED")
    assert refusal.message == (
        f"{method} is part of the contract, but this version of the server does not implement it yet."
    )


def test_models_are_listed(channel: grpc.Channel) -> None:
    (model,) = pb.ModelServiceStub(channel).ListModels(pb.ListModelsRequest()).models
    assert (model.id, model.provider, model.is_default) == ("direct", "direct", True)
