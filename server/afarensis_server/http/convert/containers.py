"""Containers, which are sessions, and their files."""

import base64
import binascii
import re
from dataclasses import replace

from ...domain.sessions import Session, SessionFile, SessionLimits, SessionStatus
from ...sandbox.driver import DATA_DIRECTORY
from ...sessions.settings import SessionSettings, SessionWishes
from ...validation import Reason, check_file_ids, echo
from ..fields import Fields
from .values import Json, seconds

_MEMORY = re.compile(r"([0-9]{1,4})g")
_GIB = 1024**3
FILE_PREFIX = "cfile_"
_NAME_CHARACTERS = 256


def container_json(session: Session) -> Json:
    return {
        "id": session.id,
        "object": "container",
        "created_at": seconds(session.create_time),
        "status": "running" if session.status is SessionStatus.ACTIVE else "expired",
        "expires_after": {"anchor": "last_active_at", "minutes": max(1, round(session.idle_seconds / 60))},
        "last_active_at": seconds(session.last_active_time),
        "memory_limit": f"{max(1, session.limits.memory_bytes // _GIB)}g",
        "name": session.name,
    }


def container_file_json(session_id: str, file: SessionFile) -> Json:
    return {
        "id": file_id_of(file.path),
        "object": "container.file",
        "created_at": seconds(file.modify_time),
        "bytes": file.size_bytes,
        "container_id": session_id,
        "path": file.path,
        "source": "user" if file.is_input else "assistant",
    }


def file_id_of(path: str) -> str:
    """The id of a file is its path: what lies there may change, and has no other name."""
    relative = path.removeprefix(f"{DATA_DIRECTORY}/")
    return FILE_PREFIX + base64.urlsafe_b64encode(relative.encode()).rstrip(b"=").decode()


def path_of(file_id: str) -> str | None:
    """The path that an id stands for; None where it is none of ours."""
    coded = file_id.removeprefix(FILE_PREFIX)
    try:
        relative = base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)).decode()
    except (binascii.Error, ValueError):
        return None
    return f"{DATA_DIRECTORY}/{relative}" if file_id.startswith(FILE_PREFIX) and relative else None


def container_wishes(fields: Fields, settings: SessionSettings) -> tuple[list[str], SessionWishes]:
    """The files of a container to create, and what else its creator chooses. Raises Refused."""
    found = fields.found
    name = fields.string("name") or ""
    found.string("name", name, maximum=_NAME_CHARACTERS)
    file_ids = fields.strings("file_ids") or []
    check_file_ids(found, "file_ids", file_ids, maximum=settings.files)
    limits = _limits_value(fields, settings.limits)
    idle = min(settings.idle_seconds, settings.life_seconds)
    life = settings.life_seconds
    if (after := fields.nested("expires_after")) is not None:
        after.choice("anchor", ("last_active_at",))
        minutes = after.integer("minutes")
        if minutes is None:
            after.required("minutes")
        else:
            most = int(settings.max_life_seconds // 60)
            found.number("expires_after.minutes", minutes, minimum=1, maximum=most)
            idle = minutes * 60.0
            life = max(life, idle)
        after.finish()
    fields.finish()
    found.check()
    return file_ids, SessionWishes(limits=limits, idle_seconds=idle, life_seconds=life, name=name)


def _limits_value(fields: Fields, limits: SessionLimits) -> SessionLimits:
    given = fields.string("memory_limit")
    if given is None:
        return limits
    size = _MEMORY.fullmatch(given)
    if size is None or not 0 < int(size[1]) * _GIB <= limits.memory_bytes:
        most = f"{limits.memory_bytes // _GIB}g" if limits.memory_bytes >= _GIB else "less than 1g"
        text = (
            f"Invalid 'memory_limit': '{echo(given)}'. Expected a size like '1g'; a session of this server has {most}."
        )
        fields.found.add("memory_limit", Reason.INVALID_VALUE, text)
        return limits
    return replace(limits, memory_bytes=int(size[1]) * _GIB)
