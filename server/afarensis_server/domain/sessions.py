"""Sessions of the code interpreter."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class SessionStatus(StrEnum):
    ACTIVE = "active"
    CLOSED = "closed"
    EXPIRED = "expired"
    #: Its server ended while it was open.
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What one session may use. Every value comes from a documented setting."""

    #: Memory of the interpreter and all it starts, in bytes.
    memory_bytes: int
    #: CPU cores the session may keep busy.
    cpu_cores: float
    #: Processes and threads at one time.
    processes: int
    #: Open file descriptors of one process.
    open_files: int
    #: Bytes the session may write below /mnt/data, and again below /tmp.
    disk_bytes: int
    #: Files and directories the session may create below /mnt/data, and again below /tmp.
    disk_inodes: int
    #: Bytes of stdout and stderr of one execution that are passed on; the rest is counted and dropped.
    output_bytes: int
    #: Bytes of all displays of one execution that are passed on.
    display_bytes: int


@dataclass(frozen=True, slots=True)
class Session:
    """One interpreter with its files: of a thread, or standing alone (``thread_id`` is None)."""

    id: str
    project: str
    create_time: datetime
    status: SessionStatus
    thread_id: str | None
    limits: SessionLimits
    #: Seconds it may be idle, and seconds it may be open in all.
    idle_seconds: float
    life_seconds: float
    last_active_time: datetime
    #: When it ends if nothing is executed before.
    expire_time: datetime
    close_time: datetime | None = None
    #: Input files, in the order given.
    file_ids: tuple[str, ...] = ()
    name: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    #: The server that has it, by the name it has in leases.
    owner: str = ""


@dataclass(frozen=True, slots=True)
class SessionFile:
    """A file below /mnt/data of an open session, as it is now. ``path`` is absolute."""

    path: str
    size_bytes: int
    modify_time: datetime
    #: The server's file with the same content, if there is one.
    file_id: str | None
    #: Whether it is an input that code has not changed.
    is_input: bool


@dataclass(frozen=True, slots=True)
class KeptFile:
    """What lies at a path below /mnt/data of a thread, relative to it.

    ``file_id`` is None where code deleted an input. ``input_id`` names the input that was given under this path.
    """

    path: str
    file_id: str | None
    input_id: str | None = None
