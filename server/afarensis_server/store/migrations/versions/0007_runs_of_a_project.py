"""How many runs of a project are not over."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    active = sa.text("status NOT IN ('cancelled', 'completed', 'expired', 'failed', 'incomplete')")
    op.create_index("ix_runs_active_project", "runs", ["project"], sqlite_where=active, postgresql_where=active)
