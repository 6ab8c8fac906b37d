"""The client: the stubs of every service over one channel, and what stubs make clumsy."""

import re
import threading
from functools import partial
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from google.protobuf.duration_pb2 import Duration

from afarensis import _transfer, v1
from afarensis._interceptors import CallInterceptor
from afarensis._retry import Retries
from afarensis._transfer import Progress
from afarensis.errors import Error
from afarensis.messages import message_file_ids, resolved_text
from afarensis.run_stream import RunStream, creation

#: Where a server listens by default.
DEFAULT_TARGET = "127.0.0.1:50051"

#: Seconds a unary call may take: a little more than the longest wait that the server offers (WaitRun).
DEFAULT_TIMEOUT = 660.0

# gRPC's own schemes, which it reads itself.
_GRPC_NAME = re.compile(r"(dns|ipv4|ipv6|unix|unix-abstract|vsock|xds):")
_HOST_AND_PORT = re.compile(r"(?P<host>[^\s:/?#@\[\]]+|\[[0-9a-fA-F:.]+(%\w+)?\])(:(?P<port>\d{1,5}))?")

# Messages hold up to 2 MiB of file content, or a page of long messages; gRPC's own limit of 4 MiB is too close.
_CHANNEL_OPTIONS = (("grpc.max_receive_message_length", 64 * 1024 * 1024),)


class Client:
    """A connection to an Afarensis server. Make one with ``afarensis.connect``; it may be shared by threads.

    Every call is there as in the contract, typed, and raises ``afarensis.Error`` when it fails, for example
    ``client.threads.CreateThread(CreateThreadRequest())``. The methods of the client itself try again when the server
    cannot be reached or says when to come back, as one does that restarts: they are safe to repeat. The calls of the
    stubs are made once.
    """

    assistants: v1.AssistantServiceStub
    threads: v1.ThreadServiceStub
    runs: v1.RunServiceStub
    files: v1.FileServiceStub
    sessions: v1.SessionServiceStub
    models: v1.ModelServiceStub
    usage: v1.UsageServiceStub
    events: v1.EventServiceStub

    def __init__(
        self, channel: grpc.Channel, *, api_key: str | None, timeout: float | None, give_up_after: float
    ) -> None:
        self._channel = channel
        self._give_up_after = give_up_after
        self._closed = threading.Event()
        self._reached = threading.Event()
        calls = grpc.intercept_channel(channel, CallInterceptor(api_key, timeout, self._reached))
        self.assistants = v1.AssistantServiceStub(calls)
        self.threads = v1.ThreadServiceStub(calls)
        self.runs = v1.RunServiceStub(calls)
        self.files = v1.FileServiceStub(calls)
        self.sessions = v1.SessionServiceStub(calls)
        self.models = v1.ModelServiceStub(calls)
        self.usage = v1.UsageServiceStub(calls)
        self.events = v1.EventServiceStub(calls)

    def close(self) -> None:
        """End all calls and the connection. May be repeated."""
        self._closed.set()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _retries(self) -> Retries:
        return Retries(self._give_up_after, reached=self._reached, closed=self._closed)

    def upload(
        self,
        path: str | PathLike[str],
        *,
        filename: str = "",
        purpose: v1.FilePurpose.ValueType = v1.FILE_PURPOSE_ASSISTANTS,
        media_type: str = "",
        ttl: float | None = None,
        progress: Progress | None = None,
    ) -> v1.File:
        """Upload a file. The server verifies its SHA-256; a broken connection is retried without making a second file.

        ``filename`` defaults to the name in ``path``; ``ttl`` is in seconds, None keeps the file until it is deleted.
        """
        metadata = v1.UploadFileMetadata(filename=filename, purpose=purpose, media_type=media_type)
        if ttl is not None:
            metadata.ttl.CopyFrom(_duration(ttl))
        return _transfer.upload(self.files, Path(path), metadata, retries=self._retries(), progress=progress)

    def download(self, file_id: str, path: str | PathLike[str], *, progress: Progress | None = None) -> v1.File:
        """Download a file to ``path``, or into it under the file's own name if it is a directory.

        A download that breaks off goes on where it was. Only a whole file with the right SHA-256 takes the place of
        ``path``.
        """
        return _transfer.download(self.files, file_id, Path(path), retries=self._retries(), progress=progress)

    def stream_run(self, run_id: str, *, after_sequence: int = 0, heartbeat_interval: float = 15.0) -> RunStream:
        """The events of a run after ``after_sequence``, up to its end, across broken connections.

        ``heartbeat_interval`` is in seconds, 1 to 60; three without a sign of life count as a broken connection.
        """
        return RunStream(
            self.runs,
            run_id=run_id,
            after_sequence=after_sequence,
            heartbeat_interval=heartbeat_interval,
            retries=self._retries(),
        )

    def create_run_stream(
        self,
        request: v1.CreateRunRequest | v1.CreateThreadAndRunRequest,
        *,
        heartbeat_interval: float = 15.0,
    ) -> RunStream:
        """Create a run, with its thread if asked to, and stream its events like stream_run.

        The run is created when the first event is asked for, and once, however often the connection breaks.
        """
        return RunStream(
            self.runs, create=creation(request), heartbeat_interval=heartbeat_interval, retries=self._retries()
        )

    def text_with_files(self, message: v1.Message) -> tuple[str, list[v1.File]]:
        """The text of a message with cited files by their names, and all its files: images, cited ones, attachments.

        Files that were deleted meanwhile are left out, and their places in the text left as they were.
        """
        files: dict[str, v1.File] = {}
        retries = self._retries()
        for file_id in message_file_ids(message):
            get = partial(self.files.GetFile, v1.GetFileRequest(file_id=file_id))
            try:
                files[file_id] = retries.call(get).file
            except Error as error:
                if error.status is not grpc.StatusCode.NOT_FOUND:
                    raise
        text = resolved_text(message, lambda file_id: files[file_id].filename if file_id in files else None)
        return text, list(files.values())


