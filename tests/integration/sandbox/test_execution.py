"""What every driver does with code."""

import asyncio
from contextlib import aclosing

import pytest

from afarensis_server.sandbox.driver import (
    ExecutionStatus,
    Output,
    OutputStream,
    Result,
    SandboxDriver,
    SandboxSession,
)
from tests.support.sandbox import MIB, ended, opened, run

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.on_gvisor
@pytest.mark.on_podman
async def test_state_stays_between_cells(session: SandboxSession) -> None:
    await run(session, "x = 20")
    assert (await run(session, "x += 1\nx")).value == "21"


async def test_last_expression_and_output_are_shown(session: SandboxSession) -> None:
    cell = await run(session, "import sys\nprint('out')\nprint('err', file=sys.stderr)\n6 * 7")
    assert (cell.status, cell.stdout, cell.stderr, cell.value) == (ExecutionStatus.OK, "out\n", "err\n", "42")


async def test_failing_code_is_a_result(session: SandboxSession) -> None:
    cell = await run(session, "def f():\n    return 1 / 0\nf()")
    assert (cell.status, cell.error) == (ExecutionStatus.ERROR, "ZeroDivisionError")
    assert cell.result.error is not None
    assert "line 2" in cell.result.error.traceback
    assert not cell.result.state_lost


@pytest.mark.on_gvisor
@pytest.mark.on_podman
async def test_output_comes_while_the_code_runs(session: SandboxSession) -> None:
    seen = asyncio.Event()
    code = "import time\nprint('first', flush=True)\ntime.sleep(5)"

    async def watch() -> None:
        async for event in session.execute(code, timeout_seconds=20):
            if isinstance(event, Output) and "first" in event.text:
                seen.set()

    task = asyncio.create_task(watch())
    async with asyncio.timeout(3):
        await seen.wait()
    await session.interrupt()
    await task


@pytest.mark.on_gvisor
@pytest.mark.on_podman
async def test_output_of_child_processes_is_captured(session: SandboxSession) -> None:
    cell = await run(session, "import subprocess\nprint('one')\nsubprocess.run(['/bin/echo', 'two'])\nprint('three')")
    assert cell.stdout == "one\ntwo\nthree\n"


async def test_characters_are_not_split_and_bad_bytes_are_replaced(session: SandboxSession) -> None:
    code = "import os\nos.write(1, '汉'.encode()[:1]); os.write(1, '汉'.encode()[1:]); os.write(1, b'\\xff|')\nNone"
    assert (await run(session, code)).stdout == "汉\N{REPLACEMENT CHARACTER}|"


async def test_output_beyond_the_limit_is_counted_and_dropped(driver: SandboxDriver) -> None:
    async with opened(driver, output_bytes=1000) as session:
        cell = await run(session, "print('x' * 5000)")
    assert cell.stdout == "x" * 1000
    assert cell.result.dropped_bytes == 4001
    assert "output_bytes" in cell.exceeded
    dropped = [event for event in cell.events if isinstance(event, Output) and event.dropped_bytes]
    assert [(event.stream, event.dropped_bytes) for event in dropped] == [(OutputStream.STDOUT, 4001)]


async def test_events_are_small_however_much_is_printed(driver: SandboxDriver) -> None:
    async with opened(driver, output_bytes=8 * MIB) as session:
        cell = await run(session, "for _ in range(50_000): print('y' * 79)")
    outputs = [event for event in cell.events if isinstance(event, Output)]
    assert len(cell.stdout) == 4_000_000
    assert max(len(event.text) for event in outputs) <= 64 * 1024
    assert len(outputs) < 1000


async def test_a_flood_of_bytes_that_are_no_text_stays_small_and_whole(driver: SandboxDriver) -> None:
    async with opened(driver, output_bytes=8 * MIB) as session:
        cell = await run(
            session, "import os\nfor _ in range(100): os.write(1, b'\\xff' * 10_000 + 'é'.encode() * 5_000)"
        )
    outputs = [event for event in cell.events if isinstance(event, Output)]
    assert cell.stdout == ("\ufffd" * 10_000 + "é" * 5_000) * 100
    assert max(len(event.text.encode()) for event in outputs) <= 64 * 1024


