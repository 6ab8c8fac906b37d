"""How the server starts, refuses to start, and ends."""

import os
import select
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from afarensis import v1 as pb
from tests.support.rpc import refused
from tests.support.server_process import ServerProcess

LONG = "import time; print('begun', flush=True); time.sleep(60)"


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `afarensis-server` to its end."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AFARENSIS_")}
    return subprocess.run(
        [sys.executable, "-m", "afarensis_server", *arguments],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def serve(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return command("serve", "--data-dir", str(directory), *arguments, **environment)


def said_in_one_line(ended: subprocess.CompletedProcess[str]) -> str:
    """What a refusal said on standard error, below what was logged."""
    assert "Traceback" not in ended.stderr
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("afarensis-server: ")
    return last.removeprefix("afarensis-server: ")


def test_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = serve(tmp_path / "data", "--listen", f"127.0.0.1:{port}")
    assert ended.returncode == 1
    assert said_in_one_line(ended) == (
        f"The address 127.0.0.1:{port} is taken by another program. Choose another one with --listen."
    )
    assert ended.stdout == ""
    # Nothing was started for it, so there is nothing to end.
    assert len(ended.stderr.strip().splitlines()) == 1


def test_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    ended = serve(tmp_path / "data", "--listen", "192.0.2.1:0", "--insecure-bind")
    assert ended.returncode == 1
    assert said_in_one_line(ended) == (
        "Nothing can listen on the address 192.0.2.1:0: Cannot assign requested address. "
        "Choose another one with --listen."
    )


def test_signal_while_it_starts_ends_it_without_blame(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho > {begun}\nexec sleep 60\n")
    python.chmod(0o755)
    arguments = ["serve", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "data")]
    starting = subprocess.Popen(
        [sys.executable, "-m", "afarensis_server", *arguments, "--set", f"sandbox.guest_python={python}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    # Without waiting for ever: a server that ended before would leave nobody to write.
    reading = os.open(begun, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while not select.select([reading], [], [], 0.1)[0]:
            assert starting.poll() is None, starting.communicate()
    finally:
        os.close(reading)
    # As Ctrl-C does, to the server and to all that it has started.
    os.killpg(starting.pid, signal.SIGINT)
    out, err = starting.communicate(timeout=60)
    assert (starting.returncode, out) == (0, "")
    assert "stopped before it served" in err
    assert "No sandbox can be opened" not in err
    assert "Traceback" not in err


def test_help_shows_flags_without_a_type() -> None:
    shown = command("serve", "--help").stdout
    assert "--help" in shown
    assert "<bool>" not in shown.lower()
    assert "boolean" not in shown.lower()
    assert "[server.listen]" in shown


def test_data_directory_that_another_server_uses_is_refused(server: ServerProcess) -> None:
    ended = serve(server.data_directory, "--listen", "127.0.0.1:0")
    assert ended.returncode == 1
    assert said_in_one_line(ended).startswith(
        f"The data directory {server.data_directory} is in use by another server (pid {server.pid})."
    )


def test_data_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = serve(tmp_path / "file" / "data", "--listen", "127.0.0.1:0")
    assert ended.returncode == 1
    assert "cannot be made: Not a directory" in said_in_one_line(ended)


def test_guest_python_that_does_not_start_is_refused(tmp_path: Path) -> None:
    ended = serve(tmp_path, "--listen", "127.0.0.1:0", AFARENSIS_SANDBOX_GUEST_PYTHON="/nowhere/python")
    assert ended.returncode == 1
    assert "/nowhere/python" in said_in_one_line(ended)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("store.url=garbage", "The database cannot be opened: Could not parse SQLAlchemy URL"),
        ("store.url=sqlite:////nowhere/x.db", "The database cannot be opened: unable to open database file."),
        ("store.url=sqlite:////etc/hosts", "The database cannot be opened: file is not a database."),
        ("store.url=mysql://x/y", "The database cannot be opened: the database must be a SQLite file"),
        ("runs.default_model=gpt-4.1", "The model 'gpt-4.1' is not available."),
    ],
)
def test_what_cannot_be_opened_is_refused_in_one_line(tmp_path: Path, setting: str, expected: str) -> None:
    ended = serve(tmp_path, "--listen", "127.0.0.1:0", "--set", setting)
    assert ended.returncode == 1
    assert said_in_one_line(ended).startswith(expected)


def test_database_of_a_newer_version_is_refused_in_one_line(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "newer.db")) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
        connection.execute("INSERT INTO alembic_version VALUES ('9999')")
    url = f"store.url=sqlite:///{tmp_path / 'newer.db'}"
    ended = serve(tmp_path / "data", "--listen", "127.0.0.1:0", "--set", url)
    assert ended.returncode == 1
    assert said_in_one_line(ended).startswith(
        "The database has the schema 9999, which this version of Afarensis does not"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--listen", "0.0.0.0:50051"), "--insecure-bind"),
        (("--listen", "somewhere"), "listen must be host:port"),
        (("--set", "sandbox.pool_size=many"), "sandbox.pool_size: input should be a valid integer"),
        (("--set", "sandbox.pools=1"), "There is no setting 'sandbox.pools'"),
        (("--set", "openai.base_url=foo"), "openai.base_url (AFARENSIS_OPENAI_BASE_URL) must be a whole URL"),
        (
            ("--set", 'models.endpoints=[{"name": "a", "base_url": "foo"}]'),
            "models.endpoints: base_url of the endpoint 'a' must be a whole URL",
        ),
        (("--set", "pool_size"), "--set takes SECTION.NAME=VALUE"),
        (("--config", "/nowhere.toml"), "The configuration file /nowhere.toml cannot be read"),
    ],
)
def test_bad_settings_are_refused_in_one_line(tmp_path: Path, arguments: tuple[str, ...], expected: str) -> None:
    ended = serve(tmp_path, *arguments)
    assert ended.returncode == 2
    assert expected in said_in_one_line(ended)


def test_unknown_flag_is_refused_without_a_traceback(tmp_path: Path) -> None:
    ended = serve(tmp_path, "--port", "1")
    assert ended.returncode == 2
    assert "No such option" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_drain_waits_for_runs_and_refuses_what_is_new(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, {"server.drain_seconds": 30}) as server:
        with grpc.insecure_channel(server.address) as channel:
            watch = watch_health(channel, "afarensis.v1.RunService")
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            stream = start_run(channel, "import time; print('begun', flush=True); time.sleep(2); print('ended')")
            server.terminate()
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            refusal = refused(lambda: pb.ModelServiceStub(channel).ListModels(pb.ListModelsRequest()))
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
            assert refusal.retry_seconds == 1
            types = [item.event.type for item in stream]
            assert types[-1] == pb.RUN_EVENT_TYPE_THREAD_RUN_COMPLETED
            refusal = refused(lambda: watch)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        assert server.wait() == 0


def test_drain_ends_streams_that_wait_and_leaves_their_runs_for_the_next_start(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, {"server.drain_seconds": 0}) as server:
        with grpc.insecure_channel(server.address) as channel:
            stream = start_run(channel, LONG)
            server.terminate()
            refusal = refused(lambda: stream)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
            assert refusal.retry_seconds == 1
        assert server.wait() == 0


def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    settings = {"server.drain_seconds": 50, "server.log_format": "console"}
    with ServerProcess(tmp_path, settings) as server, grpc.insecure_channel(server.address) as channel:
        start_run(channel, LONG)
        watch = watch_health(channel, "")
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.terminate()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        os.kill(server.pid, signal.SIGINT)
        assert server.wait() == 1
    told = "Waiting up to 50 s for 1 run to finish; Ctrl-C again ends at once.\n"
    assert told in server.log.read_text()


def test_server_starts_again_on_what_it_left(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        with grpc.insecure_channel(server.address) as channel:
            made = pb.AssistantServiceStub(channel).CreateAssistant(pb.CreateAssistantRequest(name="kept")).assistant
            file = pb.FileServiceStub(channel).CreateFile(pb.CreateFileRequest(filename="kept", content=b"x")).file
        assert server.stop() == 0
        server.start()
        with grpc.insecure_channel(server.address) as channel:
            request = pb.GetAssistantRequest(assistant_id=made.id)
            assert pb.AssistantServiceStub(channel).GetAssistant(request).assistant == made
            assert pb.FileServiceStub(channel).ReadFile(pb.ReadFileRequest(file_id=file.id)).data == b"x"


def test_limits_come_from_settings(tmp_path: Path) -> None:
    settings = {"files.max_bytes": "1KiB", "limits.name_characters": 3, "server.max_streams": 1}
    with ServerProcess(tmp_path, settings) as server, grpc.insecure_channel(server.address) as channel:
        assistants, files = pb.AssistantServiceStub(channel), pb.FileServiceStub(channel)
        assert refused(lambda: assistants.CreateAssistant(pb.CreateAssistantRequest(name="long"))).fields == ["name"]
        head = pb.UploadFileRequest(metadata=pb.UploadFileMetadata(filename="x"))
        messages = [head, pb.UploadFileRequest(data=bytes(1_025))]
        refusal = refused(lambda: files.UploadFile(iter(messages)))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "FILE_TOO_LARGE")
        watch = watch_health(channel, "")
        next(watch)
        refusal = refused(lambda: files.DownloadFile(pb.DownloadFileRequest(file_id="x")))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
        assert refusal.retry_seconds == 1
        watch.cancel()


def test_version_settings_and_layers_are_shown(tmp_path: Path) -> None:
    assert command("version").stdout.strip()
    shown = command("config", "show", "--set", "sandbox.pool_size=9", AFARENSIS_OPENAI_API_KEY="sk-secret").stdout
    assert "sandbox.pool_size" in shown
    assert "flag" in shown
    assert "AFARENSIS_OPENAI_API_KEY" in shown
    assert "sk-secret" not in shown
    saved = tmp_path / "saved.toml"
    saved.write_text(command("config", "show", "--toml", "--set", "sandbox.pool_size=9").stdout)
    assert "│ 9" in command("config", "show", "--config", str(saved)).stdout


def test_doctor_finds_all_well(tmp_path: Path) -> None:
    doctor = command("doctor", "--set", f"server.data_dir={tmp_path / 'data'}", "--set", "server.listen=127.0.0.1:0")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert "seccomp" in doctor.stdout
    assert "All is well" in doctor.stdout
    assert not (tmp_path / "data").exists()


def test_doctor_finds_what_keeps_a_server_from_starting(server: ServerProcess) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        settings = (f"server.data_dir={server.data_directory}", f"server.listen={server.address}")
        arguments = [part for setting in (*settings, f"openai.base_url={endpoint}") for part in ("--set", setting)]
        doctor = command("doctor", *arguments)
    assert doctor.returncode == 1
    assert said_in_one_line(doctor).endswith("not all is well: data directory, address, language models.")
    assert f"(pid {server.pid})" in " ".join(doctor.stdout.replace("│", " ").split())


def test_doctor_looks_at_every_endpoint(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://user:hunter2@127.0.0.1:{closed.getsockname()[1]}"
        tables = (
            f'[{{"name": "a", "base_url": "{address}/v1"}},'
            f'{{"name": "b", "provider": "anthropic", "base_url": "{address}", "models": ["claude-*"]}}]'
        )
        settings = (f"server.data_dir={tmp_path / 'data'}", "server.listen=127.0.0.1:0", f"models.endpoints={tables}")
        doctor = command("doctor", *(part for setting in settings for part in ("--set", setting)))
    assert doctor.returncode == 1
    assert said_in_one_line(doctor).endswith("not all is well: language models of a, language models of b.")
    assert "hunter2" not in doctor.stdout + doctor.stderr


def test_health_command_tells_whether_the_server_serves(server: ServerProcess) -> None:
    serving = command("health", "--set", f"server.listen={server.address}")
    assert (serving.returncode, serving.stdout.strip()) == (0, f"The server at {server.address} serves.")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        missing = command("health", "--address", address, "--timeout", "2")
    assert missing.returncode == 1
    assert f"no server answers at {address}" in said_in_one_line(missing)


def watch_health(channel: grpc.Channel, service: str) -> Any:
    """The stream of a service's health. The stub is typed without its methods."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return stub.Watch(health_pb2.HealthCheckRequest(service=service))


def start_run(channel: grpc.Channel, code: str) -> Any:
    """A stream of a run whose code has begun to print."""
    tool = pb.Tool(code_interpreter=pb.CodeInterpreterTool())
    assistant = pb.AssistantServiceStub(channel).CreateAssistant(pb.CreateAssistantRequest(tools=[tool])).assistant
    message = pb.MessageInput(text=f"```python\n{code}\n```")
    thread = pb.ThreadServiceStub(channel).CreateThread(pb.CreateThreadRequest(messages=[message])).thread
    run = pb.CreateRunRequest(thread_id=thread.id, assistant_id=assistant.id)
    stream = pb.RunServiceStub(channel).CreateRunStream(pb.CreateRunStreamRequest(run=run))
    for item in stream:
        calls = item.event.run_step_delta.tool_calls
        if any("begun" in output.output.text for call in calls for output in call.code_interpreter.outputs):
            break
    return stream
