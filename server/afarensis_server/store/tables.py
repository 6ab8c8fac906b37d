"""Every table. Columns bear the names of the values' fields; each row belongs to a project.

A change here needs a migration in `migrations/versions`; a test compares the two.
"""

from collections.abc import Mapping

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)

from ..domain.events import EventType
from ..domain.executions import ExecutionEventType
from ..domain.files import FilePurpose
from ..domain.runs import (
    TERMINAL_RUN_STATUSES,
    RequiredAction,
    RunError,
    RunIncompleteReason,
    RunStatus,
    StepDetails,
    StepStatus,
    TruncationStrategy,
    Usage,
)
from ..domain.sessions import SessionLimits, SessionStatus
from ..domain.threads import Attachment, MessageContent, MessageIncompleteReason, MessageRole, MessageStatus
from ..domain.tools import ResponseFormat, Tool, ToolChoice, ToolResources
from ..domain.uploads import UploadStatus
from .types import Choice, Json, UtcTime

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

_Metadata = Mapping[str, str]

# Conditions of partial indexes. A query has to repeat them word for word to be served by the index.
#: The run is not over.
ACTIVE_RUN = text("status NOT IN ({})".format(", ".join(f"'{status}'" for status in sorted(TERMINAL_RUN_STATUSES))))
#: The session is a thread's, and open.
ACTIVE_SESSION = text(f"status = '{SessionStatus.ACTIVE}' AND thread_id IS NOT NULL")
#: The execution has not ended.
OPEN_LOG = text("NOT ended")

assistants = Table(
    "assistants",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("model", Text, nullable=False),
    Column("name", Text),
    Column("description", Text),
    Column("instructions", Text),
    Column("tools", Json(tuple[Tool, ...]), nullable=False),
    Column("tool_resources", Json(ToolResources), nullable=False),
    Column("metadata", Json(_Metadata), nullable=False),
    Column("temperature", Float),
    Column("top_p", Float),
    Column("response_format", Json(ResponseFormat)),
    Column("reasoning_effort", Text),
    Index(None, "project", "id"),
)

threads = Table(
    "threads",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("tool_resources", Json(ToolResources), nullable=False),
    Column("metadata", Json(_Metadata), nullable=False),
    # Kept by whoever stores or deletes messages (`store.messages`): counting them would look at each.
    Column("message_count", BigInteger, nullable=False, server_default="0"),
    Index(None, "project", "id"),
)

