"""What each part of the server is told: its own settings and limits, out of the server's."""

from pathlib import Path
from typing import TypedDict

from . import __version__
from .assistants.service import AssistantLimits
from .domain.sessions import SessionLimits
from .files.links import LinkSettings
from .files.service import FileLimits
from .files.uploads import UploadLimits
from .http.endpoint import HttpLimits
from .http.server import HttpSettings
from .refused import Refused
from .rpc.server import RpcSettings
from .runs.conversation import ConversationLimits
from .runs.engine import EngineSettings
from .runs.fields import RunLimits
from .runs.models.retry import RetrySettings
from .runs.prompt import PromptLimits
from .sandbox.docker import DockerSandboxSettings, InputMode
from .sandbox.local import CgroupMode, LocalSandboxSettings
from .sessions.outputs import OutputLimits
from .sessions.settings import SessionSettings
from .settings import LEAST, Settings
from .threads.service import ThreadLimits
from .validation import SharedLimits

# --- the edges --------------------------------------------------------------------------------------------------------


def rpc_settings(settings: Settings) -> RpcSettings:
    section = settings.server
    return RpcSettings(
        host=section.host,
        port=section.port,
        reflection=section.reflection,
    )


def http_settings(settings: Settings) -> HttpSettings:
    section = settings.http
    return HttpSettings(
        host=section.host,
        port=section.port,
        file_bytes=settings.files.max_bytes,
        part_bytes=settings.files.part_bytes,
        page_files=section.page_files,
        container_page_files=section.container_page_files,
        limits=HttpLimits(
            body_bytes=section.body_bytes,
            json_depth=settings.limits.json_depth,
            form_bytes=section.form_bytes,
            body_seconds=section.body_seconds,
        ),
        head_seconds=section.head_seconds,
        host_names=tuple(name.strip() for name in section.host_names.split(",") if name.strip()),
        heartbeat_seconds=section.heartbeat_seconds,
        poll_ms=section.poll_ms,
    )


# --- the nouns --------------------------------------------------------------------------------------------------------


def _shared_limits(settings: Settings) -> SharedLimits:
    section = settings.limits
    return SharedLimits(
        metadata_pairs=section.metadata_pairs,
        metadata_key_characters=section.metadata_key_characters,
        metadata_value_characters=section.metadata_value_characters,
        function_name_characters=section.function_name_characters,
        temperature=section.temperature,
        execution_seconds=settings.sandbox.max_execution_seconds,
        reasoning_effort_characters=section.reasoning_effort_characters,
        request_id_characters=section.request_id_characters,
        json_depth=section.json_depth,
    )


def assistant_limits(settings: Settings) -> AssistantLimits:
    section = settings.limits
    return AssistantLimits(
        name_characters=section.name_characters,
        description_characters=section.description_characters,
        instructions_characters=section.instructions_characters,
        tools=section.assistant_tools,
        code_interpreter_files=section.assistant_files,
        shared=_shared_limits(settings),
    )


def thread_limits(settings: Settings) -> ThreadLimits:
    section = settings.limits
    return ThreadLimits(
        messages=section.thread_messages,
        initial_messages=section.messages_per_call,
        text_characters=section.message_characters,
        content_parts=section.message_parts,
        attachments=section.message_attachments,
        code_interpreter_files=section.thread_files,
        image_url_characters=section.image_url_characters,
        image_bytes=section.image_bytes,
        shared=_shared_limits(settings),
    )


def file_limits(settings: Settings) -> FileLimits:
    section = settings.files
    return FileLimits(
        file_bytes=section.max_bytes,
        minimum_ttl_seconds=section.min_ttl_seconds,
        maximum_ttl_seconds=section.max_ttl_seconds,
        shared=_shared_limits(settings),
    )


def link_settings(settings: Settings) -> LinkSettings:
    return LinkSettings(settings.http.link_seconds, settings.http.max_link_seconds)


def upload_limits(settings: Settings) -> UploadLimits:
    section = settings.files
    return UploadLimits(
        part_bytes=section.part_bytes,
        parts=section.upload_parts,
        factor=section.upload_factor,
        seconds=section.upload_seconds,
        pending=section.pending_uploads,
        shared=_shared_limits(settings),
    )


def run_limits(settings: Settings) -> RunLimits:
    return RunLimits(
        instructions_characters=settings.limits.instructions_characters,
        tools=settings.limits.run_tools,
        minimum_tokens=settings.limits.minimum_tokens,
        additional_messages=settings.limits.messages_per_call,
        ttl_seconds=settings.runs.ttl_seconds,
        max_ttl_seconds=settings.runs.max_ttl_seconds,
        per_project=settings.runs.per_project,
        tool_output_characters=settings.limits.tool_output_characters,
        shared=_shared_limits(settings),
    )


