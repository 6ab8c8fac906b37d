"""Sessions name the server that has them: the start of another one is not their end."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("owner", sa.Text(), nullable=False, server_default=""))
    # Of those that are open nobody knows whose they were. Servers that upgrade a database have ended.
    op.execute("UPDATE sessions SET status = 'lost', close_time = last_active_time WHERE status = 'active'")
