"""Every setting of the server, with its default and its meaning.

A setting is named by its section and its name: ``sandbox.pool_size`` in flags (``--set``) and in the TOML file,
``AFARENSIS_SANDBOX_POOL_SIZE`` in the environment. `configuration` loads them. The parts of the server do not know
this module: `parts` hands each what concerns it.
"""

import ipaddress
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

_KIB = 1024
_MIB = 1024 * _KIB
_GIB = 1024 * _MIB

Bytes = Annotated[ByteSize, Field(gt=0)]

#: The least of each limit with which an interpreter opens, imports numpy, pandas and pyplot, and saves a small plot.
LEAST: Mapping[str, Any] = {
    "memory_bytes": 64 * _MIB,
    "cpu_cores": 0.05,
    "processes": 4,
    "open_files": 32,
    "disk_bytes": 1 * _MIB,
    "disk_inodes": 16,
}


def _enough(name: str) -> Callable[[float], float]:
    least: float = LEAST[name]

    def check(value: float) -> float:
        if value >= least:
            return value
        if name.endswith("_bytes"):
            raise ValueError(
                f"{int(value)} bytes is too little for an interpreter; the least is {least // _MIB:g}MiB. "
                "Sizes without a unit are bytes"
            )
        raise ValueError(f"{value:g} is too little for an interpreter; the least is {least:g}")

    return check


class Section(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


class ServerSection(Section):
    """How the server is reached, and what it tells about itself."""

    listen: str = "127.0.0.1:50051"
    """The address to serve gRPC on, as `host:port`; an IPv6 address stands in brackets. Port 0 takes a free one."""
    insecure_bind: bool = False
    """Whether to serve on an address that other machines can reach, although connections are neither encrypted nor
    authenticated. Behind a proxy that does both, say yes."""
    data_dir: Path = Path("~/.local/share/afarensis")
    """The directory of all that is kept: the database, files, locks. One server at a time may use it."""
    reflection: bool = True
    """Whether clients like grpcurl can ask for the contract."""
    max_calls: PositiveInt = 1_000
    """Calls with one answer that are worked on at the same time; more are refused with TOO_MANY_CALLS."""
    max_streams: PositiveInt = 10_000
    """Streams and waiting calls that are open at the same time; more are refused with TOO_MANY_CALLS."""
    drain_seconds: Annotated[float, Field(ge=0)] = 30.0
    """How long runs at work may take to finish when the server is told to stop; then they wait for the next start."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important messages to log."""
    log_format: Literal["auto", "console", "json"] = "auto"
    """How to log: `console` for people, `json` for machines, `auto` for whichever reads standard error."""

    @property
    def host(self) -> str:
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])

    @property
    def reachable(self) -> str:
        """The address for clients on this machine: one that stands for all addresses is none to connect to."""
        own = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - recognised, not bound
        return f"{own.get(self.host, self.listen.rpartition(':')[0])}:{self.port}"

    @model_validator(mode="after")
    def _check_listen(self) -> "ServerSection":
        _, separator, port = self.listen.rpartition(":")
        if not separator or not self.host or not (port.isascii() and port.isdigit() and int(port) < 65536):
            raise ValueError(f"listen must be host:port, like 127.0.0.1:50051, not '{self.listen}'")
        if not self.insecure_bind and not _is_loopback(self.host):
            raise ValueError(
                f"listen would let other machines connect to {self.host} without encryption and authentication; "
                "if that is wanted, set server.insecure_bind (--insecure-bind)"
            )
        return self


