"""What every driver does with files."""

import os
from collections.abc import Callable

import pytest

from afarensis_server.sandbox.driver import InputFile, SandboxDriver, SandboxSession, SessionSpec
from tests.support.sandbox import LIMITS, MIB, opened, read, run

pytestmark = pytest.mark.asyncio(loop_scope="session")
Make = Callable[..., InputFile]


@pytest.mark.on_gvisor
@pytest.mark.on_podman
async def test_inputs_are_there_by_name_and_by_id(driver: SandboxDriver, input_file: Make) -> None:
    async with opened(driver, input_file("in.csv")) as session:
        cell = await run(
            session, "import os\nopen('/mnt/data/in.csv').read(), open('/mnt/data/file-1').read(), os.getcwd()"
        )
    assert cell.value == "('a,b\\n1,2\\n', 'a,b\\n1,2\\n', '/mnt/data')"
    assert cell.changes == {}


async def test_inputs_can_be_overwritten_for_the_session_alone(driver: SandboxDriver, input_file: Make) -> None:
    file = input_file("in.csv")
    async with opened(driver, file) as session, opened(driver, file) as neighbour:
        cell = await run(session, "with open('in.csv', 'a') as f: f.write('3,4\\n')")
        assert cell.changes == {"in.csv": "modified"}
        assert await read(session, "in.csv") == b"a,b\n1,2\n3,4\n"
        assert await read(neighbour, "in.csv") == b"a,b\n1,2\n"
    assert file.path.read_bytes() == b"a,b\n1,2\n"


@pytest.mark.on_gvisor
@pytest.mark.on_podman
async def test_deleted_and_renamed_inputs_are_told(driver: SandboxDriver, input_file: Make) -> None:
    async with opened(driver, input_file("one.txt"), input_file("two.txt", file_id="file-2")) as session:
        cell = await run(session, "import os\nos.remove('one.txt'); os.rename('two.txt', 'three.txt')")
        assert cell.changes == {"one.txt": "deleted", "three.txt": "created", "two.txt": "deleted"}
        assert (await run(session, "1")).changes == {}
        with pytest.raises(OSError):  # noqa: PT011 - the protocol's word
            await read(session, "one.txt")


@pytest.mark.on_gvisor
@pytest.mark.on_podman
async def test_every_change_is_told_once(session: SandboxSession) -> None:
    assert (await run(session, "open('a.txt', 'w').write('1')")).changes == {"a.txt": "created"}
    assert (await run(session, "open('a.txt').read()")).changes == {}
    assert (await run(session, "open('a.txt', 'w').write('2')")).changes == {"a.txt": "modified"}
    code = "import os\nos.makedirs('d/e'); os.rename('a.txt', 'd/e/b.txt')"
    assert (await run(session, code)).changes == {"a.txt": "deleted", "d/e/b.txt": "created"}


async def test_a_change_that_restores_the_time_is_told(session: SandboxSession) -> None:
    await run(session, "import os\nopen('a.txt', 'w').write('1'); s = os.stat('a.txt')")
    cell = await run(session, "open('a.txt', 'w').write('2'); os.utime('a.txt', ns=(s.st_atime_ns, s.st_mtime_ns))")
    assert cell.changes == {"a.txt": "modified"}


@pytest.mark.on_gvisor
@pytest.mark.on_podman
async def test_all_files_are_listed(driver: SandboxDriver, input_file: Make) -> None:
    async with opened(driver, input_file("same.txt"), input_file("changed.txt", file_id="file-2")) as session:
        await run(session, "open('changed.txt', 'a').write('x'); open('new.txt', 'w').write('abc')")
        files = {file.path: (file.is_untouched, file.size_bytes) for file in await session.list_files()}
        assert files == {"changed.txt": (False, 9), "new.txt": (False, 3), "same.txt": (True, 8)}
        for file in await session.list_files():
            assert await session.stat_file(file.path) == file
            assert file.is_settled


async def test_file_that_changed_since_the_last_execution_is_told(session: SandboxSession) -> None:
    await run(
        session, "import threading\nfile = open('a.txt', 'w', buffering=1); file.write('1\\n'); go = threading.Event()"
    )
    assert (await session.stat_file("a.txt")).is_settled
    await run(session, "threading.Timer(0.05, lambda: file.write('2\\n')).start()")
    while (changed := await session.stat_file("a.txt")).size_bytes == 2:
        pass
    assert not changed.is_settled
    assert [file.is_settled for file in await session.list_files()] == [False]


async def test_deleted_and_replaced_inputs_are_not_listed(driver: SandboxDriver, input_file: Make) -> None:
    async with opened(driver, input_file("one.txt"), input_file("two.txt", file_id="file-2")) as session:
        await run(
            session, "import os\nos.remove('one.txt'); os.remove('two.txt'); os.symlink('/etc/passwd', 'two.txt')"
        )
        assert await session.list_files() == []
        for path in ("one.txt", "two.txt", "/etc/passwd", "../x", "", "a//b", "a/./b", "nul\0"):
            with pytest.raises(OSError):  # noqa: PT011 - the protocol's word
                await session.stat_file(path)


@pytest.mark.parametrize(
    ("offset", "limit", "expected"), [(0, 3, b"abc"), (2, None, b"cdef"), (4, 9, b"ef"), (6, 1, b"")]
)
async def test_a_part_of_a_file_is_read(
    session: SandboxSession, offset: int, limit: int | None, expected: bytes
) -> None:
    await run(session, "open('a.txt', 'w').write('abcdef')")
    assert b"".join([chunk async for chunk in session.read_file("a.txt", offset, limit)]) == expected


