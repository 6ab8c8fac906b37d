"""When to try again, and when to stop."""

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import grpc

from afarensis.errors import Error

_T = TypeVar("_T")

#: Seconds before the first retry; doubled with each one that fails, up to the limit.
FIRST_DELAY = 0.1
LONGEST_DELAY = 5.0
#: Seconds to try for a server that has never answered: longer, and a wrong address would look like a slow server.
FIRST_CONTACT = 3.0

# Only what is safe to repeat is retried, so a broken connection counts in any disguise; the server's own refusals carry
# a reason, and are final unless it says when to come back.
_BROKEN_CONNECTION = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})


def is_retryable(error: Error) -> bool:
    """Whether the same call may succeed later."""
    if error.reason:
        return error.retry_delay is not None or error.status is grpc.StatusCode.UNAVAILABLE
    return error.status in _BROKEN_CONNECTION


class Retries:
    """Waits between the tries of one operation, exponentially and with jitter, but never less than the server asks for.

    ``give_up_after`` is in seconds without any success. ``reached`` is set once the server has answered anything, and
    ``closed`` ends a wait at once when it is set.
    """

    def __init__(self, give_up_after: float, *, reached: threading.Event, closed: threading.Event) -> None:
        self._give_up_after = give_up_after
        self._reached = reached
        self._closed = closed
        self.succeeded()

    def succeeded(self) -> None:
        """Something came through: the next failure is a first one."""
        self._delay = FIRST_DELAY
        self._deadline: float | None = None

    def wait(self, error: Error) -> None:
        """Return when it is time to try again; raise ``error`` when there is no point."""
        now = time.monotonic()
        if self._deadline is None:
            patience = self._give_up_after if self._reached.is_set() else min(FIRST_CONTACT, self._give_up_after)
            self._deadline = now + patience
        delay = max(self._delay * random.uniform(0.5, 1.0), error.retry_delay or 0.0)  # noqa: S311  # jitter is no secret
        if not is_retryable(error) or now + delay > self._deadline or self._closed.wait(delay):
            raise error
        self._delay = min(self._delay * 2, LONGEST_DELAY)

    def call(self, read: Callable[[], _T]) -> _T:
        """What ``read`` returns, in the end; it must be safe to repeat."""
        while True:
            try:
                result = read()
            except Error as error:
                self.wait(error)
            else:
                self.succeeded()
                return result
