"""How the database reads what services ask of it: along indexes, whatever there is beside."""

import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import event

from afarensis_server.domain.runs import RunStatus
from afarensis_server.domain.tools import FunctionTool
from afarensis_server.runs.submitting import ToolOutput
from afarensis_server.store.database import Database
from afarensis_server.store.pages import PageRequest
from tests.integration.runs.conftest import LOOKUP, PROJECT, House, build
from tests.support.scripted_model import Request, ScriptedModel, Turn, call, text

#: The queue is looked through in its order: it holds what waits or is worked on, and no more. The others are no tables.
_FINE = {"SCAN run_queue USING INDEX ix_run_queue_enqueue_time_run_id", "SCAN CONSTANT ROW", "SCAN (subquery-1)"}


class Statements:
    """Every statement that any connection of a database runs, the driver's own included."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: list[str] = []

    def watch(self, connection: sqlite3.Connection, _record: object) -> None:
        connection.set_trace_callback(self._seen.append)

    @contextmanager
    def taken(self) -> Iterator[list[str]]:
        """Those of the block."""
        self._seen.clear()
        taken: list[str] = []
        yield taken
        taken += [one for one in self._seen if re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE)", one)]

    def plans(self, statements: list[str]) -> dict[str, list[str]]:
        """The steps that each takes."""
        connection = sqlite3.connect(self.path)
        try:
            return {
                one: [detail for *_, detail in connection.execute(f"EXPLAIN QUERY PLAN {one}")] for one in statements
            }
        finally:
            connection.close()


def slow_steps(plans: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Steps that look at all rows of a table, or that sort."""
    return [
        (step, statement)
        for statement, steps in plans.items()
        for step in steps
        if (step.startswith("SCAN") or "TEMP B-TREE" in step) and step not in _FINE
    ]


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[tuple[House, Statements]]:
    def answer(request: Request) -> Turn:
        asks = request.body["messages"][-1]["role"] == "user" and request.body.get("tools")
        return call("lookup", {"word": "a"}) if asks else text("Done.")

    path = tmp_path / "afarensis.db"
    database = Database(f"sqlite:///{path}")
    statements = Statements(path)
    for engine in (database._backend.reading, database._backend.writing):
        event.listen(engine, "connect", statements.watch)
    async with database, ScriptedModel(answer) as endpoint, build(database, tmp_path, endpoint) as house:
        yield house, statements


async def run_with_a_call(house: House, *tools: FunctionTool) -> str:
    """A run that waits for its client once; its thread."""
    run = await house.run(*tools)
    waiting = await house.settled(run)
    assert waiting.required_action is not None
    outputs = [ToolOutput(asked.id, "b") for asked in waiting.required_action.calls]
    await house.runs.submit_tool_outputs(PROJECT, run.id, outputs)
    await house.events(run)
    return run.thread_id


async def test_run_reads_and_writes_along_indexes(watched: tuple[House, Statements]) -> None:
    """From its creation to its end, over a function call: no statement gets slower with what else is stored."""
    house, statements = watched
    with statements.taken() as taken:
        await run_with_a_call(house, LOOKUP)
    plans = statements.plans(taken)
    assert len(plans) > 30
    assert slow_steps(plans) == []


async def test_long_thread_is_read_from_its_end_along_an_index(watched: tuple[House, Statements]) -> None:
    """Page by page, and with the calls of the runs before: what is further back is not looked at."""
    house, statements = watched
    thread_id = await run_with_a_call(house, LOOKUP)
    assistant = await house.assistant(LOOKUP)
    for number in range(30):
        await house.threads.create_message(PROJECT, thread_id, {"text": f"{number} ".ljust(16_000, "x")})
    with statements.taken() as taken:
        await house.settled(await house.runs.create(PROJECT, thread_id, {"assistant_id": assistant.id}))
    plans = statements.plans([one for one in taken if "FROM messages" in one and "LIMIT" in one])
    # 100,000 tokens are 25 such messages: those of two pages, the second of which begins where the first ends.
    index = "SEARCH messages USING INDEX ix_messages_thread_id_id"
    assert list(plans.values()) == [
        [f"{index} (thread_id=?)"],
        [f"{index} (thread_id=? AND id<?)"],
    ]
    assert slow_steps(statements.plans(taken)) == []


async def test_thread_is_used_along_indexes(watched: tuple[House, Statements]) -> None:
    """Its messages, its lists and its deletion."""
    house, statements = watched
    thread_id = await run_with_a_call(house, LOOKUP)
    with statements.taken() as taken:
        message = await house.threads.create_message(PROJECT, thread_id, {"text": "Hello"})
        await house.threads.list(PROJECT, PageRequest())
        await house.threads.list_messages(PROJECT, thread_id, PageRequest(size=1))
        await house.threads.list_messages(PROJECT, thread_id, PageRequest(), run_id="run_x")
        await house.threads.delete_message(PROJECT, message.id)
        await house.runs.delete_thread(PROJECT, thread_id)
    assert slow_steps(statements.plans(taken)) == []


async def test_adding_a_message_does_not_look_at_those_before(watched: tuple[House, Statements]) -> None:
    house, statements = watched
    thread = await house.thread()
    with statements.taken() as taken:
        await house.threads.create_message(PROJECT, thread.id, {"text": "Hello"})
    reads = [one for one in taken if one.startswith("SELECT") and "FROM messages" in one]
    # The new one, by its id.
    assert [one for one in reads if "thread_id =" in one.partition("WHERE")[2]] == []


@pytest.mark.parametrize("statuses", [(), (RunStatus.FAILED,), (RunStatus.QUEUED, RunStatus.FAILED)])
@pytest.mark.parametrize("by_thread", [False, True])
@pytest.mark.parametrize("by_assistant", [False, True])
async def test_runs_are_listed_along_an_index_whatever_is_asked_for(
    watched: tuple[House, Statements], statuses: tuple[RunStatus, ...], *, by_thread: bool, by_assistant: bool
) -> None:
    house, statements = watched
    thread, assistant = await house.thread(), await house.assistant()
    with statements.taken() as taken:
        await house.runs.list(
            PROJECT,
            PageRequest(),
            thread_id=thread.id if by_thread else None,
            assistant_id=assistant.id if by_assistant else None,
            statuses=statuses,
        )
    # Meanwhile the engine may look for runs that expire, which no list is asked for.
    plans = statements.plans([one for one in taken if "FROM runs" in one and "WHERE runs.expire_time" not in one])
    assert slow_steps(plans) == []
    steps = [step for steps in plans.values() for step in steps]
    assert len(steps) == max(1, len(statuses))
    if by_thread:
        # A thread has few runs of all those with a status.
        assert all("(thread_id=" in step for step in steps), steps
    elif statuses and not by_assistant:
        assert all("(project=? AND status=?)" in step for step in steps), steps