@pytest.mark.on_gvisor
@pytest.mark.on_podman
async def test_what_is_printed_after_a_display_comes_after_it(session: SandboxSession) -> None:
    code = """
for i in range(60):
    print("before", flush=True)
    display({"application/x-big": "x" * 5000}, raw=True)
    print("after", flush=True)
"""
    cell = await run(session, code)
    shown = [event.text if isinstance(event, Output) else "display\n" for event in cell.events[:-1]]
    assert "".join(shown) == "before\ndisplay\nafter\n" * 60


async def test_all_of_a_flood_arrives_though_code_widens_its_pipe(driver: SandboxDriver) -> None:
    code = "import fcntl, os\nfcntl.fcntl(1, 1031, 2**20)\nfor _ in range(40): os.write(1, b'z' * 100_000)"
    async with opened(driver, output_bytes=8 * MIB) as session:
        cell = await run(session, code)
    assert cell.stdout == "z" * 4_000_000


@pytest.mark.on_gvisor
@pytest.mark.on_podman
async def test_time_limit_interrupts_and_keeps_the_state(session: SandboxSession) -> None:
    await run(session, "x = 1")
    cell = await run(session, "import time\ntime.sleep(30)", timeout_seconds=0.3)
    assert (cell.status, cell.result.state_lost) == (ExecutionStatus.TIMEOUT, False)
    assert cell.exceeded == {"timeout"}
    assert (await run(session, "x")).value == "1"


@pytest.mark.on_gvisor
@pytest.mark.on_podman
async def test_code_that_ignores_the_interrupt_is_killed(session: SandboxSession) -> None:
    await run(session, "open('kept.txt', 'w').write('kept')")
    stubborn = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    cell = await run(session, stubborn, timeout_seconds=0.3)
    assert (cell.status, cell.result.state_lost) == (ExecutionStatus.TIMEOUT, True)
    assert cell.result.wall_seconds < 10
    after = await run(session, "open('kept.txt').read()")
    assert (after.value, after.result.state_lost) == ("'kept'", False)


async def test_interrupt_keeps_the_state(session: SandboxSession) -> None:
    await run(session, "x = 7")

    async def interrupt_soon() -> None:
        async for event in session.execute("print('go', flush=True)\nwhile True: pass", timeout_seconds=20):
            if isinstance(event, Output):
                await session.interrupt()
            else:
                results.append(event)

    results: list[object] = []
    await interrupt_soon()
    assert getattr(results[-1], "status", None) is ExecutionStatus.INTERRUPTED
    assert (await run(session, "x")).value == "7"


async def interrupt_at_output(session: SandboxSession, code: str) -> Result:
    """Run code and interrupt it at its first output."""
    interrupted = False
    async for event in session.execute(code, timeout_seconds=30):
        if isinstance(event, Output) and not interrupted:
            interrupted = True
            await session.interrupt()
        if isinstance(event, Result):
            return event
    raise AssertionError("no result")


@pytest.mark.on_gvisor
@pytest.mark.on_podman
async def test_an_interrupt_that_python_swallows_is_sent_again(session: SandboxSession) -> None:
    # What is raised while Python calls such a function goes nowhere.
    code = """
import time, weakref
class Thing: pass
x, thing = 7, Thing()
note = weakref.ref(thing, lambda _: (print("calling back", flush=True), time.sleep(60)))
del thing
time.sleep(60)
"""
    result = await interrupt_at_output(session, code)
    assert (result.status, result.state_lost) == (ExecutionStatus.INTERRUPTED, False)
    assert (await run(session, "x")).value == "7"


