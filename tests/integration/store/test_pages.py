"""Lists, page by page, and the tokens that lead from one to the next."""

import base64
import dataclasses
import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import select

from afarensis_server import ids
from afarensis_server.clock import now
from afarensis_server.domain.files import File, FilePurpose
from afarensis_server.domain.runs import Run, RunStatus
from afarensis_server.domain.threads import Message, MessageRole, MessageStatus, Thread
from afarensis_server.errors import PageTokenInvalid
from afarensis_server.store import files, messages, runs, tables, threads
from afarensis_server.store.database import Database, Transaction
from afarensis_server.store.pages import Page, PageRequest
from afarensis_server.store.types import microseconds
from tests.support.clocks import set_clock_back

PROJECT = "default"
TIME = now()


async def list_threads(database: Database, request: PageRequest, project: str = PROJECT) -> Page[Thread]:
    return await database.read(lambda connection: threads.list_page(connection, project, request))


async def list_files(database: Database, request: PageRequest, purpose: FilePurpose | None = None) -> Page[File]:
    return await database.read(lambda connection: files.list_page(connection, PROJECT, request, purpose))


async def walk(database: Database, size: int, *, descending: bool) -> list[list[Thread]]:
    pages, token = [], ""
    while True:
        page = await list_threads(database, PageRequest(size, token, descending))
        pages.append(page.items)
        token = page.next_token
        if not token:
            return pages


def insertion(store: ModuleType, *values: Any) -> Callable[[Transaction], None]:
    def work(tx: Transaction) -> None:
        for value in values:
            store.insert(tx.connection, value)

    return work


