"""A request_id creates once."""

import asyncio
from datetime import timedelta

import pytest

from afarensis_server import ids
from afarensis_server.errors import RequestIdReused
from afarensis_server.store import requests
from afarensis_server.store.database import Database

PROJECT = "default"


class Creator:
    """Creates things, and remembers which."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.created: list[str] = []

    async def create(
        self,
        request_id: str,
        fingerprint: str = "f",
        *,
        project: str = PROJECT,
        method: str = "CreateThread",
        kept: timedelta = requests.KEPT,
    ) -> str:
        return await self._database.write(
            lambda tx: requests.once(tx, project, method, request_id, fingerprint, self._create, kept)
        )

    def _create(self) -> str:
        self.created.append(ids.thread_id())
        return self.created[-1]


@pytest.fixture
def creator(database: Database) -> Creator:
    return Creator(database)


async def test_repeated_request_gives_the_same(creator: Creator) -> None:
    assert await creator.create("r") == await creator.create("r")
    assert len(creator.created) == 1


async def test_requests_at_the_same_time_create_once(creator: Creator) -> None:
    assert len(set(await asyncio.gather(*(creator.create("r") for _ in range(20))))) == 1
    assert len(creator.created) == 1


async def test_requests_without_an_id_create_each_time(creator: Creator) -> None:
    assert await creator.create("") != await creator.create("")


async def test_other_content_under_the_same_id_is_refused(creator: Creator) -> None:
    await creator.create("r", "f")
    with pytest.raises(RequestIdReused):
        await creator.create("r", "g")


async def test_ids_belong_to_a_project_and_a_method(creator: Creator) -> None:
    created = {
        await creator.create("r"),
        await creator.create("r", project="other"),
        await creator.create("r", method="CreateRun"),
    }
    assert len(created) == 3


async def test_request_that_failed_may_be_repeated(database: Database, creator: Creator) -> None:
    def fail() -> str:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await database.write(lambda tx: requests.once(tx, PROJECT, "CreateThread", "r", "f", fail))
    assert await creator.create("r", "g") == creator.created[0]


async def test_request_is_forgotten_in_time(creator: Creator) -> None:
    first = await creator.create("r", "f")
    assert await creator.create("r", "g", kept=timedelta(0)) != first


def test_fingerprint_depends_on_the_content_and_not_on_its_order() -> None:
    assert requests.fingerprint_of({"a": 1, "b": b"\xff"}) == requests.fingerprint_of({"b": b"\xff", "a": 1})
    assert requests.fingerprint_of({"a": 1}) != requests.fingerprint_of({"a": 2})
    assert requests.fingerprint_of("a", "b") != requests.fingerprint_of("ab")
