"""What sessions may use, and how long they live."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..sandbox.driver import SessionLimits
from ..validation import SharedLimits
from .outputs import OutputLimits


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How long sessions live and what one may use."""

    limits: SessionLimits
    outputs: OutputLimits = OutputLimits()
    #: What every session needs for its interpreter; the creator of one may choose limits between these and the above.
    least: SessionLimits = SessionLimits(
        memory_bytes=64 * 1024 * 1024,
        cpu_cores=0.05,
        processes=4,
        open_files=32,
        disk_bytes=1024 * 1024,
        disk_inodes=16,
        output_bytes=1,
        display_bytes=1,
    )
    #: Files that the creator of a session, and who adds more, may put into it.
    files: int = 20
    #: Seconds without an execution after which a session ends.
    idle_seconds: float = 1_200.0
    #: Seconds after which a session ends once it is idle, however often it was used.
    life_seconds: float = 3_600.0
    #: The longest life that the creator of a session may choose.
    max_life_seconds: float = 86_400.0
    #: Seconds that one execution may take when the caller does not say.
    execution_seconds: float = 120.0
    #: Seconds that one execution may take at most.
    max_execution_seconds: float = 600.0
    #: Bytes of the code of one execution that a client asks for.
    code_bytes: int = 1024 * 1024
    shared: SharedLimits = SharedLimits()


@dataclass(frozen=True, slots=True)
class SessionWishes:
    """What the creator of a session may choose; None takes the server's setting."""

    limits: SessionLimits | None = None
    idle_seconds: float | None = None
    life_seconds: float | None = None
    name: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


#: Everything as the server has it.
NO_WISHES = SessionWishes()
