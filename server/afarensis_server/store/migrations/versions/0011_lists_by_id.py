"""Lists in the order of their ids, which is that of creation though the clock went back."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

#: What comes before the order in the index of each list.
_LISTS = (
    ("assistants", "project"),
    ("threads", "project"),
    ("messages", "thread_id"),
    ("messages", "thread_id", "run_id"),
    ("files", "project"),
    ("files", "project", "purpose"),
    ("runs", "project"),
    ("runs", "project", "status"),
    ("runs", "thread_id"),
    ("runs", "project", "assistant_id"),
    ("run_steps", "run_id"),
    ("sessions", "project"),
    ("sessions", "project", "status"),
    ("sessions", "thread_id"),
    ("executions", "session_id"),
)


def upgrade() -> None:
    for table, *columns in _LISTS:
        name = "_".join(("ix", table, *columns))
        op.drop_index(f"{name}_create_time_id", table)
        op.create_index(f"{name}_id", table, [*columns, "id"])