def _from_json(value: object) -> object:
    """A list of tables as flags and variables have it."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value or "[]")
    except ValueError as error:
        raise ValueError(f'the value must be a JSON list like [{{"name": "local", ...}}], but {error}') from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class StoreSection(Section):
    """The database."""

    url: str = ""
    """Where the database is, as a SQLAlchemy URL. Empty: SQLite in the data directory."""
    readers: PositiveInt = 4
    """Threads, each with a connection, that read from the database."""


class FilesSection(Section):
    """Files."""

    max_bytes: Bytes = ByteSize(512 * _MIB)
    """The size of one file."""
    min_ttl_seconds: PositiveInt = 3_600
    """How long a file that expires is kept at least."""
    max_ttl_seconds: PositiveInt = 2_592_000
    """How long a file that expires is kept at most."""
    part_bytes: Bytes = ByteSize(64 * _MIB)
    """The size of one part of a file that comes in parts (`/v1/uploads`)."""
    upload_parts: PositiveInt = 1_000
    """Parts of one such file. Together they may have twice the bytes that were announced, so that one which went wrong
    can be sent again."""
    upload_seconds: PositiveFloat = 3_600.0
    """How long such a file may take, from the announcement to its completion. What came of it is deleted then."""


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
    memory_bytes: Annotated[ByteSize, AfterValidator(_enough("memory_bytes"))] = ByteSize(1 * _GIB)
    """Memory of one session's interpreter and all it starts; at least 64 MiB."""
    cpu_cores: Annotated[float, AfterValidator(_enough("cpu_cores"))] = 1.0
    """CPU cores that one session may keep busy; at least 0.05."""
    processes: Annotated[int, AfterValidator(_enough("processes"))] = 128
    """Processes and threads of one session at a time; at least 4."""
    open_files: Annotated[int, AfterValidator(_enough("open_files"))] = 1_024
    """Open file descriptors of one process in a session; at least 32."""
    disk_bytes: Annotated[ByteSize, AfterValidator(_enough("disk_bytes"))] = ByteSize(1 * _GIB)
    """Bytes that one session may write below /mnt/data, and again below /tmp; at least 1 MiB."""
    disk_inodes: Annotated[int, AfterValidator(_enough("disk_inodes"))] = 10_000
    """Files and directories that one session may create below /mnt/data, and again below /tmp; at least 16."""
    output_bytes: Bytes = ByteSize(1 * _MIB)
    """Bytes of standard output and error of one execution that are passed on; the rest is counted and dropped."""
    display_bytes: Bytes = ByteSize(16 * _MIB)
    """Bytes of all displays of one execution that are passed on, each with 4 KiB on top; the rest is counted and
    dropped."""
    inline_display_bytes: Bytes = ByteSize(256 * _KIB)
    """Bytes up to which a displayed value comes in place; a larger one is kept as a file."""
    kept_files: PositiveInt = 1_000
    """Files of one execution that get an id and are kept; the rest is told without, and stays in the session."""
    kept_bytes: Bytes = ByteSize(1 * _GIB)
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
    """Where the container engine listens: `unix:///run/user/1000/docker.sock`, or `tcp://host:2376`.
    Empty: as for the engine's own command, `DOCKER_HOST` with its companions, and else `unix:///var/run/docker.sock`."""
    certificates: Path | None = None
    """The directory of `ca.pem`, `cert.pem` and `key.pem` for an engine that is reached by TLS. Unset: as
    `DOCKER_TLS_VERIFY` and `DOCKER_CERT_PATH` say."""
    image: str = ""
    """The image that sessions run in, which `make sandbox-image` builds: a name, or an id for one build and no other.
    Empty: `afarensis-sandbox` of the server's version."""
    runtime: str = ""
    """The engine's name of the runtime: `runsc` for gVisor, which puts a kernel of its own between code and the host's.
    Empty: the engine's default."""
    inputs: Literal["auto", "mount", "stream"] = "auto"
    """How input files get into a container: by a read-only `mount` of their originals, or as a `stream`, which takes
    time, and of the session's disk. `auto` mounts where the engine is found to see the server's files."""
    copy_bytes: Annotated[ByteSize, Field(ge=0)] = ByteSize(8 * _MIB)
    """Bytes up to which an input file that is mounted is copied into the session, as long as all copies take no
    more than a quarter of its disk. A larger one is a link to its original, which can be replaced, but not written to
    in place."""
    input_inodes: Annotated[int, Field(ge=0)] = 512
    """Files and directories below /mnt/data for a session's inputs, on top of `sandbox.disk_inodes`."""
    overhead_bytes: Bytes = ByteSize(256 * _MIB)
    """Memory of a container on top of `sandbox.memory_bytes`, for what its agent has imported."""
    warm: bool = True
    """Whether each container imports numpy, pandas and pyplot before it takes code. Without, it starts ten times as
    fast and takes less memory, and the first code that needs them waits."""
    window_bytes: Annotated[ByteSize, Field(ge=64 * _KIB, le=64 * _MIB)] = ByteSize(1 * _MIB)
    """Bytes of one execution's output, or of one file, that wait in the server for their reader; then code waits."""
    engine_seconds: PositiveFloat = 60.0
    """How long the engine may take to answer."""


