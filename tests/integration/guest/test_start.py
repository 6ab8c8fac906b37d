"""What prepare() leaves for a fork, and a guest in an environment with nothing but Python."""

import json
import subprocess
import sys
from pathlib import Path

from .host import GUEST, Guest, guest_python

REPORT = """
import json, os, socket, sys
sys.path.insert(0, sys.argv[1])
from afarensis_guest.runner import prepare
before = set(os.listdir("/proc/self/fd"))
prepare()
open_after = [os.readlink(f"/proc/self/fd/{fd}") for fd in set(os.listdir("/proc/self/fd")) - before
              if os.path.lexists(f"/proc/self/fd/{fd}")]
print(json.dumps({"threads": len(os.listdir("/proc/self/task")), "opened": open_after}))
"""

SIBLINGS = """
import os, socket, sys
sys.path.insert(0, sys.argv[1])
from afarensis_guest.frames import encode
from afarensis_guest.runner import prepare, serve
prepare()
for number in range(2):
    host, control = socket.socketpair()
    if os.fork() == 0:
        host.close()
        serve(control)
    control.close()
    code = "import random; print(random.random())"
    if "numpy" in sys.modules:
        code += "; import numpy; print(numpy.random.rand())"
    host.sendall(encode({"type": "execute", "id": 1, "code": code}))
    received = b""
    while b"result" not in received:
        received += host.recv(10000)
    host.close()
    assert os.wait()[1] == 0
"""


def test_siblings_of_one_prepared_process_draw_different_random_numbers(tmp_path: Path, font_cache: Path) -> None:
    (tmp_path / "afarensis_guest").symlink_to(GUEST)
    process = subprocess.run(
        [guest_python(), "-I", "-B", "-c", SIBLINGS, str(tmp_path)],
        env={"OPENBLAS_NUM_THREADS": "1", "MPLCONFIGDIR": str(font_cache)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    numbers = process.stdout.split()
    assert len(numbers) >= 2
    assert len(set(numbers)) == len(numbers)


def test_preparing_leaves_one_thread_and_opens_nothing(tmp_path: Path, font_cache: Path) -> None:
    (tmp_path / "afarensis_guest").symlink_to(GUEST)
    process = subprocess.run(
        [guest_python(), "-I", "-B", "-c", REPORT, str(tmp_path)],
        env={"OPENBLAS_NUM_THREADS": "1", "MPLCONFIGDIR": str(font_cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(process.stdout)
    assert (report["threads"], report["opened"], process.stderr) == (1, [], "")


def test_the_guest_runs_in_a_bare_python(tmp_path: Path, font_cache: Path) -> None:
    bare = [sys.executable, "-I", "-S"]  # without site-packages
    with Guest(tmp_path, font_cache, bare) as guest:
        cell = guest.run("print('bare')\ntry:\n    import numpy\nexcept ImportError:\n    print('no numpy')\n1 + 1")
        assert (cell.stdout, cell.shown) == ("bare\nno numpy\n", "2")


def test_children_do_not_inherit_what_the_guest_keeps_open(fresh_guest: Guest) -> None:
    own = fresh_guest.run("import os\nsorted(map(int, os.listdir('/proc/self/fd')))").shown
    inherited = fresh_guest.run("!ls /proc/self/fd").stdout.split()
    assert [int(one) for one in inherited if int(one) > 3] == []
    assert [int(one) for one in own.strip("[]").split(", ") if 3 < int(one) < 200] == []
