"""Settings of the local driver."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..shared.settings import SandboxSettings


class CgroupMode(StrEnum):
    #: Refuse to start without groups for memory, processor time and processes.
    REQUIRED = "required"
    #: Use what the host offers, version 2 or 1, or nothing.
    AUTO = "auto"
    #: Use none, even where there is one.
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSandboxSettings(SandboxSettings):
    """How the local driver runs sessions. What one session may use comes with each session."""

    #: The guest environment's interpreter, as in ``.guest/bin/python``.
    guest_python: Path
    #: The most open files that a session may have. Where sessions are the server's own user, the server must be allowed
    #: more: the kernel refuses it to pass on descriptors once they have as many on their way.
    max_open_files: int = 1024
    #: Host users given to sessions when the server is root, one each, from this number on: nobody else's. The default
    #: lies above all that Linux distributions and container tools hand out.
    first_user: int = 1_900_000_000
    #: Interpreters that a zygote starts before a fresh one takes over, since they share their memory layout.
    spawns_per_zygote: int = 1000
    cgroups: CgroupMode = CgroupMode.AUTO