class RunsSection(Section):
    """How runs are worked on."""

    default_model: str = "direct"
    """The model of assistants that name none. `direct` needs no endpoint: it runs the code blocks it is given."""
    concurrent: PositiveInt = 200
    """Runs that are worked on at the same time; more wait."""
    per_project: Annotated[int, Field(ge=0)] = 0
    """Runs of one project that may be there at the same time, at work, waiting for a worker or for their client; more
    are refused with TENANT_RUN_LIMIT. 0: any number."""
    ttl_seconds: PositiveFloat = 600.0
    """How long a run may take until it expires, when its creator does not say."""
    max_ttl_seconds: PositiveFloat = 86_400.0
    """How long a run may take at most."""
    model_calls: PositiveInt = 100
    """Calls of the model in one run; a model that goes round in circles ends there."""
    lease_seconds: Annotated[float, Field(ge=5)] = 30.0
    """How long a worker may be silent until its run is taken up by another one."""
    cancel_grace_seconds: Annotated[float, Field(gt=0, le=60)] = 0.3
    """How long code of a run that is cancelled or expires may take to end by itself before it is killed."""
    history_tokens: Annotated[int, Field(ge=0)] = 100_000
    """Tokens of the thread's messages that the model reads, estimated, the newest first; 0: all of them. For runs that
    leave the choice to the server (truncation `auto`)."""
    prompt_output_characters: PositiveInt = 20_000
    """Characters of one execution's output that the model reads; the middle of more is left out."""
    prompt_tool_turns: Annotated[int, Field(ge=0)] = 3
    """Steps with code, or calls of functions, of a thread's earlier runs that the model reads again, so that it can say
    why it did what it did."""
    prompt_tool_turn_characters: PositiveInt = 4_000
    """Characters of the code, and of the output, of each call in those steps; the middle of more is left out."""
    prompt_files: Annotated[int, Field(ge=0)] = 50
    """Files below /mnt/data that the model is told of by name; of more it is told how many."""
    prompt_images: Annotated[int, Field(ge=0)] = 10
    """Images in one prompt: those of messages, and those that code showed; the newest are sent, the others named."""
    prompt_image_bytes: Bytes = ByteSize(20 * _MIB)
    """Bytes of one image that is sent to the model."""
    prompt_images_bytes: Bytes = ByteSize(20 * _MIB)
    """Bytes of all images in one prompt."""
    prompt_cache_bytes: Annotated[ByteSize, Field(ge=0)] = ByteSize(64 * _MIB)
    """Bytes of images that are kept in memory for the next model call, of all runs together."""

    @model_validator(mode="after")
    def _check_order(self) -> "RunsSection":
        if self.ttl_seconds > self.max_ttl_seconds:
            raise ValueError("ttl_seconds must not be more than max_ttl_seconds")
        return self


class EventsSection(Section):
    """How long events are kept."""

    keep_seconds: Annotated[float, Field(ge=0)] = 0.0
    """How long the events of runs and executions are kept after those began; 0: for ever. The last one of each stays,
    and none goes before its run has ended. Runs, steps and messages are not concerned; outputs of executions are."""