@pytest.mark.on_gvisor
@pytest.mark.on_podman
async def test_a_file_that_is_added_later_appears(driver: SandboxDriver, input_file: Make) -> None:
    async with opened(driver) as session:
        # Looked up, listed and held open before: nothing of it may be remembered.
        await run(
            session, "import os\nassert not os.path.exists('late.csv')\nos.listdir(); held = os.open('.', os.O_RDONLY)"
        )
        await session.add_files([input_file("late.csv")])
        cell = await run(session, "open('late.csv').read(), open('file-1').read(), sorted(os.listdir())")
        assert cell.value == "('a,b\\n1,2\\n', 'a,b\\n1,2\\n', ['file-1', 'late.csv'])"
        assert cell.changes == {}


@pytest.mark.parametrize(
    "before", ["open('in.csv', 'w').write('mine')", "import os; os.remove('in.csv')", "open('in.csv').read()"]
)
async def test_a_file_that_is_added_again_is_replaced(driver: SandboxDriver, input_file: Make, before: str) -> None:
    async with opened(driver, input_file("in.csv")) as session:
        await run(session, before)
        await session.add_files([input_file("in.csv", b"new content", "file-2")])
        assert (await run(session, "open('in.csv').read()")).value == "'new content'"
        assert await read(session, "in.csv") == b"new content"


async def test_a_large_input_takes_no_memory(driver: SandboxDriver, input_file: Make) -> None:
    file = input_file("big.bin", b"")
    os.truncate(file.path, 512 * MIB)
    async with opened(driver, file) as session:
        cell = await run(session, "import os\nos.path.getsize('big.bin')")
    assert cell.value == str(512 * MIB)
    assert cell.result.peak_memory_bytes < 200 * MIB


async def test_a_file_is_read_in_chunks(session: SandboxSession) -> None:
    await run(session, "open('big.bin', 'wb').write(bytes(range(256)) * 4096)")
    chunks = [chunk async for chunk in session.read_file("big.bin")]
    assert b"".join(chunks) == bytes(range(256)) * 4096
    assert len(chunks) > 1


@pytest.mark.parametrize("path", ["missing", "", ".", "..", "../etc/passwd", "/etc/passwd", "a/../b", "a\n", "d"])
async def test_a_path_that_is_no_file_is_an_os_error(session: SandboxSession, path: str) -> None:
    await run(session, "import os\nos.mkdir('d')")
    with pytest.raises(OSError):  # noqa: PT011 - the protocol's word
        await read(session, path)


@pytest.mark.on_gvisor
@pytest.mark.on_podman
async def test_files_stay_when_the_interpreter_goes(driver: SandboxDriver, input_file: Make) -> None:
    async with opened(driver, input_file("in.csv")) as session:
        await run(session, "open('out.txt', 'w').write('o'); open('in.csv', 'a').write('x')")
        await run(session, "import os; os._exit(1)")
        cell = await run(session, "open('out.txt').read(), open('in.csv').read()")
        assert cell.value == "('o', 'a,b\\n1,2\\nx')"
        assert cell.changes == {}


@pytest.mark.parametrize("name", ["../outside", "a/../../b", "/etc/passwd", "..", "", "a\0b"])
async def test_a_name_that_leads_elsewhere_is_refused(driver: SandboxDriver, input_file: Make, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name"):
        async with opened(driver, input_file(name)):
            pass


async def test_names_of_any_script_and_length_work(driver: SandboxDriver, input_file: Make) -> None:
    names = ["数据 (2).csv", "x" * 250 + ".csv", "-rf", "a,b:c=d.csv", "'\"$(x).csv"]
    files = [input_file(name, file_id=f"file-{number}") for number, name in enumerate(names)]
    async with opened(driver, *files) as session:
        cell = await run(
            session, "import os\nsorted(n for n in os.listdir() if not n.startswith('file-')), len(open('-rf').read())"
        )
    assert cell.value == str((sorted(names), 8))


async def test_inputs_in_directories_are_told_when_they_go(driver: SandboxDriver, input_file: Make) -> None:
    one, two = input_file("d/e/one.txt"), input_file("f/two.txt", file_id="file-2")
    async with opened(driver, one, two) as session:
        assert (await run(session, "import os, shutil\nopen('d/new', 'w').close()")).changes == {"d/new": "created"}
        assert (await run(session, "open('d/e/one.txt', 'a').write('x')")).changes == {"d/e/one.txt": "modified"}
        assert (await run(session, "os.remove('d/e/one.txt')")).changes == {"d/e/one.txt": "deleted"}
        assert (await run(session, "shutil.rmtree('f'); os.mkdir('f')")).changes == {"f/two.txt": "deleted"}
        assert (await run(session, "1")).changes == {}


async def test_a_name_and_the_name_that_a_helper_file_might_have_live_together(
    driver: SandboxDriver, input_file: Make
) -> None:
    files = [input_file("a.txt.new", b"1", "file-1"), input_file("a.txt", b"2", "file-2")]
    async with opened(driver, *files) as session:
        assert (await run(session, "open('a.txt.new').read() + open('a.txt').read()")).value == "'12'"


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127, "d" * 255 + "/" + "n" * 252])
async def test_names_may_be_as_long_as_linux_lets_them(driver: SandboxDriver, input_file: Make, name: str) -> None:
    async with opened(driver, input_file(name)) as session:
        assert (await run(session, f"open({name!r}).read()")).value == "'a,b\\n1,2\\n'"


async def test_a_longer_name_is_refused_in_words(driver: SandboxDriver, input_file: Make) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a file"):
        await driver.open(SessionSpec("sess_test", LIMITS, (input_file("n" * 256),)))
