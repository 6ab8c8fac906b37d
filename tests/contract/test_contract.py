"""The contract keeps its own rules, and the promises it has made to the clients of the main branch."""

import io
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

from afarensis import v1
from afarensis_server import errors

ROOT = Path(__file__).resolve().parents[2]
BUF = Path(sysconfig.get_path("scripts")) / "buf"

ERROR_ITEM = re.compile(r"\* (?P<status>[A-Z_]+)(?: `[A-Z][A-Z0-9_]+`)(?:, `[A-Z][A-Z0-9_]+`)*: .+\.")


def run(*command: str | Path, directory: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> list[FileDescriptorProto]:
    """The files of the contract, with their comments."""
    image = tmp_path_factory.mktemp("contract") / "image.binpb"
    built = run(BUF, "build", "--output", image)
    assert built.returncode == 0, built.stderr
    files = FileDescriptorSet.FromString(image.read_bytes()).file
    return [file for file in files if file.package == "afarensis.v1"]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contract that clients have: of origin/main where it is known, else of the last commit."""
    directory = tmp_path_factory.mktemp("published")
    for revision in ("origin/main", "HEAD"):
        archive = subprocess.run(
            ("git", "archive", revision, "buf.yaml", "protos"), cwd=ROOT, capture_output=True, check=False
        )
        if archive.returncode == 0:
            with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as content:
                content.extractall(directory, filter="data")
            return directory
    pytest.skip("this is no git checkout, or one from before the contract")


def comment(file: FileDescriptorProto, *path: int) -> str:
    """The comment before the element at a path of the descriptor; empty when it has none."""
    places = (place for place in file.source_code_info.location if tuple(place.path) == path)
    return next((place.leading_comments for place in places), "")


def services(contract: list[FileDescriptorProto]) -> Iterator[tuple[FileDescriptorProto, int, ServiceDescriptorProto]]:
    for file in contract:
        for index, service in enumerate(file.service):
            yield file, index, service


def rpc_comments(contract: list[FileDescriptorProto]) -> Iterator[tuple[str, str]]:
    for file, index, service in services(contract):
        for place, method in enumerate(service.method):
            yield f"{service.name}.{method.name}", comment(file, 6, index, 2, place)


def test_contract_has_no_lint() -> None:
    linted = run(BUF, "lint")
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_contract_is_formatted() -> None:
    formatted = run(BUF, "format", "--diff", "--exit-code")
    assert formatted.returncode == 0, formatted.stdout + formatted.stderr


def test_contract_breaks_no_client_of_the_main_branch(published: Path) -> None:
    compared = run(BUF, "breaking", "--against", published)
    assert compared.returncode == 0, compared.stdout + compared.stderr


def test_a_removed_field_is_found_to_break_clients(tmp_path: Path) -> None:
    (tmp_path / "buf.yaml").write_bytes((ROOT / "buf.yaml").read_bytes())
    for source in (ROOT / "protos").rglob("*.proto"):
        copy = tmp_path / source.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(source.read_text().replace("  SortOrder order = 3;\n", ""))
    compared = run(BUF, "breaking", "--against", ROOT, directory=tmp_path)
    assert compared.returncode != 0
    assert 'field "3" with name "order"' in compared.stdout


def test_stubs_are_those_of_the_protos() -> None:
    checked = run(sys.executable, "tools/generate.py", "--check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_rpc_says_whether_it_can_be_repeated(contract: list[FileDescriptorProto]) -> None:
    silent = [name for name, text in rpc_comments(contract) if not re.search(r"[Rr]epeat(able|ed)", text)]
    assert silent == []


def test_every_rpc_lists_its_errors_by_status_and_reason(contract: list[FileDescriptorProto]) -> None:
    statuses = {code.name for code in grpc.StatusCode}
    wrong = []
    for name, text in rpc_comments(contract):
        _, _, errors = text.partition("\n Errors:\n\n")
        items = [" ".join(item.split()) for item in re.split(r"\n(?= \* )", errors.rstrip()) if item.strip()]
        # Two may refer to others: a call without errors of its own, and one that is made of two others.
        if not items:
            wrong.append(name)
        for item in items:
            match = ERROR_ITEM.fullmatch(item)
            if match is None and not re.match(r"\* (None but those of every call\.|All of )", item):
                wrong.append(f"{name}: {item}")
            elif match is not None and match["status"] not in statuses:
                wrong.append(f"{name}: {match['status']} is no status")
    assert wrong == []


def test_every_reason_of_the_server_is_documented(contract: list[FileDescriptorProto]) -> None:
    texts = [text for _, text in rpc_comments(contract)]
    texts += [comment(file, 6, index) for file, index, _ in services(contract)]
    documented = {reason for text in texts for reason in re.findall(r"`([A-Z][A-Z0-9_]+)`", text)}
    # Those that only the other door has are told of where that is.
    over_http = (ROOT / "docs/http.md").read_text()
    documented |= set(re.findall(r"`([A-Z][A-Z0-9_]+)`", over_http))
    raised = {error.reason for error in _subclasses(errors.DomainError) if not error.__subclasses__()}
    assert raised - documented == set()


def _subclasses(error: type[errors.DomainError]) -> Iterator[type[errors.DomainError]]:
    for subclass in error.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def test_event_types_are_the_event_names_of_the_assistants_api(contract: list[FileDescriptorProto]) -> None:
    file = next(file for file in contract if file.name.endswith("/event.proto"))
    for place, value in enumerate(file.enum_type[0].value[1:], start=1):
        name = re.match(r" `([a-z_.]+)`: ", comment(file, 5, 0, 2, place))
        assert name is not None, value.name
        assert value.name == "RUN_EVENT_TYPE_" + name[1].upper().replace(".", "_")


def test_contract_imports_nothing_but_itself_and_protobuf(contract: list[FileDescriptorProto]) -> None:
    imports = {name for file in contract for name in file.dependency}
    assert {name for name in imports if not name.startswith(("afarensis/v1/", "google/protobuf/"))} == set()


def test_every_file_has_the_options_of_the_other_languages(contract: list[FileDescriptorProto]) -> None:
    for file in contract:
        assert file.options.go_package == "afarensis.dev/clients/go/afarensis/v1;afarensisv1", file.name
        assert file.options.java_package == "dev.afarensis.v1", file.name
        assert file.options.java_multiple_files, file.name
        stem = Path(file.name).stem
        assert file.options.java_outer_classname == stem.title().replace("_", "") + "Proto", file.name


def test_no_two_fields_share_an_accessor_in_java(contract: list[FileDescriptorProto]) -> None:
    clashes = [
        f"{message.name}.{accessor}"
        for file in contract
        for message in file.message_type
        for accessor in _java_clashes(message)
    ]
    assert clashes == []


def _java_clashes(message: DescriptorProto) -> set[str]:
    """The accessors that protoc would make for more than one field: `a_count` beside a repeated `a`, and the like."""
    seen: set[str] = set()
    clashes: set[str] = set()
    for field in message.field:
        name = field.name.replace("_", "")
        accessors = {name}
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            accessors |= {f"{name}list", f"{name}count", f"{name}map"}
        if field.type == FieldDescriptorProto.TYPE_STRING:
            accessors.add(f"{name}bytes")
        clashes |= seen & accessors
        seen |= accessors
    return clashes


def test_namespace_offers_every_message_and_service(contract: list[FileDescriptorProto]) -> None:
    expected = {message.name for file in contract for message in file.message_type}
    expected |= {f"{service.name}{kind}" for _, _, service in services(contract) for kind in ("Stub", "Servicer")}
    assert expected <= set(v1.__all__)
    assert all(hasattr(v1, name) for name in v1.__all__)


def test_only_integers_of_known_width_are_used(contract: list[FileDescriptorProto]) -> None:
    allowed = {FieldDescriptorProto.TYPE_INT32, FieldDescriptorProto.TYPE_INT64}
    integers = allowed | {
        FieldDescriptorProto.TYPE_UINT32,
        FieldDescriptorProto.TYPE_UINT64,
        FieldDescriptorProto.TYPE_SINT32,
        FieldDescriptorProto.TYPE_SINT64,
        FieldDescriptorProto.TYPE_FIXED32,
        FieldDescriptorProto.TYPE_FIXED64,
        FieldDescriptorProto.TYPE_SFIXED32,
        FieldDescriptorProto.TYPE_SFIXED64,
    }
    used = {field.type for file in contract for message in file.message_type for field in message.field}
    assert used & integers <= allowed
