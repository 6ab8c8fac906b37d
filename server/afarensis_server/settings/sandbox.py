"""Where code runs, and what it may use."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ByteSize, Field, PositiveFloat, PositiveInt, model_validator

from .base import GIB, KIB, MIB, Bytes, Section

#: The least of each limit with which an interpreter opens, imports numpy, pandas and pyplot, and saves a small plot.
LEAST: Mapping[str, Any] = {
    "memory_bytes": 64 * MIB,
    "cpu_cores": 0.05,
    "processes": 4,
    "open_files": 32,
    "disk_bytes": 1 * MIB,
    "disk_inodes": 16,
}


def _enough(name: str) -> Callable[[float], float]:
    least: float = LEAST[name]

    def check(value: float) -> float:
        if value >= least:
            return value
        if name.endswith("_bytes"):
            raise ValueError(
                f"{int(value)} bytes is too little for an interpreter; the least is {least // MIB:g}MiB. "
                "Sizes without a unit are bytes"
            )
        raise ValueError(f"{value:g} is too little for an interpreter; the least is {least:g}")

    return check


class SandboxSection(Section):
    """Where code runs, and what it may use."""

    driver: Literal["local", "docker"] = "local"
    """What isolates sessions: `local` uses the kernel's namespaces, without any daemon; `docker` gives each session a
    container of an engine (section [docker])."""
    guest_python: Path | None = None
    """The Python that runs the code, with what the code may import. Unset: `.guest/bin/python` of the checkout that the
    server runs from."""
    allow_missing_layers: bool = False
    """Whether to start although an essential layer of isolation is missing on this host (`doctor` lists them)."""
    cgroups: Literal["auto", "required", "off"] = "auto"
    """Whether to use control groups for memory, CPU and processes: where the host has them, always (the server does not
    start without), or never."""
    first_user: PositiveInt = 1_900_000_000
    """The first of the user ids that sessions get, one each, when the server is root. Nobody else may have them."""
    start_seconds: PositiveFloat = 60.0
    """How long an interpreter may take to start."""
    answer_seconds: PositiveFloat = 15.0
    """How long the processes behind the sandbox may take to answer before what was asked of them fails."""
    grace_seconds: PositiveFloat = 3.0
    """How long interrupted code may take to end by itself before its interpreter is killed."""
    spawns_per_zygote: PositiveInt = 1_000
    """Interpreters that a zygote starts before a fresh one takes over, since they share their memory layout."""
    pool_size: Annotated[int, Field(ge=0)] = 2
    """Sessions that are made ahead, so that one opens at once: with the limits that were asked for most of late."""
    max_sessions: PositiveInt = 1_000
    """Sessions that are open at the same time; more are refused with SANDBOX_CAPACITY."""
    memory_bytes: Annotated[ByteSize, AfterValidator(_enough("memory_bytes"))] = ByteSize(1 * GIB)
    """Memory of one session's interpreter and all it starts; at least 64 MiB."""
    cpu_cores: Annotated[float, AfterValidator(_enough("cpu_cores"))] = 1.0
    """CPU cores that one session may keep busy; at least 0.05."""
    processes: Annotated[int, AfterValidator(_enough("processes"))] = 128
    """Processes and threads of one session at a time; at least 4."""
    open_files: Annotated[int, AfterValidator(_enough("open_files"))] = 1_024
    """Open file descriptors of one process in a session; at least 32."""
    disk_bytes: Annotated[ByteSize, AfterValidator(_enough("disk_bytes"))] = ByteSize(1 * GIB)
    """Bytes that one session may write below /mnt/data, and again below /tmp; at least 1 MiB."""
    disk_inodes: Annotated[int, AfterValidator(_enough("disk_inodes"))] = 10_000
    """Files and directories that one session may create below /mnt/data, and again below /tmp; at least 16."""
    output_bytes: Bytes = ByteSize(1 * MIB)
    """Bytes of standard output and error of one execution that are passed on; the rest is counted and dropped."""
    display_bytes: Bytes = ByteSize(16 * MIB)
    """Bytes of all displays of one execution that are passed on, each with 4 KiB on top; the rest is counted and
    dropped."""
    inline_display_bytes: Bytes = ByteSize(256 * KIB)
    """Bytes up to which a displayed value comes in place; a larger one is kept as a file."""
    kept_files: PositiveInt = 1_000
    """Files of one execution that get an id and are kept; the rest is told without, and stays in the session."""
    kept_bytes: Bytes = ByteSize(1 * GIB)
    """Bytes of all the files of one execution that are kept; what is above is told without an id."""
    keep_seconds: PositiveFloat = 30.0
    """How long keeping the files of one execution may take; what is left then is told without an id."""
    execution_seconds: PositiveFloat = 120.0
    """How long one execution may take when its caller does not say."""
    max_execution_seconds: PositiveFloat = 600.0
    """How long one execution may take at most."""
    idle_seconds: PositiveFloat = 1_200.0
    """How long a session stays open without an execution, when its creator does not say."""
    life_seconds: PositiveFloat = 3_600.0
    """How long a session stays open in all, when its creator does not say."""
    max_life_seconds: PositiveFloat = 86_400.0
    """How long a session stays open at most."""

    @model_validator(mode="after")
    def _check_order(self) -> "SandboxSection":
        if self.execution_seconds > self.max_execution_seconds:
            raise ValueError("execution_seconds must not be more than max_execution_seconds")
        if self.life_seconds > self.max_life_seconds:
            raise ValueError("life_seconds must not be more than max_life_seconds")
        return self


