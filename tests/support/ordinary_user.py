"""Runs pytest as an ordinary user, from root: ``python -m tests.support.ordinary_user ARGUMENT...``.

The checkout and the Pythons may lie where only root may look. So each directory on the way to them that is closed to
others is covered, in a mount namespace of this process alone, by an open one that holds just them.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from afarensis_server.sandbox.zygote import clone, syscalls
from tests.support.sandbox import REPOSITORY, guest_python

NOBODY = 65534


def main(*arguments: str) -> None:
    """Run pytest as nobody, with what it writes in a directory that is gone afterwards; its exit code is ours."""
    if os.geteuid() != 0:
        sys.exit("Only root can become somebody else.")
    # A container engine takes root: its tests have run as that, and are rightly skipped here, in CI too.
    os.environ.pop("CI", None)
    with tempfile.TemporaryDirectory(prefix="afarensis-nobody-") as directory:
        os.chown(directory, NOBODY, NOBODY)
        # In a process of its own, since nobody cannot remove what root has mounted.
        child = os.fork()
        if child == 0:
            _become_nobody(directory, *arguments)
        _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


def _become_nobody(directory: str, *arguments: str) -> None:
    syscalls.unshare(clone.NEW_MOUNTS)
    syscalls.mount("", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    _open_ways({REPOSITORY, Path(sys.prefix), Path(sys.base_prefix), *_guest_places()}, Path(directory, "staging"))
    os.chdir(REPOSITORY)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    os.environ["AFARENSIS_TEST_LOCAL_ONLY"] = "1"  # an engine of the tests' own takes root
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={directory}/pytest"]
    os.execv(sys.executable, [sys.executable, "-B", "-m", "pytest", *options, *arguments])


def _guest_places() -> set[Path]:
    code = "import sys; print(sys.base_prefix)"
    base = subprocess.run([guest_python(), "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    return {guest_python().parent.parent, Path(base)}


def _open_ways(places: set[Path], staging: Path) -> None:
    closed = {place: _first_closed(place) for place in places}
    staged = {}
    for number, (place, obstacle) in enumerate(sorted(closed.items())):
        if obstacle is not None:
            staged[place] = staging / str(number)
            staged[place].mkdir(parents=True)
            syscalls.mount(str(place), str(staged[place]), None, syscalls.MS_BIND | syscalls.MS_REC)
    for obstacle in sorted({obstacle for obstacle in closed.values() if obstacle is not None}):
        syscalls.mount("tmpfs", str(obstacle), "tmpfs", 0, "mode=755")
    for place, copy in staged.items():
        place.mkdir(parents=True, exist_ok=True)
        syscalls.mount(str(copy), str(place), None, syscalls.MS_BIND | syscalls.MS_REC)


def _first_closed(place: Path) -> Path | None:
    """The highest directory above a place that others may not pass."""
    above = [path for path in reversed(place.parents) if path != Path("/")]
    return next((path for path in above if not path.stat().st_mode & 0o001), None)


if __name__ == "__main__":
    main(*sys.argv[1:])
