import random
import time

import pytest

from .host import Guest


def interrupted(guest: Guest, code: str) -> None:
    guest.start(f"print('running', flush=True)\n{code}")
    cell = guest.finish_after_output("running")
    assert cell.status == "interrupted"
    assert cell.error["name"] == "KeyboardInterrupt"
    assert cell.error["value"] == "The execution was interrupted."


@pytest.mark.parametrize(
    "code",
    [
        "import time; time.sleep(60)",
        "while True: pass",
        "while True: print('x' * 50)",
        "import subprocess; subprocess.run(['sleep', '60'])",
        "!sleep 60",
        "lines = !sleep 60",
        "import asyncio; await asyncio.sleep(60)",
        "import asyncio; asyncio.run(asyncio.sleep(60))",
        "import threading; threading.Event().wait()",
        "import threading, time; t = threading.Thread(target=time.sleep, args=(60,), daemon=True); t.start(); t.join()",
        "display(type('Slow', (), {'_repr_html_': lambda self: __import__('time').sleep(60)})())",
        "while True: display(1)",
        "%timeit -n 1 -r 1 __import__('time').sleep(60)",
    ],
)
def test_an_interrupt_ends_the_cell_and_keeps_the_state(guest: Guest, code: str) -> None:
    guest.run("kept = 'state'")
    interrupted(guest, code)
    assert guest.run("kept").shown == "'state'"


def test_cleanup_of_an_interrupted_coroutine_runs(guest: Guest) -> None:
    guest.start(
        "import asyncio\ntry:\n    print('running', flush=True)\n    await asyncio.sleep(60)\n"
        "finally:\n    cleaned = True"
    )
    assert guest.finish_after_output("running").status == "interrupted"
    assert guest.run("cleaned").shown == "True"


def test_an_interrupt_between_cells_does_nothing(guest: Guest) -> None:
    for _ in range(20):
        guest.interrupt()
        assert guest.run("'fine'").status in ("ok", "interrupted")  # it may arrive when the cell already runs
    time.sleep(0.05)  # the last one is over for certain
    assert guest.run("'fine'").status == "ok"


def test_code_may_handle_the_interrupt_itself(guest: Guest) -> None:
    guest.start(
        "import time\ntry:\n    print('running', flush=True)\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    print('caught')"
    )
    cell = guest.finish_after_output("running")
    assert cell.status == "ok"
    assert cell.stdout.endswith("caught\n")


def test_a_signal_handler_of_the_code_does_not_outlive_its_cell(guest: Guest) -> None:
    guest.run("import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)")
    interrupted(guest, "while True: pass")


def test_interrupts_at_any_moment_never_break_the_guest(guest: Guest) -> None:
    dice = random.Random(1)
    code = (
        "import sys\nfor i in range(300):\n    print('out', i)\n    print('err', i, file=sys.stderr)\n    display(i)\ni"
    )
    statuses = set()
    for _ in range(60):
        guest.start(code)
        for _ in range(2):
            time.sleep(dice.random() * 0.01)
            guest.interrupt()
        statuses.add(guest.finish().status)
    assert statuses <= {"ok", "interrupted"}
    assert "interrupted" in statuses


@pytest.mark.parametrize("fork", ["os.fork()", "os.forkpty()[0]"])
@pytest.mark.parametrize("moment", ["before", "after_in_parent"])
def test_an_interrupt_during_a_fork_ends_the_cell_after_it(fresh_guest: Guest, moment: str, fork: str) -> None:
    # Whatever is raised while Python calls these functions goes nowhere.
    hook = """
import os, signal
kept, parent, begun = "state", os.getpid(), True
os.register_at_fork(MOMENT=lambda: begun and os.kill(parent, signal.SIGINT))
"""
    code = """
try:
    if FORK == 0: os._exit(0)
    print("went on")
finally:
    begun = False
    print("cleaned", flush=True)
"""
    fresh_guest.run(hook.replace("MOMENT", moment))
    cell = fresh_guest.run(code.replace("FORK", fork))
    assert (cell.status, cell.stdout) == ("interrupted", "cleaned\n")
    fresh_guest.run("os.wait()")
    assert fresh_guest.run("kept").shown == "'state'"
