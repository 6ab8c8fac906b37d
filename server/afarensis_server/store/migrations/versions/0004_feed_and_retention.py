"""Events of a project as one feed, and events that are no longer kept."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("event_logs", "execution_logs"):
        op.add_column(table, sa.Column("trimmed_sequence", sa.BigInteger(), nullable=False, server_default="0"))
    op.create_index(op.f("ix_events_project_position"), "events", ["project", "position"])
    op.create_table(
        "event_floors",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project", name=op.f("pk_event_floors")),
    )
