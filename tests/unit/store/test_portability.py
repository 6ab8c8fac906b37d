"""The tables and the statements that are not plain SQL stay possible on PostgreSQL."""

import pytest
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from afarensis_server.store.tables import metadata


@pytest.mark.parametrize("table", metadata.sorted_tables, ids=lambda table: table.name)
def test_tables_can_be_created_on_postgresql(table: Table) -> None:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's own
    assert str(CreateTable(table).compile(dialect=dialect))
    for index in table.indexes:
        sql = str(CreateIndex(index).compile(dialect=dialect))
        assert ("WHERE" in sql) == (index.dialect_options["sqlite"]["where"] is not None)
