"""Lets the ids of a process follow those that are stored, though the clock went back while no process ran."""

from sqlalchemy import Connection, func, select

from .. import ids
from . import tables

#: Each takes one look at the end of the index of a primary key.
_GREATEST = [select(func.max(table.c.id)) for table in tables.metadata.sorted_tables if "id" in table.c]


def continue_stored_ids(connection: Connection) -> None:
    """Make the ids of this process greater than all that any table has now."""
    for greatest in _GREATEST:
        stored = connection.execute(greatest).scalar_one()
        if stored is not None:
            ids.continue_after(stored)