async def test_what_the_code_does_at_an_interrupt_is_not_interrupted(session: SandboxSession) -> None:
    cleaning = (
        "import time\ntry:\n    print('go', flush=True)\n    time.sleep(60)\nfinally:\n    time.sleep(0.25)\n    x = 8"
    )
    assert (await interrupt_at_output(session, cleaning)).status is ExecutionStatus.INTERRUPTED
    assert (await run(session, "x")).value == "8"


async def test_a_handler_of_the_code_s_own_is_called_once(session: SandboxSession) -> None:
    code = """
import signal, time
calls = []
signal.signal(signal.SIGINT, lambda *_: calls.append(1))
print("go", flush=True)
while not calls: time.sleep(0.01)
time.sleep(0.25)
"""
    assert not (await interrupt_at_output(session, code)).state_lost
    assert (await run(session, "calls")).value == "[1]"


async def test_code_that_waits_for_the_interrupt_is_left_to_it(session: SandboxSession) -> None:
    code = """
import signal, time
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
print("go", flush=True)
try:
    signal.sigwait({signal.SIGINT})
    time.sleep(0.25)
    x = "shut down"
finally:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
"""
    await interrupt_at_output(session, code)
    assert (await run(session, "x")).value == "'shut down'"


async def test_interrupt_without_code_does_nothing(session: SandboxSession) -> None:
    await session.interrupt()
    assert (await run(session, "1")).status is ExecutionStatus.OK


async def test_closing_the_iterator_interrupts_and_leaves_the_session_usable(session: SandboxSession) -> None:
    await run(session, "x = 3")
    async with aclosing(session.execute("print('go', flush=True)\nwhile True: pass", timeout_seconds=60)) as events:
        async for _ in events:
            break
    assert (await run(session, "x", timeout_seconds=5)).value == "3"


async def test_cancelling_the_reader_leaves_the_session_usable(session: SandboxSession) -> None:
    await run(session, "x = 4")
    task = asyncio.create_task(run(session, "while True: pass", timeout_seconds=60))
    await asyncio.wait([task], timeout=0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await run(session, "x", timeout_seconds=5)).value == "4"


@pytest.mark.on_gvisor
@pytest.mark.on_podman
@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; os._exit(3)", "status 3"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("import os; os.abort()", "SIG"),
    ],
)
async def test_death_of_the_interpreter_is_told_at_once(session: SandboxSession, code: str, words: str) -> None:
    await run(session, "open('kept.txt', 'w').write('kept')")
    cell = await run(session, f"print('before', flush=True)\n{code}")
    assert (cell.status, cell.result.state_lost, cell.stdout) == (ExecutionStatus.SESSION_LOST, True, "before\n")
    assert cell.result.error is not None
    assert words in cell.result.error.value
    assert (await run(session, "open('kept.txt').read()")).value == "'kept'"


async def test_death_between_cells_is_told_by_the_next(session: SandboxSession) -> None:
    code = "import threading, os, time\nthreading.Thread(target=lambda: (time.sleep(0.05), os._exit(1))).start()"
    await run(session, code)
    await ended(session)
    cell = await run(session, "1 + 1")
    assert (cell.value, cell.result.state_lost) == ("2", True)


async def test_closing_the_session_ends_what_runs_in_it(driver: SandboxDriver) -> None:
    async with opened(driver) as session:
        task = asyncio.create_task(run(session, "while True: pass", timeout_seconds=60))
        await asyncio.wait([task], timeout=0.2)
    cell = await asyncio.wait_for(task, 5)
    assert (cell.status, cell.result.state_lost) == (ExecutionStatus.INTERRUPTED, True)


async def test_closing_the_session_does_not_wait_for_a_reader_that_stopped(driver: SandboxDriver) -> None:
    async with asyncio.timeout(5), opened(driver) as session:
        events = session.execute("print('go', flush=True)\nwhile True: pass", timeout_seconds=60)
        await anext(events)
    await events.aclose()