@pytest.fixture
async def stored(database: Database) -> list[Thread]:
    """Seven threads, oldest first, of a clock that stands still and goes back."""
    created = [Thread(ids.thread_id(), PROJECT, TIME - timedelta(seconds=number // 3)) for number in range(7)]
    await database.write(insertion(threads, *created))
    return created


async def test_newest_come_first(database: Database, stored: list[Thread]) -> None:
    assert await walk(database, 3, descending=True) == [stored[:3:-1], stored[3:0:-1], stored[:1]]


async def test_oldest_come_first_when_asked(database: Database, stored: list[Thread]) -> None:
    assert await walk(database, 3, descending=False) == [stored[:3], stored[3:6], stored[6:]]


async def test_page_that_is_just_full_is_the_last(database: Database, stored: list[Thread]) -> None:
    page = await list_threads(database, PageRequest(7))
    assert len(page.items) == 7
    assert page.next_token == ""


async def test_empty_list_has_no_next_page(database: Database) -> None:
    assert await list_threads(database, PageRequest()) == Page([])


async def test_default_size_is_20(database: Database) -> None:
    await database.write(insertion(threads, *(Thread(ids.thread_id(), PROJECT, TIME) for _ in range(21))))
    page = await list_threads(database, PageRequest())
    assert len(page.items) == 20
    assert page.next_token


async def test_rows_that_come_and_go_move_nothing(database: Database, stored: list[Thread]) -> None:
    first = await list_threads(database, PageRequest(3))
    newer = Thread(ids.thread_id(), PROJECT, TIME + timedelta(seconds=1))
    await database.write(insertion(threads, newer))
    # The very row that the token was made from.
    await database.write(lambda tx: threads.delete(tx.connection, PROJECT, first.items[-1].id))
    second = await list_threads(database, PageRequest(3, first.next_token))
    assert second.items == stored[3:0:-1]


async def test_list_shows_its_project_only(database: Database, stored: list[Thread]) -> None:
    assert await list_threads(database, PageRequest(), "other") == Page([])


@pytest.mark.parametrize(
    "broken", ["x", "====", "é", "AAAA", "A" * 100, "-_-_", " ", "\0", "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE"]
)
async def test_broken_token_is_refused(database: Database, stored: list[Thread], broken: str) -> None:
    with pytest.raises(PageTokenInvalid):
        await list_threads(database, PageRequest(3, broken))


async def test_token_with_any_character_changed_is_refused(database: Database, stored: list[Thread]) -> None:
    token = (await list_threads(database, PageRequest(3))).next_token
    # The last character may hold bits that mean nothing.
    for place in range(len(token) - 1):
        other = "A" if token[place] != "A" else "B"
        with pytest.raises(PageTokenInvalid):
            await list_threads(database, PageRequest(3, token[:place] + other + token[place + 1 :]))


async def test_token_of_when_lists_were_ordered_by_time_is_refused(database: Database, stored: list[Thread]) -> None:
    secret = await database.read(lambda connection: connection.execute(select(tables.keys.c.value)).scalar_one())
    last = stored[3]
    scope = json.dumps([PROJECT, "threads", [], True]).encode()
    key = microseconds(last.create_time).to_bytes(8, "big", signed=True) + last.id.encode()
    mac = hmac.digest(secret, len(scope).to_bytes(8, "big") + scope + key, hashlib.sha256)[:16]
    token = base64.urlsafe_b64encode(mac + key).rstrip(b"=").decode()
    with pytest.raises(PageTokenInvalid):
        await list_threads(database, PageRequest(3, token))


async def test_token_of_another_order_is_refused(database: Database, stored: list[Thread]) -> None:
    token = (await list_threads(database, PageRequest(3))).next_token
    with pytest.raises(PageTokenInvalid):
        await list_threads(database, PageRequest(3, token, descending=False))


async def test_token_of_another_project_is_refused(database: Database, stored: list[Thread]) -> None:
    token = (await list_threads(database, PageRequest(3))).next_token
    with pytest.raises(PageTokenInvalid):
        await list_threads(database, PageRequest(3, token), "other")


async def test_token_of_another_list_is_refused(database: Database, stored: list[Thread]) -> None:
    token = (await list_threads(database, PageRequest(3))).next_token
    with pytest.raises(PageTokenInvalid):
        await list_files(database, PageRequest(3, token))


async def test_token_of_other_filters_is_refused(database: Database) -> None:
    file = File("", PROJECT, TIME, "a.csv", FilePurpose.ASSISTANTS, 0, "0" * 64, "text/csv")
    await database.write(insertion(files, *(dataclasses.replace(file, id=ids.file_id()) for _ in range(5))))
    token = (await list_files(database, PageRequest(2), FilePurpose.ASSISTANTS)).next_token
    assert len((await list_files(database, PageRequest(3, token), FilePurpose.ASSISTANTS)).items) == 3
    for other in (None, FilePurpose.VISION):
        with pytest.raises(PageTokenInvalid):
            await list_files(database, PageRequest(2, token), other)


async def test_size_may_change_from_page_to_page(database: Database, stored: list[Thread]) -> None:
    token = (await list_threads(database, PageRequest(3))).next_token
    assert len((await list_threads(database, PageRequest(4, token))).items) == 4


async def test_token_outlives_a_restart(database: Database, stored: list[Thread]) -> None:
    token = (await list_threads(database, PageRequest(3))).next_token
    url = database._backend.writing.url.render_as_string()
    async with Database(url) as restarted:
        assert len((await list_threads(restarted, PageRequest(4, token))).items) == 4


async def test_newest_come_first_after_a_restart_with_the_clock_set_back(
    database: Database, stored: list[Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = database._backend.writing.url.render_as_string()
    set_clock_back(monkeypatch, timedelta(hours=1))
    monkeypatch.setattr(ids, "_last", 0)  # as in a new process
    async with Database(url) as restarted:
        newer = Thread(ids.thread_id(), PROJECT, now())
        await restarted.write(insertion(threads, newer))
        assert (await list_threads(restarted, PageRequest(2))).items == [newer, stored[-1]]


async def test_filters_choose_what_equals_them(database: Database) -> None:
    thread, other = (Thread(ids.thread_id(), PROJECT, TIME) for _ in range(2))
    written = [
        Message(ids.message_id(), PROJECT, owner.id, TIME, MessageRole.USER, MessageStatus.COMPLETED, (), run_id=run_id)
        for owner in (thread, other)
        for run_id in (None, "run_a", "run_b")
    ]
    await database.write(insertion(threads, thread, other))
    await database.write(insertion(messages, *written))

    async def listed(run_id: str | None) -> list[Message]:
        page = await database.read(
            lambda connection: messages.list_page(
                connection, PROJECT, PageRequest(descending=False), thread_id=thread.id, run_id=run_id
            )
        )
        return page.items

    assert await listed(None) == written[:3]
    assert await listed("run_b") == [written[2]]
    assert await listed("run_x") == []


async def test_filter_may_name_several_values(database: Database) -> None:
    owners = [Thread(ids.thread_id(), PROJECT, TIME) for _ in RunStatus]
    written = [
        Run(ids.run_id(), PROJECT, owner.id, "asst_x", TIME, status, "direct")
        for owner, status in zip(owners, RunStatus, strict=True)
    ]
    await database.write(insertion(threads, *owners))
    await database.write(insertion(runs, *written))
    page = await database.read(
        lambda connection: runs.list_page(
            connection, PROJECT, PageRequest(descending=False), statuses=(RunStatus.FAILED, RunStatus.QUEUED)
        )
    )
    assert [run.status for run in page.items] == [RunStatus.QUEUED, RunStatus.FAILED]


async def test_every_list_is_read_along_an_index(database: Database) -> None:
    """No list sorts, and none looks at rows that it does not show: histories do not make lists slower."""
    lists = {
        "threads": "project = 'p'",
        "assistants": "project = 'p'",
        "files": "project = 'p' AND purpose = 'vision'",
        "messages": "project = 'p' AND thread_id = 't'",
        "messages ": "project = 'p' AND thread_id = 't' AND run_id = 'r'",
        "runs": "project = 'p' AND thread_id = 't'",
        "runs ": "project = 'p' AND assistant_id = 'a'",
        "run_steps": "project = 'p' AND run_id = 'r'",
        "sessions": "project = 'p' AND status = 'active'",
        "sessions ": "project = 'p' AND thread_id = 't'",
    }
    for table, where in lists.items():
        plan = await database.read(
            lambda connection: connection.exec_driver_sql(
                f"EXPLAIN QUERY PLAN SELECT * FROM {table} WHERE {where} AND id < 'x' "  # noqa: B023
                "ORDER BY id DESC LIMIT 21"
            ).all()
        )
        steps = [row.detail for row in plan]
        assert len(steps) == 1, (table, steps)
        assert f"USING INDEX ix_{table.strip()}_" in steps[0], (table, steps)
        assert "AND id<?)" in steps[0], (table, steps)
