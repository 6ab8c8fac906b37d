"""Settings that every driver has."""

from dataclasses import dataclass
from pathlib import Path

from ..driver import SessionLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """How a driver runs sessions. What one session may use comes with each session."""

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
    #: Seconds until what makes sessions must have started and imported everything, and a session must be up.
    start_seconds: float = 60.0
    #: Seconds within which the processes behind the sandbox must answer, or what was asked for fails.
    answer_seconds: float = 15.0
    #: Open sessions although an essential layer of isolation is missing.
    allow_missing_layers: bool = False