class DockerSection(Section):
    """Sessions in containers, where `sandbox.driver` is `docker`. What one session may use, the times and the pool are
    those of [sandbox]."""

    host: str = ""
    """Where the container engine listens: `unix:///run/user/1000/docker.sock`, `tcp://host:2376`, or, for Podman,
    `unix:///run/user/1000/podman/podman.sock`. Empty: as for the engine's own command, `DOCKER_HOST` with its
    companions, and else `unix:///var/run/docker.sock`."""
    certificates: Path | None = None
    """The directory of `ca.pem`, `cert.pem` and `key.pem` for an engine that is reached by TLS. Unset: as
    `DOCKER_TLS_VERIFY` and `DOCKER_CERT_PATH` say."""
    image: str = ""
    """The image that sessions run in, which `make sandbox-image` builds (for Podman with `DOCKER=podman`): a name, or
    an id for one build and no other. Empty: `afarensis-sandbox` of the server's version."""
    runtime: str = ""
    """The engine's name of the runtime: `runsc` for gVisor, which puts a kernel of its own between code and the host's.
    Empty: the engine's default. Podman takes only the one of its own configuration, and another one is refused."""
    inputs: Literal["auto", "mount", "stream"] = "auto"
    """How input files get into a container: by a read-only `mount` of their originals, or as a `stream`, which takes
    time, and of the session's disk. `auto` mounts where the engine is found to see the server's files."""
    copy_bytes: Annotated[ByteSize, Field(ge=0)] = ByteSize(8 * MIB)
    """Bytes up to which an input file that is mounted is copied into the session, as long as all copies take no
    more than a quarter of its disk. A larger one is a link to its original, which can be replaced, but not written to
    in place."""
    input_inodes: Annotated[int, Field(ge=0)] = 512
    """Files and directories below /mnt/data for a session's inputs, on top of `sandbox.disk_inodes`."""
    overhead_bytes: Bytes = ByteSize(256 * MIB)
    """Memory of a container on top of `sandbox.memory_bytes`, for what its agent has imported."""
    warm: bool = True
    """Whether each container imports numpy, pandas and pyplot before it takes code. Without, it starts ten times as
    fast and takes less memory, and the first code that needs them waits."""
    window_bytes: Annotated[ByteSize, Field(ge=64 * KIB, le=64 * MIB)] = ByteSize(1 * MIB)
    """Bytes of one execution's output, or of one file, that wait in the server for their reader; then code waits."""
    engine_seconds: PositiveFloat = 60.0
    """How long the engine may take to answer."""
