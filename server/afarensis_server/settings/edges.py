"""How the server is reached: by gRPC and over HTTP."""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ByteSize, Field, PositiveFloat, PositiveInt, field_validator, model_validator

from .base import KIB, MIB, Bytes, Section


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
        if not self.insecure_bind and not is_loopback(self.host):
            raise ValueError(
                f"listen would let other machines connect to {self.host} without encryption and authentication; "
                "if that is wanted, set server.insecure_bind (--insecure-bind)"
            )
        return self


class HttpSection(Section):
    """The Assistants API over HTTP, for programs that were written for it."""

    listen: str = ""
    """The address to serve HTTP on, as `host:port`, next to gRPC; empty: none. Clients take `http://host:port/v1` for
    their base URL. Port 0 takes a free one. What `server.insecure_bind` says counts here, too."""
    head_seconds: PositiveFloat = 30.0
    """How long a client may take to send the head of a request, which is all before its body; then the connection is
    closed. One that had a request before is closed after 5 seconds in which no other one begins."""
    body_bytes: Bytes = ByteSize(8 * MIB)
    """Bytes of the body of a request in JSON. Files come as forms, and may be as large as `files.max_bytes` says."""
    form_bytes: Annotated[ByteSize, Field(ge=4 * KIB)] = ByteSize(1 * MIB)
    """Bytes of a form beside the file in it: its other fields, and what separates them."""
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
    page_files: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    """Files of one page of the list of files, also when the client names no number. Over gRPC a page has up to 100."""
    container_page_files: PositiveInt = 100
    """Files of one page of the list of a container's files."""
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


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
