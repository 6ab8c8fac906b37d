"""The run queue: a row for each run that is to be worked on, taken under a lease that ends if its owner does.

A row stays while the run is worked on, and is released with the change that ends the work: the run is over, or waits
for its client. Between processes that share a database the rows are claimed with SKIP LOCKED, where it has that.

Each claim counts up the row's epoch. Whoever works on a run has to see, in every transaction that writes about it, that
the row still has the epoch of its claim (`holds`): a worker that slept through the end of its lease writes nothing.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, bindparam, or_, select

from ..clock import now
from ..domain.runs import Run
from . import tables
from .prepared import Prepared
from .rows import Rows

_runs = Rows(tables.runs, Run)
_queue = tables.run_queue


@dataclass(frozen=True, slots=True)
class Lease:
    """One claim of a run. An owner has a run once at a time, so that owner and epoch name it."""

    run_id: str
    owner: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that is now its owner's to work on."""

    run: Run
    lease: Lease


_is_lease = (
    _queue.c.run_id == bindparam("lease_run"),
    _queue.c.owner == bindparam("lease_owner"),
    _queue.c.epoch == bindparam("lease_epoch"),
)
_free = (
    _runs.select.add_columns(_queue.c.epoch)
    .join(_queue, _queue.c.run_id == tables.runs.c.id)
    .where(
        or_(_queue.c.lease_until.is_(None), _queue.c.lease_until <= bindparam("time")),
        _queue.c.run_id.not_in(bindparam("besides", expanding=True)),
    )
    .order_by(_queue.c.enqueue_time, _queue.c.run_id)
    .limit(bindparam("most"))
    .with_for_update(of=_queue, skip_locked=True)
)
_enqueue = Prepared(_queue.insert(), ("run_id", "project", "enqueue_time", "epoch"))
_take = Prepared(
    _queue.update()
    .where(_queue.c.run_id == bindparam("lease_run"))
    .values(owner=bindparam("lease_owner"), lease_until=bindparam("until"), epoch=bindparam("lease_epoch"))
)
_release = Prepared(_queue.delete().where(_queue.c.run_id == bindparam("lease_run")))
# With every commit of every run.
_holds = Prepared(select(_queue.c.epoch).where(*_is_lease))


def _parameters(lease: Lease) -> dict[str, object]:
    return {"lease_run": lease.run_id, "lease_owner": lease.owner, "lease_epoch": lease.epoch}


def enqueue(connection: Connection, run: Run) -> None:
    """Let a worker take the run. It must not be in the queue."""
    values = {"run_id": run.id, "project": run.project, "enqueue_time": now(), "epoch": 0}
    _enqueue.run(connection, values)


def claim(
    connection: Connection,
    owner: str,
    time: datetime,
    lease_until: datetime,
    limit: int,
    besides: Collection[str] = (),
) -> list[Claim]:
    """Take up to this many runs that nobody has, or whose lease has ended, in the order in which they came.

    ``besides`` are those that the owner works on, whatever became of their leases.
    """
    free = connection.execute(_free, {"time": time, "besides": list(besides), "most": limit})
    claims = [Claim(_runs.value(values), Lease(values[0], owner, epoch + 1)) for *values, epoch in free]
    _take.run_many(connection, [{**_parameters(claim.lease), "until": lease_until} for claim in claims])
    return claims


def holds(connection: Connection, lease: Lease) -> bool:
    """Whether the lease is the run's last claim, and the run still worked on. Its time may be over: nobody came."""
    return _holds.run(connection, _parameters(lease)).fetchone() is not None


def extend(connection: Connection, leases: Collection[Lease], until: datetime) -> set[Lease]:
    """Keep leases for longer. Returns those that still hold; the others' runs are somebody else's now, or over."""
    held = {lease for lease in leases if holds(connection, lease)}
    if held:
        kept = _queue.update().where(_queue.c.run_id.in_([lease.run_id for lease in held]))
        connection.execute(kept.values(lease_until=until))
    return held


def release(connection: Connection, run_id: str) -> bool:
    """Take the run off the queue, whoever has it; tells whether it was there."""
    return _release.change(connection, {"lease_run": run_id}) > 0


def yield_lease(connection: Connection, lease: Lease) -> bool:
    """Give the run back, at its old place, for any worker to take; tells whether the lease held."""
    statement = _queue.update().where(*_is_lease).values(owner=None, lease_until=None)
    return connection.execute(statement, _parameters(lease)).rowcount > 0


def is_held(connection: Connection, run_id: str, time: datetime, owner: str) -> bool:
    """Whether a worker has the run under a lease that has not ended; this owner's last until somebody else comes."""
    of_somebody = or_(_queue.c.lease_until > time, _queue.c.owner == owner)
    statement = select(_queue.c.run_id).where(_queue.c.run_id == run_id, of_somebody)
    return connection.execute(statement).first() is not None


def release_of(connection: Connection, owner: str) -> int:
    """End all leases of an owner that is no more. Tells how many there were."""
    statement = _queue.update().where(_queue.c.owner == owner).values(owner=None, lease_until=None)
    return connection.execute(statement).rowcount
