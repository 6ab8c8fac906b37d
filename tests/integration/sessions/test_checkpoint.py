"""Files of a thread beyond its sessions, in real sandboxes."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from afarensis_server.sandbox.driver import InputFile
from afarensis_server.sessions.outputs import OutputLimits
from afarensis_server.store.database import Database
from tests.support.house import PROJECT, build

LIST = "import os; print(sorted(os.path.join(d, f)[10:] for d, _, fs in os.walk('/mnt/data') for f in fs))"


async def test_what_code_wrote_is_there_in_the_next_session(database: Database, tmp_path: Path) -> None:
    async with build(database, tmp_path) as house:
        first = await house.sessions.for_thread(PROJECT, await house.thread(), [])
        await house.run(first, "import os; os.makedirs('plots/new'); open('plots/new/a.txt', 'w').write('one'); x = 1")
        second = await house.next_session(first)
        printed, changes, lost = await house.run(
            second, "print(open('plots/new/a.txt').read())\nprint('x' in globals())"
        )
        assert (printed, changes, lost) == ("one\nFalse\n", [], True)
        _, changes, _ = await house.run(
            second, "open('plots/new/b.txt', 'w').write('two')\nopen('plots/c', 'w').close()"
        )
        assert [change.path for change in changes] == ["/mnt/data/plots/c", "/mnt/data/plots/new/b.txt"]


async def test_an_input_stays_as_code_left_it(database: Database, tmp_path: Path) -> None:
    async with build(database, tmp_path) as house:
        changed, deleted, kept = [await house.upload(name, b"old") for name in ("changed", "deleted", "kept")]
        inputs = (changed, deleted, kept)
        first = await house.sessions.for_thread(PROJECT, await house.thread(), [file.id for file in inputs])
        await house.run(first, "import os; open('changed', 'w').write('new'); os.remove('deleted')")
        second = await house.next_session(first, *inputs)
        printed, _, _ = await house.run(second, f"print(open('changed').read(), open('{changed.id}').read())\n{LIST}")
        names = sorted(["changed", "kept", changed.id, kept.id])
        assert printed == f"new new\n{names}\n"
        assert b"".join([chunk async for chunk in (await house.files.open(PROJECT, changed.id))[1]]) == b"old"


async def test_names_given_to_inputs_stay_theirs(database: Database, tmp_path: Path) -> None:
    async with build(database, tmp_path) as house:
        one, two = [await house.upload("data.csv", content) for content in (b"one", b"two")]
        first = await house.sessions.for_thread(PROJECT, await house.thread(), [one.id, two.id])
        second = await house.next_session(first, two, one)
        printed, _, _ = await house.run(second, "print(open('data.csv').read(), open('data (2).csv').read())")
        assert printed == "one two\n"


async def test_an_unchanged_output_keeps_its_file_id_over_sessions(database: Database, tmp_path: Path) -> None:
    async with build(database, tmp_path) as house:
        write = "open('out.csv', 'w').write('a,b')"
        first = await house.sessions.for_thread(PROJECT, await house.thread(), [])
        _, (made,), _ = await house.run(first, write)
        second = await house.next_session(first)
        _, (again,), _ = await house.run(second, write)
        assert made.file is not None
        assert again.file == made.file


async def test_a_file_that_was_deleted_from_the_store_is_not_laid_out(database: Database, tmp_path: Path) -> None:
    async with build(database, tmp_path) as house:
        first = await house.sessions.for_thread(PROJECT, await house.thread(), [])
        _, changes, _ = await house.run(first, "open('a', 'w').write('1'); open('b', 'w').write('2')")
        assert changes[0].file is not None
        await house.files.delete(PROJECT, changes[0].file.id)
        second = await house.next_session(first)
        assert (await house.run(second, LIST))[0] == "['b']\n"


async def test_a_file_that_is_deleted_while_a_session_is_given_it_is_left_out(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with build(database, tmp_path) as house:
        gone, left = await house.upload("gone", b"1"), await house.upload("left", b"2")
        live = await house.sessions.for_thread(PROJECT, thread := await house.thread(), [])
        add_files = live.sandbox.add_files

        async def delete_first(files: Sequence[InputFile]) -> None:
            monkeypatch.undo()
            await house.files.delete(PROJECT, gone.id)
            await add_files(files)

        monkeypatch.setattr(live.sandbox, "add_files", delete_first)
        assert await house.sessions.for_thread(PROJECT, thread, [gone.id, left.id]) is live
        assert live.row.file_ids == (left.id,)
        assert (await house.run(live, LIST))[0] == f"{sorted(['left', left.id])}\n"


async def test_an_output_that_code_deleted_stays_deleted(database: Database, tmp_path: Path) -> None:
    async with build(database, tmp_path) as house:
        first = await house.sessions.for_thread(PROJECT, await house.thread(), [])
        await house.run(first, "open('a', 'w').write('1')")
        await house.run(first, "import os; os.remove('a')")
        second = await house.next_session(first)
        assert (await house.run(second, LIST))[0] == "[]\n"


async def test_an_input_that_was_taken_from_the_thread_is_gone(database: Database, tmp_path: Path) -> None:
    async with build(database, tmp_path) as house:
        data = await house.upload("data.csv", b"1")
        first = await house.sessions.for_thread(PROJECT, await house.thread(), [data.id])
        second = await house.next_session(first)
        assert (await house.run(second, LIST))[0] == "[]\n"


async def test_sessions_that_stand_alone_start_empty(database: Database, tmp_path: Path) -> None:
    async with build(database, tmp_path) as house:
        for _ in range(2):
            row = await house.sessions.create(PROJECT, None)
            live = await house.sessions.live(PROJECT, row.id)
            assert (await house.run(live, LIST))[0] == "[]\n"
            await house.run(live, "open('a', 'w').write('1')")


async def test_a_file_that_could_not_be_kept_again_is_there_as_it_was_kept(database: Database, tmp_path: Path) -> None:
    async with build(database, tmp_path, OutputLimits(files=1)) as house:
        first = await house.sessions.for_thread(PROJECT, await house.thread(), [])
        await house.run(first, "open('b', 'w').write('old')")
        _, changes, _ = await house.run(first, "open('a', 'w').write('1'); open('b', 'w').write('new')")
        assert [change.file is not None for change in changes] == [True, False]
        second = await house.next_session(first)
        assert (await house.run(second, "print(open('a').read(), open('b').read())"))[0] == "1 old\n"


async def test_the_longest_names_are_numbered_too(database: Database, tmp_path: Path) -> None:
    name = "é" * 125 + ".csv"
    async with build(database, tmp_path) as house:
        one, two = [await house.upload(name, content) for content in (b"one", b"two")]
        live = await house.sessions.for_thread(PROJECT, await house.thread(), [one.id, two.id])
        printed, _, _ = await house.run(live, f"print(open({'é' * 123 + ' (2).csv'!r}).read())")
        assert printed == "two\n"
