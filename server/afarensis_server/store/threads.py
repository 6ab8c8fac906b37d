"""Threads as rows."""

from sqlalchemy import Connection

from ..domain.threads import Thread
from . import tables
from .pages import Page, PageRequest
from .rows import Rows

_rows = Rows(tables.threads, Thread)


def insert(connection: Connection, thread: Thread) -> None:
    _rows.insert(connection, thread)


def get(connection: Connection, project: str, thread_id: str) -> Thread | None:
    return _rows.get(connection, project, thread_id)


def update(connection: Connection, thread: Thread) -> bool:
    """False when there is no such row."""
    return _rows.update(connection, thread)


def delete(connection: Connection, project: str, thread_id: str) -> bool:
    """Delete a thread with its messages, runs, steps and events. False when there is no such row."""
    return _rows.delete(connection, project, thread_id)


def list_page(connection: Connection, project: str, page: PageRequest) -> Page[Thread]:
    return _rows.list_page(connection, project, page)
