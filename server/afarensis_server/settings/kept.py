"""Where things are kept, and for how long."""

from typing import Annotated

from pydantic import ByteSize, Field, PositiveFloat, PositiveInt

from .base import MIB, Bytes, Section


class StoreSection(Section):
    """The database."""

    url: str = ""
    """Where the database is, as a SQLAlchemy URL. Empty: SQLite in the data directory."""
    readers: PositiveInt = 4
    """Threads, each with a connection, that read from the database."""


class FilesSection(Section):
    """Files."""

    max_bytes: Bytes = ByteSize(512 * MIB)
    """The size of one file."""
    min_ttl_seconds: PositiveInt = 3_600
    """How long a file that expires is kept at least."""
    max_ttl_seconds: PositiveInt = 2_592_000
    """How long a file that expires is kept at most."""
    part_bytes: Bytes = ByteSize(64 * MIB)
    """The size of one part of a file that comes in parts (`/v1/uploads`)."""
    upload_parts: PositiveInt = 1_000
    """Parts of one such file."""
    upload_factor: Annotated[float, Field(ge=1, le=1_000)] = 2.0
    """How many times the bytes that were announced all parts of one such file may have together: more than once, so
    that a part which went wrong can be sent again."""
    upload_seconds: PositiveFloat = 3_600.0
    """How long such a file may take, from the announcement to its completion. What came of it is deleted then."""
    pending_uploads: PositiveInt = 1_000
    """Files of one project that come in parts at the same time, announced and not completed; more are refused with
    TOO_MANY_UPLOADS."""


class EventsSection(Section):
    """How long events are kept."""

    keep_seconds: Annotated[float, Field(ge=0)] = 0.0
    """How long the events of runs and executions are kept after those began; 0: for ever. The last one of each stays,
    and none goes before its run has ended. Runs, steps and messages are not concerned; outputs of executions are."""
