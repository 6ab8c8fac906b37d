"""The time as the server stores it."""

from datetime import UTC, datetime


def now() -> datetime:
    """The present moment: aware, in UTC, with microseconds."""
    return datetime.now(UTC)
