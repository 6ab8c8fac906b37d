"""Settings of the docker driver."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..shared.settings import SandboxSettings


class InputMode(StrEnum):
    """How input files get into a container."""

    #: By a read-only mount where the engine sees the server's files, else streamed.
    AUTO = "auto"
    MOUNT = "mount"
    STREAM = "stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerSandboxSettings(SandboxSettings):
    """How the docker driver runs sessions. What one session may use comes with each session."""

    #: The image of ``deploy/sandbox.Dockerfile``: a name, or an id for one build alone.
    image: str
    #: Where the engine listens. Empty: as for the engine's own command, from DOCKER_HOST and its companions.
    host: str = ""
    #: The directory of ca.pem, cert.pem and key.pem for an engine that is reached by TLS.
    certificates: Path | None = None
    #: The engine's name of the runtime, like runsc. Empty: the engine's default.
    runtime: str = ""
    inputs: InputMode = InputMode.AUTO
    #: Bytes up to which an input that is mounted is copied into the session, so that code can write to it in place.
    copy_bytes: int = 8 * 2**20
    #: Bytes of memory that a container may use on top of its session's, for what its agent has imported.
    overhead_bytes: int = 256 * 2**20
    #: Inodes of /mnt/data that a session gets for its input files, on top of its own.
    input_inodes: int = 512
    #: Import numpy, pandas and pyplot ahead in each container.
    warm: bool = True
    #: Seconds within which the engine must answer.
    engine_seconds: float = 60.0
    #: Bytes of one execution's output, or of one file, that may lie unread in the server.
    window_bytes: int = 2**20
