"""The database driver's own connection, for what is not worth the time that SQLAlchemy takes around it."""

from typing import Any

from sqlalchemy import Connection

#: Where a connection keeps it.
_KNOWN = "afarensis_driver"


def driver_of(connection: Connection) -> Any:
    """What a connection stands for, as long as it is open.

    SQLAlchemy finds it by way of its pool, each time anew, which takes as long as a small statement.
    """
    attributes = vars(connection)
    driver = attributes.get(_KNOWN)
    if driver is None:
        driver = attributes[_KNOWN] = connection.connection.driver_connection
    return driver
