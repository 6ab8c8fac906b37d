"""Assistants as rows."""

from sqlalchemy import Connection

from ..domain.assistants import Assistant
from . import tables
from .pages import Page, PageRequest
from .rows import Rows

_rows = Rows(tables.assistants, Assistant)


def insert(connection: Connection, assistant: Assistant) -> None:
    _rows.insert(connection, assistant)


def get(connection: Connection, project: str, assistant_id: str) -> Assistant | None:
    return _rows.get(connection, project, assistant_id)


def update(connection: Connection, assistant: Assistant) -> bool:
    """False when there is no such row."""
    return _rows.update(connection, assistant)


def delete(connection: Connection, project: str, assistant_id: str) -> bool:
    """False when there is no such row."""
    return _rows.delete(connection, project, assistant_id)


def list_page(connection: Connection, project: str, page: PageRequest) -> Page[Assistant]:
    return _rows.list_page(connection, project, page)
