import time

import pytest

from .host import Guest


def kinds(cell_events: list[tuple[str, object]]) -> list[str]:
    """The kinds in order, repetitions merged."""
    merged: list[str] = []
    for kind, _ in cell_events:
        if not merged or merged[-1] != kind:
            merged.append(kind)
    return merged


def test_stdout_stderr_and_displays_keep_the_order_they_were_written_in(guest: Guest) -> None:
    code = """
import sys
for i in range(50):
    print("out", i)
    print("err", i, file=sys.stderr)
    display(i)
"""
    cell = guest.run(code)
    assert kinds(cell.events) == ["stdout", "stderr", "display"] * 50


def test_a_flood_does_not_change_the_order(guest: Guest) -> None:
    code = """
import sys
for part in range(3):
    for _ in range(500): print("out")
    print("err", file=sys.stderr)
    display(part)
"""
    cell = guest.run(code)
    assert kinds(cell.events) == ["stdout", "stderr", "display"] * 3
    assert cell.stdout == "out\n" * 1500


def test_a_print_after_a_flood_arrives_while_the_code_goes_on(guest: Guest) -> None:
    code = """
import time
for _ in range(500): print("x")
time.sleep(0.4)
print("now")
open("seen").close()
print("then")
"""
    cell = guest.run_until_seen(code, "now\n")
    assert cell.events[-2:] == [("stdout", "now\n"), ("stdout", "then\n")]


def test_a_write_method_of_the_user_s_outlives_a_flood(guest: Guest) -> None:
    code = """
import sys
plain, seen = sys.stdout.write, []
def write(text):
    seen.append(text)
    return plain(text)
sys.stdout.write = write
for _ in range(300): print("x")
sys.stdout.flush()
print("y")
del sys.stdout.write
seen.count("x"), seen.count("y")
"""
    assert guest.run(code).shown == "(300, 1)"


def test_output_of_children_comes_between_what_was_printed_around_it(guest: Guest) -> None:
    code = """
import os, subprocess
print("1"); subprocess.run(["echo", "2"]); print("3"); os.system("echo 4"); print("5")
"""
    assert guest.run(code).stdout == "1\n2\n3\n4\n5\n"


@pytest.mark.parametrize(
    "say",
    [
        "subprocess.run(['echo', text])",
        "os.system('echo ' + text)",
        "os.waitpid(os.posix_spawn('/bin/echo', ['echo', text], {}), 0)",
        "os.waitpid(os.fork() or (os.write(1, text.encode() + b'\\n'), os._exit(0)), 0)",
    ],
    ids=["run", "system", "spawn", "fork"],
)
def test_output_of_children_keeps_its_order_across_the_streams(guest: Guest, say: str) -> None:
    guest.lag = 0.01
    code = f"""
import os, subprocess, sys
for i in range(10):
    print("err", i, file=sys.stderr)
    text = "out"
    {say}
    display(i)
    {say}
"""
    try:
        cell = guest.run(code)
    finally:
        guest.lag = 0.0
    assert kinds(cell.events) == ["stderr", "stdout", "display", "stdout"] * 10


def test_output_of_c_code_is_captured(guest: Guest) -> None:
    cell = guest.run("import ctypes\nctypes.CDLL(None).printf(b'from C');")
    assert cell.stdout == "from C"


def test_bytes_and_text_keep_their_order(guest: Guest) -> None:
    code = """
import sys
print("a", flush=True)
sys.stdout.buffer.write(b"b\\n")
sys.stderr.buffer.write(b"c\\n")
print("d")
"""
    cell = guest.run(code)
    assert kinds(cell.events) == ["stdout", "stderr", "stdout"]
    assert (cell.stdout, cell.stderr) == ("a\nb\nd\n", "c\n")


def test_a_print_arrives_while_the_code_goes_on(guest: Guest) -> None:
    cell = guest.run_until_seen("print('now')\nopen('seen').close()\nprint('then')", "now\n")
    assert [text for _, text in cell.events] == ["now\n", "then\n"]


def test_a_print_arrives_at_once_after_a_cell_during_which_a_thread_printed(fresh_guest: Guest) -> None:
    fresh_guest.run(
        "import threading, time\n"
        "def chat():\n    while True:\n        print('.', end='')\n        time.sleep(0.0003)\n"
        "threading.Thread(target=chat, daemon=True).start()"
    )
    for _ in range(10):
        assert fresh_guest.run_until_seen("print('LIVE')\nopen('seen').close()", "LIVE").status == "ok"


def test_bytes_written_while_the_host_is_slow_arrive_before_the_cell_ends(guest: Guest) -> None:
    code = """
import sys, time
out = sys.stdout.buffer
for letter in (b"x", b"y"):
    out.write(letter * 60_000)
    time.sleep(0.03)
out.write(b"LAST")
open("seen").close()
"""
    guest.lag = 0.15
    try:
        assert guest.run_until_seen(code, "LAST").status == "ok"
    finally:
        guest.lag = 0.0


def test_what_was_printed_before_the_code_wrapped_the_stream_comes_first(guest: Guest) -> None:
    wrapped = (
        "import io, sys\nprint('a')\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8')\nprint('b')"
    )
    assert guest.run(wrapped).stdout == "a\nb\n"