def connect(
    target: str = DEFAULT_TARGET,
    *,
    api_key: str | None = None,
    tls: bool | grpc.ChannelCredentials = False,
    timeout: float | None = DEFAULT_TIMEOUT,
    give_up_after: float = 60.0,
) -> Client:
    """Connect to a server. It is reached at the first call, not here.

    Args:
        target: ``host:port``, or any gRPC name like ``unix:/run/afarensis.sock``. The port is 50051 when none is given.
        api_key: Sent with every call, in clear text unless ``tls`` is on.
        tls: True for the certificate authorities of gRPC, or credentials of your own.
        timeout: Seconds for unary calls that set none of their own; None for no limit.
        give_up_after: Seconds for which the client's own methods try again without any success; a few, at most, as
            long as the server has never answered.

    Raises:
        ValueError: ``target`` is a URL, or no address at all.
    """
    target = _address(target)
    if tls:
        credentials = grpc.ssl_channel_credentials() if tls is True else tls
        channel = grpc.secure_channel(target, credentials, options=_CHANNEL_OPTIONS)
    else:
        channel = grpc.insecure_channel(target, options=_CHANNEL_OPTIONS)
    return Client(channel, api_key=api_key, timeout=timeout, give_up_after=give_up_after)


def _address(target: str) -> str:
    """The target with a port; ValueError when it is none."""
    if _GRPC_NAME.match(target):
        return target
    found = _HOST_AND_PORT.fullmatch(target)
    if found is None:
        raise ValueError(f"A target is host:port, like {DEFAULT_TARGET}, not {target!r}.")
    return f"{found['host']}:{found['port'] or DEFAULT_TARGET.rpartition(':')[2]}"


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMilliseconds(round(seconds * 1000))
    return duration