async def test_another_interpreter_is_told_before_code_runs_in_it(session: SandboxSession) -> None:
    assert not await session.prepare()
    await run(session, "import os; os._exit(3)")
    assert await session.prepare()
    assert not await session.prepare()
    cell = await run(session, "1 + 1")
    assert (cell.value, cell.result.state_lost) == ("2", False)


async def test_sys_exit_keeps_the_interpreter(session: SandboxSession) -> None:
    await run(session, "x = 5")
    assert not (await run(session, "import sys; sys.exit(2)")).result.state_lost
    assert (await run(session, "x")).value == "5"


async def test_closed_standard_output_does_not_hang(session: SandboxSession) -> None:
    await run(session, "import os; os.close(1); os.close(2)")
    assert (await run(session, "print('back'); 1")).status is ExecutionStatus.OK


@pytest.mark.on_gvisor
@pytest.mark.on_podman
async def test_a_process_left_behind_does_not_hold_the_result(session: SandboxSession) -> None:
    cell = await run(session, "import subprocess\n_ = subprocess.Popen(['/bin/sleep', '60'])", timeout_seconds=10)
    assert cell.status is ExecutionStatus.OK
    assert cell.result.wall_seconds < 5


@pytest.mark.on_gvisor
@pytest.mark.on_podman
async def test_a_slow_reader_slows_the_code_and_loses_nothing(driver: SandboxDriver) -> None:
    async with opened(driver, output_bytes=8 * MIB) as session:
        size = 0
        async for event in session.execute("for _ in range(30_000): print('z' * 79)", timeout_seconds=30):
            if isinstance(event, Output):
                size += len(event.text)
                await asyncio.sleep(0)
        assert size == 2_400_000


@pytest.mark.on_gvisor
@pytest.mark.on_podman
async def test_threads_processes_and_pools_work(session: SandboxSession) -> None:
    code = """
import concurrent.futures, multiprocessing, subprocess, asyncio, tempfile, os
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert sum(pool.map(lambda x: x * x, range(10))) == 285
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(abs, [-1, -2]) == [1, 2]
assert subprocess.check_output(["sh", "-c", "echo hi | cat"]) == b"hi\\n"
await asyncio.sleep(0)
proc = await asyncio.create_subprocess_exec("true"); assert await proc.wait() == 0
with tempfile.NamedTemporaryFile() as f:
    os.sendfile(f.fileno(), os.open("/etc/passwd", 0), 0, 10)
"done"
"""
    cell = await run(session, code)
    assert cell.value == "'done'", cell.result.error


async def test_the_libraries_work(session: SandboxSession) -> None:
    code = """
import numpy as np, pandas as pd, matplotlib.pyplot as plt, sqlite3, scipy.optimize, sklearn.linear_model
frame = pd.DataFrame({"a": np.arange(10), "b": np.arange(10) ** 2})
frame.to_csv("out.csv"); frame.to_excel("out.xlsx"); plt.plot(frame.a, frame.b); plt.savefig("out.png"); plt.close()
sklearn.linear_model.LinearRegression(n_jobs=2).fit(frame[["a"]], frame.b)
int(pd.read_csv("out.csv").b.sum())
"""
    cell = await run(session, code, timeout_seconds=60)
    assert cell.value == "285", cell.result.error
    assert cell.changes == {"out.csv": "created", "out.png": "created", "out.xlsx": "created"}


async def test_random_numbers_differ_between_sessions(driver: SandboxDriver) -> None:
    code = "import random, numpy as np\nrandom.random(), np.random.rand(), np.random.default_rng().random()"
    async with opened(driver) as one, opened(driver) as other:
        assert (await run(one, code)).value != (await run(other, code)).value


async def test_what_was_spent_is_measured(session: SandboxSession) -> None:
    code = """
import time
data = bytearray(b"x") * 2**26
end = time.process_time() + 0.2
while time.process_time() < end: pass
"""
    cell = await run(session, code)
    assert 0.15 < cell.result.cpu_seconds <= cell.result.wall_seconds + 0.5
    assert cell.result.peak_memory_bytes > 64 * MIB
