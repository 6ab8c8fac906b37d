import pytest

from .host import Guest


def test_a_shell_command_prints_as_it_runs(guest: Guest) -> None:
    cell = guest.run("print('a')\n!echo b; echo c >&2; exit 3\nprint('d', _exit_code)")
    assert (cell.stdout, cell.stderr) == ("a\nb\nd 3\n", "c\n")


def test_a_shell_command_gives_its_lines(guest: Guest) -> None:
    assert guest.run("lines = !printf 'a\\nb\\n'\nlines").shown == "['a', 'b']"


def test_names_of_the_code_are_put_into_a_command_and_the_rest_is_the_shells(guest: Guest) -> None:
    code = "name = 'x y'\nif True:\n    !echo {name.upper()} $name $$HOME; echo a b | awk '{print $2}'"
    assert guest.run(code).stdout == f"X Y x y {guest.data}\nb\n"


def test_a_percent_sign_in_python_is_left_alone(guest: Guest) -> None:
    assert guest.run("text = '''\n%time x\n!ls\n'''\nx = (7\n% 4)\n!echo {x}\ntext").shown == "'\\n%time x\\n!ls\\n'"


def test_time_measures_and_gives_the_value(guest: Guest) -> None:
    cell = guest.run("%time sum(range(10))")
    assert cell.shown == "45"
    assert "Wall time: " in cell.stdout


def test_time_of_a_cell_keeps_its_names(guest: Guest) -> None:
    cell = guest.run("# how long?\n%%time\nmade_in_timed_cell = 3\nmade_in_timed_cell + 1")
    assert (cell.shown, guest.run("made_in_timed_cell").shown) == ("4", "3")


@pytest.mark.parametrize("code", ["%timeit -n 2 -r 3 sum([1])", "%%timeit -n2 -r3 values = [1]\nsum(values)"])
def test_timeit_measures(guest: Guest, code: str) -> None:
    assert "(mean ± std. dev. of 3 runs, 2 loops each)" in guest.run(code).stdout


@pytest.mark.parametrize(
    "code", ["%pip install polars", "!pip install polars", "!python3 -m pip install -q polars", "%conda install x"]
)
def test_installing_says_why_not(guest: Guest, code: str) -> None:
    cell = guest.run(code)
    assert (cell.status, cell.stdout.split(":")[0]) == ("ok", "Nothing can be installed here")


@pytest.mark.parametrize(
    ("code", "name"), [("%load_ext x", "%load_ext"), ("%%javascript\nx", "%%javascript"), ("x = %who", "%who")]
)
def test_any_other_magic_says_that_it_does_not_work(guest: Guest, code: str, name: str) -> None:
    cell = guest.run(code)
    assert cell.status == "error"
    assert cell.error["value"].startswith(f"{name} does not work here. These do: %cd ")
    assert cell.error["traceback"].endswith(f"MagicError: {cell.error['value']}")


def test_matplotlib_inline_is_what_happens_anyway(guest: Guest) -> None:
    assert guest.run("%matplotlib inline").events == []


def test_writefile_writes_and_bash_runs(guest: Guest) -> None:
    assert guest.run("%%writefile written.txt\nhello\n").stdout == "Writing written.txt\n"
    assert guest.run("%%bash\ncat written.txt\nrm written.txt").stdout == "hello\n"


def test_cd_and_pwd(guest: Guest) -> None:
    guest.run("%cd /")
    assert guest.run("%pwd").shown == "'/'"
    guest.run(f"%cd {guest.data}")
    assert guest.run("%pwd").shown == repr(str(guest.data))


def test_an_error_in_a_magic_shows_the_line_as_written(guest: Guest) -> None:
    trace = guest.run("x = 1\n%time 1/0").error["traceback"]
    assert ", line 2\n    %time 1/0\n" in trace
    assert trace.endswith("ZeroDivisionError: division by zero")
