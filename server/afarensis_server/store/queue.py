"""The run queue: a row for each run that is to be worked on, taken under a lease that ends if its owner does.

A row stays while the run is worked on, and is released with the change that ends the work: the run is over, or waits
for its client. Between processes that share a database the rows are claimed with SKIP LOCKED, where it has that.
"""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection, or_, select

from ..clock import now
from ..domain.runs import Run
from . import tables
from .rows import Rows

_runs = Rows(tables.runs, Run)
_queue = tables.run_queue


def enqueue(connection: Connection, run: Run) -> None:
    """Let a worker take the run. It must not be in the queue."""
    connection.execute(_queue.insert(), {"run_id": run.id, "project": run.project, "enqueue_time": now()})


def claim(
    connection: Connection,
    owner: str,
    time: datetime,
    lease_until: datetime,
    limit: int,
    besides: Collection[str] = (),
) -> list[Run]:
    """Take up to this many runs that nobody has, or whose lease has ended, in the order in which they came.

    ``besides`` are those that the owner works on, whatever became of their leases.
    """
    statement = (
        _runs.select.join(_queue, _queue.c.run_id == tables.runs.c.id)
        .where(or_(_queue.c.lease_until.is_(None), _queue.c.lease_until <= time), _queue.c.run_id.not_in(besides))
        .order_by(_queue.c.enqueue_time, _queue.c.run_id)
        .limit(limit)
        .with_for_update(of=_queue, skip_locked=True)
    )
    claimed = _runs.all(connection, statement)
    if claimed:
        taken = _queue.update().where(_queue.c.run_id.in_([run.id for run in claimed]))
        connection.execute(taken.values(owner=owner, lease_until=lease_until))
    return claimed


def extend(connection: Connection, owner: str, run_ids: Collection[str], until: datetime) -> set[str]:
    """Keep leases for longer. Returns the runs that the owner still has; the others are somebody else's now."""
    mine = (_queue.c.owner == owner, _queue.c.run_id.in_(run_ids))
    connection.execute(_queue.update().where(*mine).values(lease_until=until))
    return set(connection.execute(select(_queue.c.run_id).where(*mine)).scalars())


def release(connection: Connection, run_id: str, owner: str | None = None) -> bool:
    """Take the run off the queue. With an owner, only if that one has it; tells whether it was there."""
    statement = _queue.delete().where(_queue.c.run_id == run_id)
    if owner is not None:
        statement = statement.where(_queue.c.owner == owner)
    return connection.execute(statement).rowcount > 0


def yield_lease(connection: Connection, run_id: str) -> bool:
    """Give the run back, at its old place, for any worker to take; tells whether it was in the queue."""
    statement = _queue.update().where(_queue.c.run_id == run_id).values(owner=None, lease_until=None)
    return connection.execute(statement).rowcount > 0


def is_held(connection: Connection, run_id: str) -> bool:
    """Whether a worker has the run."""
    statement = select(_queue.c.run_id).where(_queue.c.run_id == run_id, _queue.c.owner.is_not(None))
    return connection.execute(statement).first() is not None


def release_all(connection: Connection) -> int:
    """End all leases: for the start of a server that alone works on its database. Tells how many there were."""
    statement = _queue.update().where(_queue.c.owner.is_not(None)).values(owner=None, lease_until=None)
    return connection.execute(statement).rowcount
