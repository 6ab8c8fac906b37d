"""How many messages a thread has, kept with it; runs by their status."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("threads", recreate="always") as batch:
        batch.add_column(sa.Column("message_count", sa.BigInteger(), server_default="0", nullable=False))
    op.execute(
        "UPDATE threads SET message_count = (SELECT count(*) FROM messages WHERE messages.thread_id = threads.id)"
    )
    op.create_index(op.f("ix_runs_project_status_create_time_id"), "runs", ["project", "status", "create_time", "id"])