def test_a_print_arrives_while_c_code_holds_the_thread(guest: Guest) -> None:
    # Opening a FIFO that nobody writes to waits in C.
    assert guest.run_until_seen("print('now')\nopen('seen').close()", "now").status == "ok"


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.stdout.close()",
        "import sys; sys.stdout = None",
        "import sys; sys.stdout = sys.stderr = object()",
        "import sys, io; sys.stdout = io.StringIO()",
        "import sys; del sys.stdout",
        "import os; os.close(1)",
        "import os; os.close(1); os.close(2); print('x')",
        "import os; os.close(0)",
        "import os; os.dup2(os.open(os.devnull, os.O_WRONLY), 1)",
        "import sys, io; sys.stdout = io.TextIOWrapper(sys.stdout.buffer, 'latin-1'); sys.stdout = None",
        "import sys; sys.stdout.detach()",
        "import sys; sys.stdout.buffer.close()",
        "import sys; sys.stdout.buffer.raw.close()",
        "import sys, io; io.TextIOWrapper.detach(sys.stdout)",
        "import sys; sys.stdout.reconfigure(encoding='utf-16', line_buffering=True)",
        "import sys; sys.stdout.__dict__.clear()",
        "import os, sys; os.close(sys.stdin.fileno()); sys.stdin.close()",
    ],
)
def test_the_next_cell_prints_after(guest: Guest, code: str) -> None:
    guest.run(code)
    cell = guest.run(
        "import sys, subprocess\nprint('é')\nprint('err', file=sys.stderr)\nsubprocess.run(['echo', 'child']);"
    )
    assert (cell.status, cell.stdout, cell.stderr) == ("ok", "é\nchild\n", "err\n")


def test_text_printed_to_a_closed_descriptor_arrives_at_the_end(guest: Guest) -> None:
    assert guest.run("import os\nprint('early')\nos.close(1)\nprint('late')").stdout == "early\nlate\n"


def test_output_redirected_by_the_code_goes_where_it_said(guest: Guest) -> None:
    code = """
import contextlib, io
with contextlib.redirect_stdout(io.StringIO()) as caught:
    print("caught")
caught.getvalue()
"""
    cell = guest.run(code)
    assert (cell.stdout, cell.shown) == ("", "'caught\\n'")


def test_text_that_utf8_cannot_carry_is_escaped(guest: Guest) -> None:
    assert guest.run("print('\\udc80')").stdout == "\\udc80\n"


def test_a_line_larger_than_every_buffer_arrives_whole(guest: Guest) -> None:
    assert len(guest.run("print('x' * 10_000_000)").stdout) == 10_000_001


def test_a_thread_that_prints_after_its_cell_does_not_break_the_next(guest: Guest) -> None:
    code = """
import threading, time
stop = threading.Event()
def chatter():
    while not stop.wait(0.001):
        print("chatter")
        display("lost or late")
thread = threading.Thread(target=chatter)
thread.start()
"""
    assert guest.run(code).status == "ok"
    for number in range(20):
        assert guest.run(f"{number} + 1").displays[-1].keys() == {"text/plain"}
    assert guest.run("stop.set(); thread.join()").status == "ok"


def test_a_child_left_behind_that_goes_on_printing_does_not_hold_the_cell(guest: Guest) -> None:
    started = time.monotonic()
    cell = guest.run("import subprocess\nchild = subprocess.Popen(['sh', '-c', 'while :; do echo spam; done'])")
    assert cell.status == "ok"
    assert time.monotonic() - started < 5
    assert guest.run("child.kill(); child.wait()").shown == "-9"


def test_forked_children_print_once(guest: Guest) -> None:
    code = """
import os
print("before")
if os.fork() == 0:
    print("child")
    os._exit(0)
os.wait()
print("after")
"""
    assert guest.run(code).stdout == "before\nchild\nafter\n"


def test_logging_set_up_in_one_cell_works_in_the_next(guest: Guest) -> None:
    guest.run("import logging\nlogging.basicConfig(level='INFO', force=True)\nlogging.info('one')")
    assert guest.run("logging.info('two')").stderr == "INFO:root:two\n"


def test_a_flood_of_lines_comes_in_large_pieces(guest: Guest) -> None:
    cell = guest.run("for i in range(250_000):\n    print('x' * 79)")
    assert len(cell.stdout) == 20_000_000
    # Mostly what a pipe holds, 64 KiB; a line each would be 250,000.
    assert len(cell.events) < 1_000


def test_threads_that_print_around_forks_do_not_hang(guest: Guest) -> None:
    code = """
import os, sys, threading
for i in range(60):
    pid = os.fork()
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
    threads = [threading.Thread(target=print, args=(i,), kwargs={"file": f}) for f in (sys.stdout, sys.stderr)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""
    cell = guest.run(code)
    assert (cell.status, len(cell.stdout.split()), len(cell.stderr.split())) == ("ok", 60, 60)


def test_a_child_that_is_forked_while_a_thread_prints_does_not_hang_and_prints_too(guest: Guest) -> None:
    # logging takes its lock before each fork, after the guest's own preparations: the last moment to begin a write.
    code = """
import fcntl, logging, os, select, signal, sys, termios, threading
print("so that the thread need not wait for the order")
known, plain = sys.stdout, logging._lock
thread = threading.Thread(target=sys.stdout.write, args=("x" * 20_000_000,))
class Late:
    release, _at_fork_reinit = plain.release, plain._at_fork_reinit
    def acquire(self):
        plain.acquire()
        thread.start()
        while fcntl.ioctl(1, termios.FIONREAD, bytes(4)) == bytes(4): os.sched_yield()
logging._lock = Late()
pid = os.fork()
if pid == 0:
    print("<new>")
    print("<known>", file=known)
    known.buffer.write(b"<bytes>")
    known.flush()
    os._exit(0)
logging._lock = plain
thread.join()
if not select.select([os.pidfd_open(pid)], [], [], 10)[0]: os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)[1]
"""
    cell = guest.run(code)
    assert cell.shown == "0"
    assert [cell.stdout.count(text) for text in ("xx", "<new>", "<known>", "<bytes>")] == [10_000_000, 1, 1, 1]
