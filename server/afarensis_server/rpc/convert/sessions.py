"""Sessions of the code interpreter."""

from afarensis import v1 as pb

from ...domain.sessions import Session, SessionLimits, SessionStatus
from .values import duration_message, enum_numbers, timestamp_message

_STATUSES = enum_numbers(pb.SessionStatus, "SESSION_STATUS_", SessionStatus)


def session_message(session: Session) -> pb.Session:
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
