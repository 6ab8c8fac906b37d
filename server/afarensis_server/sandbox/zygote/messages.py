"""JSON messages with file descriptors, one per packet of a Unix SOCK_SEQPACKET socket."""

import errno
import json
import os
import socket
from collections.abc import Sequence
from typing import Any

#: Bytes of one message. Ours are a few hundred; an error text is cut to fit.
MAX_MESSAGE = 32 * 1024
#: File descriptors of one message.
MAX_DESCRIPTORS = 8


class PeerGoneError(ConnectionError):
    """The other side closed its socket."""


def send(connection: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send one message; the descriptors stay open here."""
    socket.send_fds(connection, [json.dumps(message).encode()], list(descriptors))


def answer(connection: socket.socket, reply: dict[str, Any], descriptors: Sequence[int]) -> bool:
    """Send a reply, or why it cannot be sent; whether the descriptors went with it.

    The kernel counts a user's descriptors on their way, and sessions may be the same user.
    """
    try:
        send(connection, reply, descriptors)
    except OSError as error:
        if error.errno != errno.ETOOMANYREFS:
            raise
        send(connection, {**reply, "error": f"{type(error).__name__}: {error}"})
        return False
    return True


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Take one message and the descriptors that came with it, which are the caller's to close."""
    data, descriptors, flags, _ = socket.recv_fds(connection, MAX_MESSAGE, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    if not data:
        raise PeerGoneError("the other side closed its socket")
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for descriptor in descriptors:
            os.close(descriptor)
        raise ValueError("a message was longer than agreed")
    message = json.loads(data)
    if not isinstance(message, dict):
        raise TypeError("a message is not a JSON object")
    return message, list(descriptors)
