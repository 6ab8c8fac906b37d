"""How the feed of a project is read."""

from sqlalchemy import text

from afarensis_server.events import feed
from afarensis_server.store.database import Database


async def test_feed_is_read_along_an_index_and_never_sorted(database: Database) -> None:
    statement = feed._LOOK.compile(compile_kwargs={"render_postcompile": True})
    values = {"tenant": "default", "after": 0, "most": 100}
    plan = await database.read(
        lambda connection: connection.execute(text(f"EXPLAIN QUERY PLAN {statement}"), values).all()
    )
    steps = [row[3] for row in plan]
    assert steps[0].startswith("SEARCH events USING INDEX ix_events_project_position (project=? AND position>?)")
    assert steps[1].startswith("SEARCH runs USING INDEX")
    assert not any("TEMP B-TREE" in step or "SCAN" in step for step in steps)
