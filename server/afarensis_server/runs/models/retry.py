"""When a model call that failed is tried again, and what is said when that did not help.

The SDKs could do it, but not within the run's time, and not for errors that come inside a stream.
"""

import email.utils
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ...clock import now
from .protocol import ModelError

#: Statuses of answers that another attempt may not have: timeouts, conflicts, rate limits, and the server's own faults.
_TRANSIENT_STATUSES = frozenset({408, 409, 425, 429})
#: Statuses of the server's that stay: not implemented, HTTP version, not extended.
_LASTING_STATUSES = frozenset({501, 505, 510})
#: Refusals with status 429 that waiting does not mend.
_OUT_OF_MONEY = ("insufficient_quota", "billing", "spend_limit", "credit balance")


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """How long to wait between attempts."""

    #: The first wait; each later one is twice as long.
    backoff_seconds: float = 0.5
    #: The longest wait of our own choice.
    max_backoff_seconds: float = 30.0
    #: The longest wait that an endpoint may ask for by Retry-After; one that asks for more is not asked again.
    max_retry_after_seconds: float = 120.0


class Attempts:
    """The attempts at one answer.

    Args:
        settings: how long to wait.
        max_retries: attempts after the first.
        timeout_seconds: no attempt begins later than this after the first.
        deadline: when the run ends, whatever happens; None when it does not.
    """

    def __init__(
        self, settings: RetrySettings, max_retries: int, timeout_seconds: float, deadline: datetime | None
    ) -> None:
        self._settings = settings
        self._max_retries = max_retries
        self._begun = 0.0
        self._timeout_seconds = timeout_seconds
        self._deadline = deadline
        self._made = 0

    def begin(self) -> None:
        """Count an attempt, and the time from the first one on."""
        if not self._made:
            self._begun = time.monotonic()
        self._made += 1

    def wait_after(self, error: ModelError) -> float:
        """Seconds until the next attempt; raises what the client is told when there is none."""
        if not error.transient or self._made > self._max_retries:
            raise self._told(error)
        seconds = self._seconds(error.retry_after)
        if error.retry_after is not None and seconds > self._settings.max_retry_after_seconds:
            raise self._told(error, f"It asks to wait {_span(seconds)}, longer than this server waits")
        if time.monotonic() - self._begun + seconds >= self._timeout_seconds:
            raise self._told(error, "There is no time for another attempt")
        if self._deadline is not None:
            left = (self._deadline - now()).total_seconds()
            if seconds >= left:
                asked = error.retry_after is not None
                wait = (
                    f"It asks to wait {_span(seconds)}" if asked else f"The next attempt would be in {_span(seconds)}"
                )
                raise self._told(error, f"{wait}, but the run expires in {_span(max(left, 0.0))}")
        return seconds

    def _seconds(self, asked: float | None) -> float:
        doubled = self._settings.backoff_seconds * 2 ** min(self._made - 1, 30)
        backoff = min(doubled, self._settings.max_backoff_seconds)
        # Between half and the whole of it: calls that failed together do not come back together.
        own = backoff * random.uniform(0.5, 1.0)  # noqa: S311 - nothing to guess
        return own if asked is None else max(asked, 0.0)

    def _told(self, error: ModelError, why: str = "") -> ModelError:
        """The error with what was tried; unchanged when nothing but the first attempt was meant to be."""
        sentences = [f"{why}."] if why else []
        if self._made > 1:
            sentences.append(f"Tried {self._made} times in {_span(time.monotonic() - self._begun)}.")
        if not sentences:
            return error
        told = ModelError(error.code, error.reason, " ".join([error.message, *sentences]))
        told.__cause__ = error
        return told


def is_transient(status: int, headers: Mapping[str, str], said: str) -> bool:
    """Whether another attempt may not meet an error answer: its status, its headers, what it said."""
    match headers.get("x-should-retry"):
        case "true":
            return True
        case "false":
            return False
    if any(words in said.lower() for words in _OUT_OF_MONEY):
        return False
    return status in _TRANSIENT_STATUSES or (status >= 500 and status not in _LASTING_STATUSES)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an endpoint asks to wait: by ``retry-after-ms``, or by ``retry-after`` in seconds or as a date."""
    for name, unit in (("retry-after-ms", 1_000), ("retry-after", 1)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(seconds, 0.0)
    try:
        moment = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return max((moment - now()).total_seconds(), 0.0)


def _span(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