class Endpoint(Section):
    """What every endpoint of language models has."""

    base_url: str = ""
    """The endpoint up to and including its version, like `https://api.openai.com/v1`. Empty: there is none (in
    [models] with `anthropic`: `https://api.anthropic.com`)."""
    api_key: SecretStr = SecretStr("")
    """The key of the endpoint. Empty: none is sent."""
    concurrency: PositiveInt = 200
    """Calls at the same time; more wait in line, first come, first served."""
    timeout_seconds: PositiveFloat = 600.0
    """How long one attempt at an answer may take. No new attempt begins later than this after the first."""
    stall_seconds: PositiveFloat = 120.0
    """How long the endpoint may be silent: until an answer begins, and between any two bytes of it."""
    max_retries: Annotated[int, Field(ge=0)] = 2
    """How often a call that failed before anything of its answer was seen is tried again: no connection, status 408,
    409, 425, 429 or 5xx, or an error in the stream. Never beyond the time of the run."""
    context_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens of a prompt and its answer together that its models take. 0: nobody knows."""
    vision: bool = True
    """Whether its models see images."""
    think_tags: bool = True
    """Whether a `<think>` block at the beginning of an answer is the model's reasoning, which nobody is shown."""


class OpenAISection(Endpoint):
    """The language models of an OpenAI-compatible endpoint, which has the name `openai`. It serves every model that no
    endpoint of [models] names."""


class EndpointSection(Endpoint):
    """One of the endpoints in [models]."""

    name: str
    """What it is called in logs and errors; each endpoint has another name."""
    provider: str = "openai"
    """How to speak with it: `openai` for everything that has OpenAI's chat completions, or `anthropic`."""
    api_key_env: str = ""
    """The environment variable that holds its key, in place of `api_key`."""
    models: tuple[str, ...] = ("*",)
    """The models that go there: names, or beginnings of names followed by `*`. The longest that fits a model wins."""
    omit: tuple[str, ...] = ()
    """What its models do not know, so that it is never sent. `openai`: `stream_options`, `parallel_tool_calls`,
    `max_tokens` (`max_completion_tokens` takes its place), `tool_images`; `anthropic`: `forced_tools`,
    `output_format`, `eager_input_streaming`. Most of it is found out by itself."""
    max_output_tokens: PositiveInt = 16_384
    """Tokens of an answer when the run sets no limit; only `anthropic` wants one."""


class ModelsSection(Section):
    """The language models: endpoints side by side, and how calls of them are tried again."""

    endpoints: Annotated[tuple[EndpointSection, ...], BeforeValidator(_from_json)] = ()
    """Endpoints besides that of [openai], as tables `[[models.endpoints]]` in the file; elsewhere as JSON. Each has
    a `name`, `provider`, `base_url`, `api_key` or `api_key_env`, `models`, `omit`, `max_output_tokens`, and what
    [openai] has."""
    backoff_seconds: PositiveFloat = 0.5
    """The wait before a call is tried again; each further one is twice as long. Half of it to all of it is waited."""
    max_backoff_seconds: PositiveFloat = 30.0
    """The longest of these waits."""
    max_retry_after_seconds: PositiveFloat = 120.0
    """The longest wait that an endpoint may ask for (Retry-After). One that asks for more is not tried again."""


