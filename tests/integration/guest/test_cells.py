import pytest

from .host import Guest


def test_a_fresh_guest_prints_nothing(fresh_guest: Guest) -> None:
    assert fresh_guest.greeting.events == []


def test_variables_stay_from_cell_to_cell(guest: Guest) -> None:
    guest.run("kept = 41")
    assert guest.run("print(kept + 1)").stdout == "42\n"


def test_the_last_expression_is_displayed_and_bound_to_underscore(guest: Guest) -> None:
    assert guest.run("6 * 7").shown == "42"
    assert guest.run("_ + 1").shown == "43"


@pytest.mark.parametrize("code", ["None", "x = 1", "6 * 7;", "6 * 7 ;  # no, thanks", "'é' ;", "", "# nothing", "\n\n"])
def test_nothing_is_displayed_for(guest: Guest, code: str) -> None:
    cell = guest.run(code)
    assert (cell.status, cell.events) == ("ok", [])


def test_a_semicolon_in_a_string_does_not_hide_the_value(guest: Guest) -> None:
    assert guest.run("'a;'  # ;").shown == "'a;'"


def test_await_works_at_top_level_and_tasks_keep_their_loop(guest: Guest) -> None:
    guest.run("import asyncio\nqueue = asyncio.Queue()\nawait queue.put(5)\ntask = asyncio.create_task(queue.get())")
    assert guest.run("await task").shown == "5"


def test_asyncio_run_works_too(guest: Guest) -> None:
    assert guest.run("import asyncio\nasync def f():\n    return 3\nasyncio.run(f())").shown == "3"


def test_future_imports_stay_on(guest: Guest) -> None:
    guest.run("from __future__ import annotations")
    assert guest.run("def f(x: Undefined): ...\nf.__annotations__").shown == "{'x': 'Undefined'}"


def test_classes_of_a_cell_can_be_pickled(guest: Guest) -> None:
    code = """
from dataclasses import dataclass
import pickle
@dataclass
class Point:
    x: int
pickle.loads(pickle.dumps(Point(3)))
"""
    assert guest.run(code).shown == "Point(x=3)"


def test_functions_of_a_cell_run_in_other_processes(guest: Guest) -> None:
    code = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
def square(x):
    print("squaring", x)
    return x * x
with multiprocessing.Pool(2) as pool:
    print(pool.map(square, [2, 3]))
with ProcessPoolExecutor(2) as pool:
    print(list(pool.map(square, [4])))
"""
    cell = guest.run(code)
    assert sorted(cell.stdout.split("\n")) == sorted(["", "squaring 2", "squaring 3", "[4, 9]", "squaring 4", "[16]"])


def test_modules_beside_the_data_can_be_imported_and_leave_no_cache(guest: Guest) -> None:
    (guest.data / "helper_of_mine.py").write_text("answer = 42\n")
    assert guest.run("import helper_of_mine, os\nhelper_of_mine.answer, os.listdir('.')").shown == (
        "(42, ['helper_of_mine.py'])"
    )


def test_a_data_file_does_not_hide_a_standard_module(guest: Guest) -> None:
    (guest.data / "colorsys.py").write_text("raise RuntimeError\n")
    assert guest.run("import colorsys").status == "ok"


def test_main_guard_runs(guest: Guest) -> None:
    assert guest.run("if __name__ == '__main__':\n    print('yes')").stdout == "yes\n"


@pytest.mark.parametrize("code", ["import sys; sys.exit()", "raise SystemExit(0)", "exit()", "quit(0)"])
def test_a_clean_exit_is_ok_and_keeps_the_state(guest: Guest, code: str) -> None:
    guest.run("kept = 'state'")
    assert guest.run(code).status == "ok"
    assert guest.run("kept").shown == "'state'"


def test_an_exit_with_a_status_is_an_error_and_keeps_the_state(guest: Guest) -> None:
    guest.run("kept = 'state'")
    cell = guest.run("import sys; sys.exit(3)")
    assert (cell.status, cell.error["name"], cell.error["value"]) == (
        "error",
        "SystemExit",
        "The code called sys.exit(3).",
    )
    assert guest.run("kept").shown == "'state'"


def test_input_says_that_nobody_can_answer(guest: Guest) -> None:
    cell = guest.run("name = input('Your name? ')")
    assert cell.error["name"] == "EOFError"
    assert "input() does not work here" in cell.error["value"]


def test_standard_input_is_empty(guest: Guest) -> None:
    assert guest.run("import sys\nsys.stdin.read()").shown == "''"


def test_code_that_goes_on_in_a_forked_child_cannot_answer_for_the_session(guest: Guest) -> None:
    code = """
import os
child = os.fork()
status = os.waitpid(child, 0)[1] if child else None
print("parent" if child else "child")
display(1)
"""
    cell = guest.run(code)
    assert (cell.stdout, len(cell.displays)) == ("child\nparent\n", 1)
    assert guest.run("status").shown == "0"


def test_the_guest_ends_when_the_host_hangs_up_even_if_threads_go_on(fresh_guest: Guest) -> None:
    fresh_guest.run("import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()")
    assert fresh_guest.close() == 0


def test_closing_every_descriptor_ends_the_session_only(fresh_guest: Guest) -> None:
    fresh_guest.start("import os\nos.closerange(3, 5000)")
    assert fresh_guest.process.wait(10) == 1


def test_a_timer_left_behind_does_not_end_the_session(guest: Guest) -> None:
    code = "import signal\nsignal.signal(signal.SIGALRM, lambda *_: 1 / 0)\nsignal.setitimer(signal.ITIMER_REAL, 0.05)"
    assert guest.run(code).status == "ok"
    assert guest.run("import time; time.sleep(0.1)").status == "ok"


def test_a_timer_works_within_its_cell(guest: Guest) -> None:
    code = (
        "import signal, time\nsignal.signal(signal.SIGALRM, lambda *_: 1 / 0)\nsignal.setitimer(0, 0.01)\ntime.sleep(5)"
    )
    assert guest.run(code).error["name"] == "ZeroDivisionError"


def test_a_recursion_limit_that_is_too_low_is_not_kept(guest: Guest) -> None:
    assert guest.run("import sys\nsys.setrecursionlimit(40)").status == "ok"
    assert guest.run("sys.getrecursionlimit()").shown == "1000"


def test_orphans_given_to_the_guest_leave_no_zombies_and_children_keep_their_status(guest: Guest) -> None:
    code = """
import ctypes, os, subprocess, time
PR_SET_CHILD_SUBREAPER = 36  # as process 1 of a namespace is
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
orphan = int(subprocess.check_output("sleep 0.05 >/dev/null & echo $!", shell=True))
own = subprocess.Popen(["sh", "-c", "exit 4"])
while open(f"/proc/{orphan}/stat").read().split()[2] != "Z" or open(f"/proc/{own.pid}/stat").read().split()[2] != "Z":
    time.sleep(0.001)
"""
    assert guest.run(code).status == "ok"
    assert guest.run("os.path.exists(f'/proc/{orphan}'), own.wait()").shown == "(False, 4)"
