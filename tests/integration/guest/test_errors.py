import pytest

from .host import Guest


def test_a_traceback_shows_the_users_lines_of_every_cell(guest: Guest) -> None:
    guest.run("def ratio(a, b):\n    return a / b")
    error = guest.run("x = 0\n\nratio(1, x)").error
    assert (error["name"], error["value"]) == ("ZeroDivisionError", "division by zero")
    lines = [line for line in error["traceback"].split("\n") if line.strip(" ~^")]
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith(", line 3")
    assert lines[2] == "    ratio(1, x)"
    assert lines[3].endswith(", line 2, in ratio")
    assert lines[4] == "    return a / b"
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert "File" not in error["traceback"]


def test_frames_of_libraries_are_left_out(guest: Guest) -> None:
    error = guest.run("import json\njson.loads('{')").error
    assert error["traceback"].count(", line ") == 1
    assert "json.loads('{')" in error["traceback"]
    assert error["name"] == "JSONDecodeError"


def test_frames_of_the_users_own_modules_are_shown(guest: Guest) -> None:
    (guest.data / "broken_helper.py").write_text("def fail():\n    raise ValueError('from the helper')\n")
    trace = guest.run("import broken_helper\nbroken_helper.fail()").error["traceback"]
    assert "broken_helper.py\", line 2, in fail\n    raise ValueError('from the helper')" in trace


def test_causes_are_shown(guest: Guest) -> None:
    trace = guest.run("try:\n    1/0\nexcept Exception as e:\n    raise KeyError('k') from e").error["traceback"]
    assert "ZeroDivisionError: division by zero\n\nThe above exception was the direct cause" in trace
    assert trace.endswith("KeyError: 'k'")


def test_groups_and_notes_are_shown(guest: Guest) -> None:
    code = "e = ValueError('inner')\ne.add_note('a note')\nraise ExceptionGroup('several', [e])"
    trace = guest.run(code).error["traceback"]
    assert "ValueError: inner" in trace
    assert "a note" in trace


def test_a_syntax_error_points_at_the_place(guest: Guest) -> None:
    error = guest.run("x = 1\ny = = 2").error
    assert error["name"] == "SyntaxError"
    first, *rest = error["traceback"].split("\n")
    assert first.endswith(", line 2")
    assert rest == ["    y = = 2", "        ^", "SyntaxError: invalid syntax"]


@pytest.mark.parametrize(
    "code", ["return 1", "x = '\0'", "(" * 5000, "def f(:\n  pass", "  x = 1", "await = 3", "x = '\udc80'"]
)
def test_code_that_does_not_compile_is_an_error(guest: Guest, code: str) -> None:
    assert guest.run(code).status == "error"
    assert guest.run("1").shown == "1"


def test_endless_recursion_is_an_error_with_a_short_traceback(guest: Guest) -> None:
    error = guest.run("def f(n):\n    return f(n + 1)\nf(0)").error
    assert error["name"] == "RecursionError"
    assert "Previous line repeated" in error["traceback"]
    assert len(error["traceback"]) < 2000


@pytest.mark.parametrize(
    "code",
    [
        "class E(Exception):\n    def __str__(self): return 1 / 0\nraise E",
        "class E(Exception):\n    def __str__(self): return None\nraise E",
        "class E(Exception):\n    __notes__ = 3\nraise E",
        "class M(type):\n    def __getattribute__(c, n): raise OSError\nclass E(Exception, metaclass=M): pass\nraise E",
        "raise ValueError('x' * 10**7)",
        "raise ValueError('\\udc80')",
        "e = ValueError()\ne.__context__ = e\nraise e",
        "raise type('N' * 10**6, (Exception,), {})",
        "raise GeneratorExit",
        "import asyncio\nraise asyncio.CancelledError",
        "class B(BaseException): pass\nraise B",
        "raise KeyboardInterrupt",
        "raise 3",
        "import sys\nsys.setrecursionlimit(10**9)\nraise ValueError",
        "import linecache\nlinecache.clearcache()\n1/0",
        "import linecache\nlinecache.cache = None\n1/0",
    ],
)
def test_a_strange_error_is_an_error_all_the_same(guest: Guest, code: str) -> None:
    cell = guest.run(code)
    assert cell.status == "error"
    assert cell.error["name"]
    assert len(str(cell.error)) < 60_000
    assert guest.run("1 + 1").shown == "2"


def test_a_warning_names_the_cell_and_is_repeated_in_the_next(guest: Guest) -> None:
    code = "import warnings\nwarnings.warn('careful')"
    for _ in range(2):
        stderr = guest.run(code).stderr
        assert ":2: UserWarning: careful\n  warnings.warn('careful')" in stderr
        assert stderr.startswith("Cell ")


def test_an_error_in_a_thread_is_printed_with_the_users_frames(guest: Guest) -> None:
    cell = guest.run("import threading\nt = threading.Thread(target=lambda: 1/0)\nt.start(); t.join()")
    assert cell.status == "ok"
    assert "ZeroDivisionError" in cell.stderr
    assert "threading.py" not in cell.stderr


def test_a_crash_leaves_a_trace_on_stderr(fresh_guest: Guest) -> None:
    fresh_guest.start("import ctypes\nprint('before', flush=True)\nctypes.string_at(0)")
    with pytest.raises(Exception, match=r"(?s)Segmentation fault.*Cell 1") as death:
        fresh_guest.finish()
    assert death.value.args[0] == -11


def test_the_source_of_a_function_can_be_read(guest: Guest) -> None:
    guest.run("def documented():\n    return 'x'")
    assert (
        guest.run("import inspect\nprint(inspect.getsource(documented))").stdout
        == "def documented():\n    return 'x'\n\n"
    )
