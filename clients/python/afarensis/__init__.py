"""Python SDK of Afarensis, the self-hosted Assistants API with a real code interpreter.

``connect()`` gives a Client with the typed stubs of every service; the messages are in ``afarensis.v1``. The client is
synchronous and may be shared by threads. An asyncio program uses the stubs of ``afarensis.v1`` with ``grpc.aio``: a
second client that repeats this one with ``await`` would double what has to be right.
"""

from afarensis._transfer import Progress
from afarensis._version import __version__
from afarensis.client import DEFAULT_TARGET, DEFAULT_TIMEOUT, Client, connect
from afarensis.errors import Error, FieldViolation
from afarensis.messages import message_file_ids, message_text, resolve_annotations, resolved_text
from afarensis.run_stream import TERMINAL_TYPES, RunStream

__all__ = [
    "DEFAULT_TARGET",
    "DEFAULT_TIMEOUT",
    "TERMINAL_TYPES",
    "Client",
    "Error",
    "FieldViolation",
    "Progress",
    "RunStream",
    "__version__",
    "connect",
    "message_file_ids",
    "message_text",
    "resolve_annotations",
    "resolved_text",
]