def prompt_limits(settings: Settings) -> PromptLimits:
    section = settings.runs
    return PromptLimits(
        history_tokens=section.history_tokens,
        output_characters=section.prompt_output_characters,
        tool_turns=section.prompt_tool_turns,
        tool_turn_characters=section.prompt_tool_turn_characters,
        files=section.prompt_files,
        images=section.prompt_images,
        image_bytes=section.prompt_image_bytes,
        images_bytes=section.prompt_images_bytes,
        cache_bytes=section.prompt_cache_bytes,
    )


def engine_settings(settings: Settings) -> EngineSettings:
    section = settings.runs
    return EngineSettings(
        concurrent_runs=section.concurrent,
        lease_seconds=section.lease_seconds,
        cancel_grace_seconds=section.cancel_grace_seconds,
        conversation=ConversationLimits(model_calls=section.model_calls),
    )


def retry_settings(settings: Settings) -> RetrySettings:
    section = settings.models
    return RetrySettings(
        backoff_seconds=section.backoff_seconds,
        max_backoff_seconds=section.max_backoff_seconds,
        max_retry_after_seconds=section.max_retry_after_seconds,
    )


# --- sessions ---------------------------------------------------------------------------------------------------------


def _session_limits(settings: Settings) -> SessionLimits:
    """What a session may use whose creator does not say."""
    section = settings.sandbox
    return SessionLimits(
        memory_bytes=section.memory_bytes,
        cpu_cores=section.cpu_cores,
        processes=section.processes,
        open_files=section.open_files,
        disk_bytes=section.disk_bytes,
        disk_inodes=section.disk_inodes,
        output_bytes=section.output_bytes,
        display_bytes=section.display_bytes,
    )


def session_settings(settings: Settings) -> SessionSettings:
    section = settings.sandbox
    return SessionSettings(
        limits=_session_limits(settings),
        least=SessionLimits(**LEAST, output_bytes=1, display_bytes=1),
        outputs=OutputLimits(
            inline_bytes=section.inline_display_bytes,
            files=section.kept_files,
            bytes=section.kept_bytes,
            seconds=section.keep_seconds,
        ),
        idle_seconds=section.idle_seconds,
        life_seconds=section.life_seconds,
        max_life_seconds=section.max_life_seconds,
        execution_seconds=section.execution_seconds,
        max_execution_seconds=section.max_execution_seconds,
        code_bytes=settings.limits.code_bytes,
        shared=_shared_limits(settings),
    )


class _DriverSettings(TypedDict):
    """What every driver is told: the fields of `sandbox.shared.settings`."""

    work_directory: Path
    pool_size: int
    usual_limits: SessionLimits
    max_sessions: int
    grace_seconds: float
    start_seconds: float
    answer_seconds: float
    allow_missing_layers: bool


def _driver_settings(settings: Settings, directory: Path) -> _DriverSettings:
    section = settings.sandbox
    return {
        "work_directory": directory / "sandbox",
        "pool_size": section.pool_size,
        "usual_limits": _session_limits(settings),
        "max_sessions": section.max_sessions,
        "grace_seconds": section.grace_seconds,
        "start_seconds": section.start_seconds,
        "answer_seconds": section.answer_seconds,
        "allow_missing_layers": section.allow_missing_layers,
    }


def local_settings(settings: Settings, directory: Path) -> LocalSandboxSettings:
    section = settings.sandbox
    return LocalSandboxSettings(
        **_driver_settings(settings, directory),
        guest_python=_guest_python(section.guest_python),
        first_user=section.first_user,
        spawns_per_zygote=section.spawns_per_zygote,
        max_open_files=section.open_files,
        cgroups=CgroupMode(section.cgroups),
    )


def docker_settings(settings: Settings, directory: Path) -> DockerSandboxSettings:
    engine = settings.docker
    return DockerSandboxSettings(
        **_driver_settings(settings, directory),
        image=engine.image or f"afarensis-sandbox:{__version__}",
        host=engine.host,
        certificates=engine.certificates,
        runtime=engine.runtime,
        inputs=InputMode(engine.inputs),
        copy_bytes=engine.copy_bytes,
        overhead_bytes=engine.overhead_bytes,
        input_inodes=engine.input_inodes,
        warm=engine.warm,
        engine_seconds=engine.engine_seconds,
        window_bytes=engine.window_bytes,
    )


def _guest_python(configured: Path | None) -> Path:
    if configured is not None:
        return configured.expanduser().absolute()
    # server/afarensis_server/parts.py: the checkout is two levels above the package.
    path = Path(__file__).parents[2] / ".guest" / "bin" / "python"
    if not path.exists():
        raise Refused(
            "There is no Python for the code that is run. Name one with the packages that code may import in the "
            "setting sandbox.guest_python (AFARENSIS_SANDBOX_GUEST_PYTHON); in a checkout, `make setup` makes one."
        )
    return path
