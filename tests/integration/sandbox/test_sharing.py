"""Memory that sessions give back when they are idle."""

import asyncio
from pathlib import Path

import pytest

from afarensis_server.sandbox.driver import SandboxDriver, SandboxSession
from afarensis_server.sandbox.local import zygotes
from tests.support.sandbox import guest_with, local, opened, process_of, run

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.on_local]

_PANDAS = "import pandas\nprint(pandas.DataFrame({'a': range(1000), 'b': range(1000)}).groupby('a').sum().describe())"

#: Work of many kinds, with memory given back after each, and all of it checked against what it was the first time.
_WORK = """
import collections, decimal, io, json, random, re
import numpy, pandas
from afarensis_guest import sharing

def tables():
    frame = pandas.DataFrame({"key": list("abcab"), "value": [1.5, 2, 3, 4, 5]})
    return frame.groupby("key").value.agg(["sum", "mean"]).to_csv() + frame.merge(frame, on="key").describe().to_json()
def numbers():
    matrix = numpy.random.default_rng(7).normal(size=(60, 60))
    return repr(numpy.linalg.eigvalsh(matrix @ matrix.T)[:5].round(6).tolist()), decimal.Decimal(2).sqrt()
def texts():
    words = collections.Counter(re.findall(r"[a-z]+", " ".join(sorted(dir(numpy) + dir(pandas)))))
    return json.loads(json.dumps(words.most_common(50)))
def objects():
    made = [type(f"Kind{i}", (), {"number": i, "method": lambda self: self.number})() for i in range(200)]
    return sum(one.method() for one in made), sorted({str(one.__class__.__name__) for one in made})[:3]

work = [tables, numbers, texts, objects]
expected = [repr(one()) for one in work]
kept = [bytearray(random.Random(i).randbytes(3000)) for i in range(300)]
sums = [sum(one) for one in kept]
given, wrong = 0, 0
for turn in range(60):
    for one, wanted in zip(work, expected):
        wrong += repr(one()) != wanted
        given += sharing.give_back(2)
    kept[turn][0] ^= 255
    sums[turn] = sum(kept[turn])
    given += sharing.give_back(2)
    wrong += [sum(one) for one in kept] != sums
given > 1_000_000, wrong
"""

#: Large allocations that libc gives mappings of their own, made before memory is moved.
_LARGE = """

def prepare(_prepare=prepare):
    import ctypes
    _prepare()
    libc = ctypes.CDLL(None)
    libc.memalign.restype = ctypes.c_void_p
    sys.large = [[None] * 1_000_000 for _ in range(2)]
    sys.aligned = [libc.memalign(alignment, 4_000_000) for alignment in (64, 1024, 2**20)]
    for address in sys.aligned: ctypes.memset(address, 97, 4_000_000)
"""


def private_kilobytes(session: SandboxSession) -> int:
    lines = Path(f"/proc/{process_of(session)}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


async def test_an_idle_session_gives_memory_back_and_goes_on(driver: SandboxDriver) -> None:
    async with opened(driver) as session:
        await run(session, _PANDAS)
        used = private_kilobytes(session)
        async with asyncio.timeout(20):
            # Nothing tells when a process gives memory back.
            while private_kilobytes(session) > 0.8 * used:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert "mean" in (await run(session, _PANDAS)).stdout


async def test_what_code_made_is_untouched_by_giving_memory_back(driver: SandboxDriver) -> None:
    async with opened(driver, memory_bytes=512 * 2**20) as session:
        assert (await run(session, _WORK, timeout_seconds=90)).value == "(True, 0)"


async def test_nothing_is_given_back_while_code_has_threads(driver: SandboxDriver) -> None:
    code = """
import threading
from afarensis_guest import sharing
end = threading.Event()
threading.Thread(target=end.wait).start()
given = sharing.give_back(2)
end.set()
given
"""
    async with opened(driver) as session:
        # The guest's own thread is there once something was printed.
        await run(session, "print(1)")
        assert (await run(session, code)).value == "0"


async def test_memory_that_code_mapped_in_place_of_the_zygote_s_stays_code_s(driver: SandboxDriver) -> None:
    code = """
import ctypes, mmap, re
from afarensis_guest import mappings, sharing
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
# What lies in the file is not what code writes over it; the copy that it then has is the zygote's page, all zeros.
with open("own", "wb") as file: file.write(b"o" * 4096)
copy = next(one for one in mappings.read() if "afarensis-zygote" in one.name and one.permissions == "r--p")
zeros = next(at for at in range(copy.start, copy.start + copy.length, 4096) if not any(ctypes.string_at(at, 4096)))
place = next(one for one in mappings.read() if "afarensis-zygote" in one.name and one.permissions == "rw-p"
             and one.offset <= zeros - copy.start < one.offset + one.length)
own = open("own", "r+b")
address = place.start + zeros - copy.start - place.offset
mapped = libc.mmap(address, 4096, 3, 0x12, own.fileno(), 0)
assert mapped == address
ctypes.memset(address, 0, 4096)
sharing.give_back(2)
ctypes.string_at(address, 4) == bytes(4)
"""
    async with opened(driver) as session:
        cell = await run(session, code)
        assert cell.value == "True", cell.result.error


async def test_large_allocations_of_the_zygote_s_can_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zygotes, "_GUEST_CODE", guest_with(_LARGE, tmp_path / "guest"))
    # Larger than all that the zygote moved.
    lists = """
import itertools, sys
for one in sys.large:
    one.extend(itertools.repeat(1, 20_000_000))
    print(one[999_999], one[-1])
    one.clear()
"""
    raw = """
import ctypes, sys
libc = ctypes.CDLL(None)
libc.realloc.restype = ctypes.c_void_p
libc.realloc.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
grown = [libc.realloc(address, 160_000_000) for address in sys.aligned]
for address in grown: ctypes.memset(address + 150_000_000, 98, 10_000_000)
[(ctypes.string_at(address, 4_000_000).count(b"a"), ctypes.string_at(address + 159_999_999, 1)) for address in grown]
"""
    async with local(tmp_path, pool_size=0) as driver, opened(driver, memory_bytes=2**30) as session:
        cell = await run(session, lists)
        assert cell.stdout == "None 1\n" * 2, cell.result.error
        cell = await run(session, raw)
        assert cell.value == "[(4000000, b'b'), (4000000, b'b'), (4000000, b'b')]", cell.result.error


async def test_a_library_takes_two_mappings_and_none_can_be_written_and_executed(driver: SandboxDriver) -> None:
    code = """
import collections
from afarensis_guest import mappings
found = [one for one in mappings.read() if ".cpython-" in one.name]
counts = collections.Counter(one.name for one in found)
usual = collections.Counter(counts.values()).most_common(1)[0][0]
len(counts) > 50, usual, any("wx" in one.permissions for one in found)
"""
    async with opened(driver) as session:
        assert (await run(session, code)).value == "(True, 2, False)"


async def test_code_has_one_thread_until_it_starts_another(driver: SandboxDriver) -> None:
    code = "import threading\nprint(1)\nthreading.active_count(), len(threading.enumerate())"
    async with opened(driver) as session:
        assert (await run(session, code)).value == "(1, 1)"
