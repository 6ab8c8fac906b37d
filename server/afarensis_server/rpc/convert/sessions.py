"""Sessions of the code interpreter."""

from dataclasses import replace

from afarensis import v1 as pb

from ...domain.sessions import Session, SessionFile, SessionLimits, SessionStatus
from ...sessions.settings import SessionSettings, SessionWishes
from ...validation import Violations, check_file_ids, check_metadata, check_request_id
from .values import duration_message, enum_numbers, enum_value, inverse, positive_seconds, timestamp_message

_NAME_CHARACTERS = 256

_STATUSES = enum_numbers(pb.SessionStatus, "SESSION_STATUS_", SessionStatus)


def session_message(session: Session, active_execution_id: str = "") -> pb.Session:
    is_active = session.status is SessionStatus.ACTIVE
    return pb.Session(
        id=session.id,
        create_time=timestamp_message(session.create_time),
        thread_id=session.thread_id or "",
        name=session.name,
        status=_STATUSES[session.status],
        last_active_time=timestamp_message(session.last_active_time),
        expire_time=timestamp_message(session.expire_time) if is_active else None,
        close_time=timestamp_message(session.close_time),
        idle_timeout=duration_message(session.idle_seconds),
        lifetime=duration_message(session.life_seconds),
        limits=_limits_message(session.limits),
        file_ids=session.file_ids,
        metadata=session.metadata,
        active_execution_id=active_execution_id,
    )


def _limits_message(limits: SessionLimits) -> pb.SessionLimits:
    return pb.SessionLimits(
        memory_bytes=limits.memory_bytes,
        cpu_cores=limits.cpu_cores,
        processes=limits.processes,
        open_files=limits.open_files,
        disk_bytes=limits.disk_bytes,
        disk_inodes=limits.disk_inodes,
        output_bytes=limits.output_bytes,
        display_bytes=limits.display_bytes,
    )


def session_file_message(file: SessionFile) -> pb.SessionFile:
    return pb.SessionFile(
        path=file.path,
        size_bytes=file.size_bytes,
        modify_time=timestamp_message(file.modify_time),
        file_id=file.file_id or "",
        input=file.is_input,
    )


def session_status_value(number: int) -> SessionStatus | None:
    """None stands for all."""
    found = Violations()
    status = enum_value(number, inverse(_STATUSES), "status", found)
    found.check()
    return status


def session_wishes(request: pb.CreateSessionRequest, settings: SessionSettings) -> SessionWishes:
    """What the creator of a session chooses, within what the server allows."""
    found = Violations(settings.shared)
    limits = _limits_value(request.limits, settings, found)
    life = settings.life_seconds
    if request.HasField("lifetime"):
        life = positive_seconds(request.lifetime, "lifetime", settings.max_life_seconds, found)
    idle = min(settings.idle_seconds, life)
    if request.HasField("idle_timeout"):
        idle = positive_seconds(
            request.idle_timeout,
            "idle_timeout",
            life,
            found,
            maximum_is="which is its lifetime (ask for a longer one too)",
        )
    check_request_id(found, request.request_id)
    found.string("name", request.name, maximum=_NAME_CHARACTERS)
    check_metadata(found, "metadata", request.metadata)
    check_file_ids(found, "file_ids", request.file_ids, maximum=settings.files)
    found.check()
    return SessionWishes(
        limits=limits, idle_seconds=idle, life_seconds=life, name=request.name, metadata=dict(request.metadata)
    )


def _limits_value(message: pb.SessionLimits, settings: SessionSettings, found: Violations) -> SessionLimits:
    # What the server is configured with is both the default and the most.
    wanted = {field.name: value for field, value in message.ListFields()}
    for name, value in wanted.items():
        least, most = getattr(settings.least, name), getattr(settings.limits, name)
        found.number(f"limits.{name}", value, minimum=least, maximum=most)
    return replace(settings.limits, **wanted)