class LimitsSection(Section):
    """Limits of what clients send; the defaults are the Assistants API's where it had one."""

    metadata_pairs: PositiveInt = 16
    """Pairs in the metadata of one object."""
    metadata_key_characters: PositiveInt = 64
    """Characters of a key of metadata."""
    metadata_value_characters: PositiveInt = 512
    """Characters of a value of metadata."""
    function_name_characters: PositiveInt = 64
    """Characters of the name of a function or of a response format."""
    temperature: PositiveFloat = 2.0
    """The highest sampling temperature; the lowest is 0."""
    name_characters: PositiveInt = 256
    """Characters of the name of an assistant."""
    description_characters: PositiveInt = 512
    """Characters of the description of an assistant."""
    instructions_characters: PositiveInt = 256_000
    """Characters of the instructions of an assistant or a run."""
    assistant_tools: PositiveInt = 128
    """Tools of one assistant."""
    run_tools: PositiveInt = 20
    """Tools that a run may name in place of its assistant's."""
    assistant_files: PositiveInt = 20
    """Files of one assistant for the code interpreter."""
    thread_files: PositiveInt = 20
    """Files of one thread for the code interpreter."""
    thread_messages: PositiveInt = 100_000
    """Messages of one thread."""
    messages_per_call: PositiveInt = 100
    """Messages that are created together with a thread or a run."""
    message_characters: PositiveInt = 256_000
    """Characters of a text in a message."""
    message_parts: PositiveInt = 100
    """Parts of the content of one message."""
    message_attachments: PositiveInt = 20
    """Files attached to one message."""
    image_url_characters: PositiveInt = 8_192
    """Characters of the address of an image."""
    image_bytes: Bytes = ByteSize(20 * _MIB)
    """Bytes of an image in a message."""
    minimum_tokens: PositiveInt = 256
    """The smallest token budget of a run, of prompts and of completions."""
    tool_output_characters: PositiveInt = 512_000
    """Characters of one submitted tool output."""


class HttpSection(Section):
    """The Assistants API over HTTP, for programs that were written for it."""

    listen: str = ""
    """The address to serve HTTP on, as `host:port`, next to gRPC; empty: none. Clients take `http://host:port/v1` for
    their base URL. Port 0 takes a free one. What `server.insecure_bind` says counts here, too."""
    body_bytes: Bytes = ByteSize(8 * _MIB)
    """Bytes of the body of a request in JSON. Files come as forms, and may be as large as `files.max_bytes` says."""
    body_seconds: PositiveFloat = 30.0
    """How long a client may take to send a body in JSON, and how long it may send nothing of a form."""
    heartbeat_seconds: PositiveFloat = 15.0
    """The longest silence of a stream of events: then a comment is sent, which clients pass over."""
    host_names: str = ""
    """Names, separated by commas, by which clients may ask for the server, beside those of the loopback interface: what
    a proxy passes on. Others are refused, since a web page could have its name lead here. Empty: for a server on
    the loopback interface, no others; for one on another address, any."""
    public_url: str = ""
    """What links to files begin with, such as `https://files.example.com/v1`. Empty: the address that is served."""
    link_seconds: PositiveFloat = 3_600.0
    """How long a link to a file works when whoever asks for it does not say."""
    max_link_seconds: PositiveFloat = 604_800.0
    """How long a link to a file works at most."""
    poll_ms: PositiveInt = 250
    """How soon clients that poll are told to look at a run again, in milliseconds."""

    @property
    def host(self) -> str:
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if value and not (host and port.isdecimal() and int(port) < 65_536):
            raise ValueError(f"listen must be host:port, like 127.0.0.1:8080, not '{value}'")
        return value


class Settings(BaseSettings):
    """All settings."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix="AFARENSIS_",
        env_nested_delimiter="_",
        env_nested_max_split=1,
    )

    server: ServerSection = ServerSection()
    store: StoreSection = StoreSection()
    files: FilesSection = FilesSection()
    sandbox: SandboxSection = SandboxSection()
    docker: DockerSection = DockerSection()
    runs: RunsSection = RunsSection()
    events: EventsSection = EventsSection()
    openai: OpenAISection = OpenAISection()
    models: ModelsSection = ModelsSection()
    http: HttpSection = HttpSection()
    limits: LimitsSection = LimitsSection()

    @model_validator(mode="after")
    def _check_http(self) -> "Settings":
        if self.http.listen and not self.server.insecure_bind and not _is_loopback(self.http.host):
            raise ValueError(
                f"http.listen would let other machines connect to {self.http.host} without encryption and "
                "authentication; if that is wanted, set server.insecure_bind (--insecure-bind)"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is passed and nothing else: `configuration` merges the sources, since it tells them apart."""
        return (init_settings,)
