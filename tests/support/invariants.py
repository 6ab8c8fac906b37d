"""What holds of every run, however it ended and whatever happened meanwhile: looked up in the database itself."""

import json
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

from afarensis_server.domain.runs import TERMINAL_RUN_STATUSES, RunStatus
from afarensis_server.runs.states import FOLLOWERS

_RUN, _STEP, _MESSAGE = "thread.run.", "thread.run.step.", "thread.message."


def check_run(database: Path, run_id: str) -> str:
    """Check a run that is over; returns its status, ``deleted`` for one of which nothing may be left."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row

        def rows(statement: str) -> list[dict[str, Any]]:
            return [dict(row) for row in connection.execute(statement, (run_id,))]

        found = rows("SELECT * FROM runs WHERE id = ?")
        events = rows("SELECT sequence, type, payload FROM events WHERE run_id = ? ORDER BY sequence")
        logs = rows("SELECT * FROM event_logs WHERE run_id = ?")
        steps = rows("SELECT id, status, details FROM run_steps WHERE run_id = ?")
        messages = rows("SELECT id, status FROM messages WHERE run_id = ?")
        assert rows("SELECT * FROM run_queue WHERE run_id = ?") == [], "it is off the queue"
        if not found:
            assert events + logs + steps + messages == [], "nothing is left of a run that was deleted"
            return "deleted"
        (run,) = found
        status = RunStatus(run["status"])
        _check_log(status, events, logs)
        _check_row(run, json.loads(events[-1]["payload"]))
        _check_parts(events, steps, messages)
        assert status in TERMINAL_RUN_STATUSES, "so its thread is free"
        return str(status)


def _check_log(status: RunStatus, events: list[dict[str, Any]], logs: list[dict[str, Any]]) -> None:
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1)), "gapless from 1"
    assert [(log["last_sequence"], log["ended"]) for log in logs] == [(len(events), 1)]
    told = [
        event["type"].removeprefix(_RUN)
        for event in events
        if event["type"].startswith(_RUN) and not event["type"].startswith(_STEP)
    ]
    assert told[:2] == ["created", "queued"]
    path = [RunStatus(name) for name in told[1:]]
    for before, after in pairwise(path):
        assert after in FOLLOWERS.get(before, frozenset()), f"{after} follows {before} in {told}"
    assert events[-1]["type"] == f"{_RUN}{status}", "the last event is the run's end, and its row agrees"


def _check_row(run: dict[str, Any], told: dict[str, Any]) -> None:
    assert told["id"] == run["id"]
    assert run["expire_time"] is None
    assert run["required_action"] is None
    for field in ("last_error", "usage"):
        assert (None if run[field] is None else json.loads(run[field])) == told[field]
    assert (run["last_error"] is not None) == (run["status"] == "failed")


def _check_parts(events: list[dict[str, Any]], steps: list[dict[str, Any]], messages: list[dict[str, Any]]) -> None:
    for kind, parts in ((_STEP, steps), (_MESSAGE, messages)):
        begun: set[str] = set()
        ends: dict[str, str] = {}
        for event in events:
            if not event["type"].startswith(kind):
                continue
            name, payload = event["type"].removeprefix(kind), json.loads(event["payload"])
            part = payload["id"] if "id" in payload else payload["step_id" if kind == _STEP else "message_id"]
            assert part not in ends, f"nothing follows the end of {part}"
            if name == "created":
                begun.add(part)
            assert part in begun, f"{part} is created before anything else"
            if name not in ("created", "in_progress", "delta"):
                ends[part] = name
        assert begun == set(ends), "whatever was begun has ended"
        assert {part["id"]: part["status"] for part in parts} == ends, "rows agree with what was told"
