"""Settings of the local driver."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..driver import SessionLimits


class CgroupMode(StrEnum):
    #: Refuse to start without groups for memory, processor time and processes.
    REQUIRED = "required"
    #: Use what the host offers, version 2 or 1, or nothing.
    AUTO = "auto"
    #: Use none, even where there is one.
    OFF = "off"


@dataclass(frozen=True, slots=True)
class LocalSandboxSettings:
    """How the local driver runs sessions. What one session may use comes with each session."""

    #: The guest environment's interpreter, as in ``.guest/bin/python``.
    guest_python: Path
    #: A directory of this driver alone: links to the input files of live sessions. On the blobs' file system, or inputs
    #: are copied. What an earlier driver left there is deleted.
    work_directory: Path
    #: Places for sessions that are kept ready, which hides what making one takes.
    pool_size: int = 2
    #: The limits that the first of them are made for. Unset: those of the first session.
    usual_limits: SessionLimits | None = None
    #: Sessions at one time; one more is SandboxFull.
    max_sessions: int = 1000
    #: Seconds that interrupted code gets to end by itself, before its interpreter is killed.
    grace_seconds: float = 3.0
    #: Seconds until a started zygote must have imported everything, and a session must be up.
    start_seconds: float = 60.0
    #: Seconds within which the processes behind the sandbox must answer, or what was asked for fails.
    answer_seconds: float = 15.0
    #: The most open files that a session may have. Where sessions are the server's own user, the server must be allowed
    #: more: the kernel refuses it to pass on descriptors once they have as many on their way.
    max_open_files: int = 1024
    #: Host users given to sessions when the server is root, one each, from this number on: nobody else's. The default
    #: lies above all that Linux distributions and container tools hand out.
    first_user: int = 1_900_000_000
    #: Interpreters that a zygote starts before a fresh one takes over, since they share their memory layout.
    spawns_per_zygote: int = 1000
    cgroups: CgroupMode = CgroupMode.AUTO
    #: Open sessions although an essential layer of isolation is missing on this host.
    allow_missing_layers: bool = False
