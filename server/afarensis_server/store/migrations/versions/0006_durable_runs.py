"""Runs, steps and messages move only as they may, whoever writes them, and leases of runs have epochs."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# `FOLLOWERS` of `runs.states`: a change there takes a migration that makes this trigger anew. The words are SQLite's,
# the only database yet.
_RUN_MOVES = """\
CREATE TRIGGER runs_move BEFORE UPDATE OF status ON runs
WHEN NEW.status <> OLD.status AND NOT (
    OLD.status = 'queued' AND NEW.status IN ('in_progress', 'cancelling', 'failed', 'expired')
    OR OLD.status = 'in_progress' AND NEW.status IN
        ('requires_action', 'cancelling', 'completed', 'failed', 'incomplete', 'expired')
    OR OLD.status = 'requires_action' AND NEW.status IN ('queued', 'cancelling', 'expired')
    OR OLD.status = 'cancelling' AND NEW.status = 'cancelled'
)
BEGIN SELECT RAISE(ABORT, 'a run does not go from its status to this one'); END"""

_RUN_FIELDS = """\
CREATE TRIGGER runs_fields BEFORE UPDATE OF status ON runs
WHEN NEW.status <> OLD.status AND (
    NEW.status IN ('cancelled', 'completed', 'expired', 'failed', 'incomplete')
        AND (NEW.expire_time IS NOT NULL OR NEW.usage IS NULL)
    OR (NEW.status = 'failed') <> (NEW.last_error IS NOT NULL)
    OR (NEW.status = 'incomplete') <> (NEW.incomplete_reason IS NOT NULL)
    OR (NEW.status = 'requires_action') <> (NEW.required_action IS NOT NULL)
)
BEGIN SELECT RAISE(ABORT, 'fields of a run contradict its status'); END"""

_STEP_OVER = """\
CREATE TRIGGER run_steps_over BEFORE UPDATE OF status ON run_steps
WHEN NEW.status <> OLD.status AND OLD.status <> 'in_progress'
BEGIN SELECT RAISE(ABORT, 'a step that is over stays as it is'); END"""

_MESSAGE_OVER = """\
CREATE TRIGGER messages_over BEFORE UPDATE OF status ON messages
WHEN NEW.status <> OLD.status AND OLD.status <> 'in_progress'
BEGIN SELECT RAISE(ABORT, 'a message that is over stays as it is'); END"""


def upgrade() -> None:
    op.add_column("run_queue", sa.Column("epoch", sa.BigInteger(), nullable=False, server_default="0"))
    for trigger in (_RUN_MOVES, _RUN_FIELDS, _STEP_OVER, _MESSAGE_OVER):
        op.execute(trigger)
