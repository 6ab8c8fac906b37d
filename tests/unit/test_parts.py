"""Every limit and setting of a part comes from the settings of the server, with the same default."""

from dataclasses import fields

from afarensis_server import parts
from afarensis_server.assistants.service import AssistantLimits
from afarensis_server.configuration import load
from afarensis_server.endpoints import model_endpoints
from afarensis_server.files.service import FileLimits
from afarensis_server.files.uploads import UploadLimits
from afarensis_server.rpc.server import RpcSettings
from afarensis_server.runs.engine import EngineSettings
from afarensis_server.runs.fields import RunLimits
from afarensis_server.runs.models.endpoint import EndpointSettings
from afarensis_server.runs.models.retry import RetrySettings
from afarensis_server.runs.prompt import PromptLimits
from afarensis_server.sandbox.local import LocalSandboxSettings
from afarensis_server.sessions.settings import SessionSettings
from afarensis_server.settings import EndpointSection, OpenAISection, SandboxSection, Settings
from afarensis_server.threads.fields import ThreadLimits
from afarensis_server.validation import SharedLimits

SETTINGS = Settings()


def test_limits_of_requests_have_the_same_defaults() -> None:
    assert parts._shared_limits(SETTINGS) == SharedLimits()
    assert parts.assistant_limits(SETTINGS) == AssistantLimits()
    assert parts.thread_limits(SETTINGS) == ThreadLimits()
    assert parts.file_limits(SETTINGS) == FileLimits()
    assert parts.upload_limits(SETTINGS) == UploadLimits()
    assert parts.run_limits(SETTINGS) == RunLimits()


def test_settings_of_parts_have_the_same_defaults() -> None:
    assert parts.rpc_settings(SETTINGS) == RpcSettings()
    assert parts.engine_settings(SETTINGS) == EngineSettings()
    built = parts.session_settings(SETTINGS)
    assert built == SessionSettings(limits=built.limits)
    assert parts.prompt_limits(SETTINGS) == PromptLimits()


def test_settings_of_the_sandbox_have_the_same_names_and_defaults() -> None:
    section = SandboxSection()
    for field in fields(LocalSandboxSettings):
        # Those of sessions are limits of their own.
        if field.name not in ("guest_python", "work_directory", "usual_limits"):
            # What a session may have is the most that any may have.
            name = "open_files" if field.name == "max_open_files" else field.name
            assert getattr(section, name) == field.default, field.name


def test_settings_of_endpoints_have_the_same_names_and_defaults() -> None:
    assert parts.retry_settings(SETTINGS) == RetrySettings()
    section, table = OpenAISection(), EndpointSection(name="local")
    for field in fields(EndpointSettings):
        if field.name not in ("base_url", "api_key", "name", "omit"):
            assert (getattr(table, field.name) or None) == field.default, field.name
        if field.name in OpenAISection.model_fields and field.name not in ("base_url", "api_key"):
            assert (getattr(section, field.name) or None) == field.default, field.name
    (built,) = model_endpoints(load({"openai.base_url": "http://host/v1"}).settings)
    assert built == EndpointSettings("http://host/v1")
    (built,) = model_endpoints(load({"models.endpoints": '[{"name": "a", "base_url": "http://host/v1"}]'}).settings)
    assert built == EndpointSettings("http://host/v1", name="a")
