"""The one stream between agent and server: frames both ways, as ``guest.frames`` has them.

Every frame names its ``type`` and the ``id`` of the request that it belongs to. The server's requests:

============  =========================================================================================================
``spawn``     have an interpreter ready; ``ahead``: nobody waits for it yet
``limits``    bind the interpreter, and all that follow it, to the limits of the session
``show``      make ``files`` visible that lie in the directory of inputs, by their ``name``, ``file_id``, ``source``
``put``       make a file visible whose ``size`` bytes follow in frames of ``data``
``prepare``   have an interpreter that takes code; the answer says whether it is ``fresh``
``discard``   kill the interpreter: the server does not trust it any more
``execute``   hand the body over to the interpreter; ``interrupt``, ``kill`` and ``look`` may follow with the same id,
              ``interrupt`` with ``again`` in case that the code did not hear of the first
``list``      all files; ``stat``: one; ``read``: the content of one, until ``stop``
``credit``    the server has room for so many ``bytes`` more of a request's answer
``ping``      nothing; the answer says whether there is an interpreter that is ``usable``
``probe``     what the server wrote into the file ``probe`` of the directory of inputs
============  =========================================================================================================

Each is answered by one ``reply``, before which ``output``, ``guest``, ``changes``, ``files`` and ``data`` may come.
What code wrote and what files hold takes of a request's credit, so that a reader who stops holds up nothing but that.
"""

import os
from collections import deque
from contextlib import suppress
from typing import Any

from ..guest.frames import FrameBuffer, encode
from ..guest.limits import MAX_REQUEST

PROTOCOL = 1
#: Bytes of the parts of a frame that the server sends.
_MAX_HEADER = 4 * 1024 * 1024
_MAX_BODY = MAX_REQUEST + 64 * 1024
#: Bytes that wait to be written from which on no more is read for the server.
BACKLOG = 1024 * 1024
_READ_SIZE = 256 * 1024


class Wire:
    """Reads and writes without ever waiting."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self.incoming = incoming
        self.outgoing = outgoing
        self._frames = FrameBuffer(_MAX_HEADER, _MAX_BODY)
        self._waiting: deque[memoryview] = deque()
        self.backlog = 0
        os.set_blocking(incoming, False)
        os.set_blocking(outgoing, False)

    def read(self) -> list[tuple[dict[str, Any], bytes]]:
        """What has come; EOFError when the server hung up."""
        try:
            data = os.read(self.incoming, _READ_SIZE)
        except BlockingIOError:
            return []
        if not data:
            raise EOFError
        return self._frames.feed(data)

    def send(self, header: dict[str, Any], body: bytes = b"") -> None:
        """Have a frame written, now or as soon as it can be."""
        data = encode(header, body)
        self.backlog += len(data)
        self._waiting.append(memoryview(data))
        self.flush()

    def flush(self) -> None:
        """Write what can be written."""
        with suppress(BlockingIOError):
            while self._waiting:
                data = self._waiting[0]
                count = os.write(self.outgoing, data)
                self.backlog -= count
                if count == len(data):
                    self._waiting.popleft()
                else:
                    self._waiting[0] = data[count:]
