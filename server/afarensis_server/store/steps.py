"""Run steps as rows."""

from sqlalchemy import Connection, bindparam

from ..domain.runs import RunStep, StepStatus
from . import tables
from .pages import Page, PageRequest
from .rows import Rows

_rows = Rows(tables.run_steps, RunStep)

_columns = tables.run_steps.c
_of_run = _rows.select.where(_columns.project == bindparam("row_project"), _columns.run_id == bindparam("run"))
_oldest_first = _of_run.order_by(_columns.id)
_newest_first = _of_run.order_by(_columns.id.desc()).limit(bindparam("size"))


def insert(connection: Connection, step: RunStep) -> None:
    _rows.insert(connection, step)


def get(connection: Connection, project: str, step_id: str) -> RunStep | None:
    return _rows.get(connection, project, step_id)


def update(connection: Connection, step: RunStep) -> bool:
    """Write a step that is open: as far as it has come, or as it ends. False when there is none that is open."""
    return _rows.move(connection, step, StepStatus.IN_PROGRESS)


def delete(connection: Connection, project: str, step_id: str) -> bool:
    """False when there is no such row."""
    return _rows.delete(connection, project, step_id)


def list_page(connection: Connection, project: str, page: PageRequest, run_id: str) -> Page[RunStep]:
    return _rows.list_page(connection, project, page, {"run_id": run_id})


def list_of_run(connection: Connection, project: str, run_id: str) -> list[RunStep]:
    """All steps of a run, oldest first."""
    return _rows.all(connection, _oldest_first, {"row_project": project, "run": run_id})


def newest_of_run(connection: Connection, project: str, run_id: str, limit: int) -> list[RunStep]:
    """The last steps of a run, newest first."""
    return _rows.all(connection, _newest_first, {"row_project": project, "run": run_id, "size": limit})
