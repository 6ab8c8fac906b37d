"""Sessions of the code interpreter."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class SessionStatus(StrEnum):
    ACTIVE = "active"
    CLOSED = "closed"
    EXPIRED = "expired"
    #: Its server ended while it was open.
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Session:
    """One interpreter with its files: of a thread, or standing alone (``thread_id`` is None)."""

    id: str
    project: str
    create_time: datetime
    status: SessionStatus
    thread_id: str | None
    last_active_time: datetime
    #: When it ends if nothing is executed before.
    expire_time: datetime
    close_time: datetime | None = None
