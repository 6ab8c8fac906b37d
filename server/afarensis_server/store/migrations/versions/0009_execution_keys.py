"""Executions and their logs in the order of their keys, without an index beside them: less to write for each."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    is_open = sa.text("NOT ended")
    op.drop_index("ix_execution_logs_open", "execution_logs")
    for table in ("executions", "execution_logs"):
        with op.batch_alter_table(table, recreate="always", table_kwargs={"sqlite_with_rowid": False}):
            pass
    op.create_index(
        "ix_execution_logs_open", "execution_logs", ["execution_id"], sqlite_where=is_open, postgresql_where=is_open
    )