messages = Table(
    "messages",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("thread_id", Text, ForeignKey("threads.id", ondelete="CASCADE"), nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("role", Choice(MessageRole), nullable=False),
    Column("status", Choice(MessageStatus), nullable=False),
    Column("content", Json(tuple[MessageContent, ...]), nullable=False),
    Column("attachments", Json(tuple[Attachment, ...]), nullable=False),
    Column("assistant_id", Text),
    Column("run_id", Text),
    Column("incomplete_reason", Choice(MessageIncompleteReason)),
    Column("complete_time", UtcTime),
    Column("incomplete_time", UtcTime),
    Column("metadata", Json(_Metadata), nullable=False),
    Index(None, "thread_id", "id"),
    Index(None, "thread_id", "run_id", "id"),
)

files = Table(
    "files",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("filename", Text, nullable=False),
    Column("purpose", Choice(FilePurpose), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("expire_time", UtcTime),
    Index(None, "project", "id"),
    Index(None, "project", "purpose", "id"),
    # Which files share a blob.
    Index(None, "sha256"),
    Index(
        None,
        "expire_time",
        sqlite_where=text("expire_time IS NOT NULL"),
        postgresql_where=text("expire_time IS NOT NULL"),
    ),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("status", Choice(UploadStatus), nullable=False),
    Column("filename", Text, nullable=False),
    Column("purpose", Choice(FilePurpose), nullable=False),
    Column("media_type", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("expire_time", UtcTime, nullable=False),
    Column("ttl_seconds", Float),
    # Not a foreign key: a file may be deleted.
    Column("file_id", Text),
    Column("completion", Text),
    Index(None, "status", "expire_time"),
)

upload_parts = Table(
    "upload_parts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("upload_id", Text, ForeignKey("uploads.id", ondelete="CASCADE"), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Index(None, "upload_id"),
    # As those of files.
    Index(None, "sha256"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("thread_id", Text, ForeignKey("threads.id", ondelete="CASCADE"), nullable=False),
    # Not a foreign key: a run outlives its assistant.
    Column("assistant_id", Text, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("status", Choice(RunStatus), nullable=False),
    Column("model", Text, nullable=False),
    Column("instructions", Text),
    Column("tools", Json(tuple[Tool, ...]), nullable=False),
    Column("tool_resources", Json(ToolResources), nullable=False),
    Column("metadata", Json(_Metadata), nullable=False),
    Column("temperature", Float),
    Column("top_p", Float),
    Column("max_prompt_tokens", BigInteger),
    Column("max_completion_tokens", BigInteger),
    Column("truncation_strategy", Json(TruncationStrategy), nullable=False),
    Column("tool_choice", Json(ToolChoice), nullable=False),
    Column("parallel_tool_calls", Boolean, nullable=False),
    Column("response_format", Json(ResponseFormat)),
    Column("reasoning_effort", Text),
    Column("required_action", Json(RequiredAction)),
    Column("last_error", Json(RunError)),
    Column("incomplete_reason", Choice(RunIncompleteReason)),
    Column("expire_time", UtcTime),
    Column("start_time", UtcTime),
    Column("cancel_time", UtcTime),
    Column("fail_time", UtcTime),
    Column("complete_time", UtcTime),
    Column("incomplete_time", UtcTime),
    Column("expired_time", UtcTime),
    Column("usage", Json(Usage)),
    Index(None, "project", "id"),
    Index(None, "project", "status", "id"),
    Index(None, "thread_id", "id"),
    Index(None, "project", "assistant_id", "id"),
    # The thread's lock: one run at a time that is not over.
    Index("uq_runs_active_thread", "thread_id", unique=True, sqlite_where=ACTIVE_RUN, postgresql_where=ACTIVE_RUN),
    # How many of them a project has.
    Index("ix_runs_active_project", "project", sqlite_where=ACTIVE_RUN, postgresql_where=ACTIVE_RUN),
    Index(
        None,
        "expire_time",
        sqlite_where=text("expire_time IS NOT NULL"),
        postgresql_where=text("expire_time IS NOT NULL"),
    ),
)

run_steps = Table(
    "run_steps",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("run_id", Text, ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("thread_id", Text, nullable=False),
    Column("assistant_id", Text, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("status", Choice(StepStatus), nullable=False),
    Column("details", Json(StepDetails), nullable=False),
    Column("last_error", Json(RunError)),
    Column("complete_time", UtcTime),
    Column("cancel_time", UtcTime),
    Column("fail_time", UtcTime),
    Column("expired_time", UtcTime),
    Column("metadata", Json(_Metadata), nullable=False),
    Column("usage", Json(Usage)),
    Index(None, "run_id", "id"),
)

# One row for each run, made with it: appending takes the next sequences here, without touching the wide row of the run.
event_logs = Table(
    "event_logs",
    metadata,
    Column("run_id", Text, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("project", Text, nullable=False),
    Column("last_sequence", BigInteger, nullable=False),
    # True after the event that ends the run: nothing may follow it.
    Column("ended", Boolean, nullable=False),
    # The last event that is no longer kept; 0 when all are.
    Column("trimmed_sequence", BigInteger, nullable=False, server_default="0"),
)

events = Table(
    "events",
    metadata,
    # Increases over all runs and is never used twice, for a feed of the whole project.
    Column("position", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("project", Text, nullable=False),
    Column("run_id", Text, ForeignKey("event_logs.run_id", ondelete="CASCADE"), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("type", Choice(EventType), nullable=False),
    # JSON of the payload that belongs to the type; `events.log` reads and writes it.
    Column("payload", Text, nullable=False),
    Index("uq_events_run_id_sequence", "run_id", "sequence", unique=True),
    Index(None, "project", "position"),
    sqlite_autoincrement=True,
)

# Up to where events of a project are no longer kept. No row: all are.
event_floors = Table(
    "event_floors",
    metadata,
    Column("project", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
)

# A row for each run that a worker is to take, or has taken. No row: nothing to do, or waiting for the client.
run_queue = Table(
    "run_queue",
    metadata,
    Column("run_id", Text, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("project", Text, nullable=False),
    Column("enqueue_time", UtcTime, nullable=False),
    # Who has it, until when; both NULL while nobody has.
    Column("owner", Text),
    Column("lease_until", UtcTime),
    # How often it was taken. A worker may write about the run while the epoch is that of its own claim.
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    Index(None, "enqueue_time", "run_id"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("status", Choice(SessionStatus), nullable=False),
    # Not a foreign key: what a session used is accounted for after its thread is gone.
    Column("thread_id", Text),
    Column("limits", Json(SessionLimits), nullable=False),
    Column("idle_seconds", Float, nullable=False),
    Column("life_seconds", Float, nullable=False),
    Column("last_active_time", UtcTime, nullable=False),
    Column("expire_time", UtcTime, nullable=False),
    Column("close_time", UtcTime),
    Column("file_ids", Json(tuple[str, ...]), nullable=False),
    Column("name", Text, nullable=False),
    Column("metadata", Json(_Metadata), nullable=False),
    # The server that has it, as in `run_queue`: several may share a database.
    Column("owner", Text, nullable=False, server_default=""),
    Index(None, "project", "id"),
    Index(None, "project", "status", "id"),
    Index(None, "thread_id", "id"),
    Index(
        "uq_sessions_active_thread",
        "thread_id",
        unique=True,
        sqlite_where=ACTIVE_SESSION,
        postgresql_where=ACTIVE_SESSION,
    ),
)

# Code that clients run in sessions. What became of it is in its log.
executions = Table(
    "executions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("code", Text, nullable=False),
    Index(None, "session_id", "id"),
    # In the order of its keys, without an index beside it: what an execution costs in writing is pages.
    sqlite_with_rowid=False,
)

# As `event_logs` and `events` are for runs.
execution_logs = Table(
    "execution_logs",
    metadata,
    Column("execution_id", Text, ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True),
    Column("project", Text, nullable=False),
    Column("last_sequence", BigInteger, nullable=False),
    Column("ended", Boolean, nullable=False),
    Column("trimmed_sequence", BigInteger, nullable=False, server_default="0"),
    # What a start after a crash looks for.
    Index("ix_execution_logs_open", "execution_id", sqlite_where=OPEN_LOG, postgresql_where=OPEN_LOG),
    sqlite_with_rowid=False,
)

execution_events = Table(
    "execution_events",
    metadata,
    Column("execution_id", Text, ForeignKey("execution_logs.execution_id", ondelete="CASCADE"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("project", Text, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("type", Choice(ExecutionEventType), nullable=False),
    # JSON of the event; `events.log` reads and writes it. Long ones would make such a table slow to write.
    Column("payload", Text, nullable=False),
)

# What lies below /mnt/data of a thread between its sessions.
thread_files = Table(
    "thread_files",
    metadata,
    Column("thread_id", Text, ForeignKey("threads.id", ondelete="CASCADE"), primary_key=True),
    Column("path", Text, primary_key=True),
    Column("project", Text, nullable=False),
    Column("file_id", Text),
    Column("input_id", Text),
)

# What a request_id created, so that repeating the call creates nothing twice.
requests = Table(
    "requests",
    metadata,
    Column("project", Text, primary_key=True),
    Column("method", Text, primary_key=True),
    Column("request_id", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("resource_id", Text, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Index(None, "create_time"),
)

# Keys of this installation (no tenant's), made by the migration that adds them.
keys = Table(
    "keys",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
