"""What code left running in its session when it was told to stop: processes and threads that it started.

An interrupt ends the code itself. What it started besides goes on, as in any interpreter, unless whoever stopped it
wants all of it gone.
"""

import os
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

#: Rounds of killing until code that starts processes faster than that counts as unstoppable.
_ROUNDS = 5
#: Where the fields of /proc/<pid>/stat lie behind the name, which may hold anything.
_PARENT, _START = 1, 19


def below(pid: int) -> Iterator[tuple[int, int]]:
    """All processes below one, each with its parent. Orphans of a session are its interpreter's: it is their init."""
    pending = [pid]
    while pending:
        parent = pending.pop()
        for thread in _threads(parent):
            for child in _read(f"/proc/{parent}/task/{thread}/children").split():
                pending.append(int(child))
                yield int(child), parent


def threads_of(pid: int) -> frozenset[str]:
    """The threads of an interpreter."""
    return frozenset(_threads(pid))


def end_leftovers(
    pid: int, since: float, own: Collection[str], find: Callable[[int], Iterable[tuple[int, int]]] = below
) -> bool:
    """Kill all processes below an interpreter that were started ``since`` then, seconds of CLOCK_BOOTTIME.

    ``find`` finds those, each with its parent. Tells whether nothing that was started since is left: threads of the
    interpreter itself end only together with it. Those it had before it took code are its ``own``: the clock is too
    coarse to tell them from the first ones of code.
    """
    first = int(since * os.sysconf("SC_CLK_TCK"))
    for _ in range(_ROUNDS):
        started = [(child, parent) for child, parent in find(pid) if _started(f"/proc/{child}") >= first]
        if not started:
            others = threads_of(pid) - set(own)
            return not any(_started(f"/proc/{pid}/task/{thread}") >= first for thread in others)
        for child, parent in started:
            _kill(child, parent)
    return False


def kill_below(pid: int, pidfd: int) -> None:
    """Kill all processes below an interpreter that was killed. Closes the ``pidfd``.

    The kernel does that, too, but only once the interpreter is nearly gone, which takes a while where there are many.
    """
    try:
        for _ in range(_ROUNDS):
            # While it is not gone, its number is nobody else's.
            signal.pidfd_send_signal(pidfd, 0)
            alive = [(child, parent) for child, parent in below(pid) if _started(f"/proc/{child}")]
            for child, parent in alive:
                _kill(child, parent)
            if not alive:
                return
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)


def boot_time() -> float:
    """Now, by the clock of `end_leftovers`."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _threads(pid: int) -> list[str]:
    with suppress(OSError):
        return os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - names alone
    return []


def _kill(pid: int, parent: int) -> None:
    """Kill a process if it is still the one that was found."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if (fields := _fields(f"/proc/{pid}")) and int(fields[_PARENT]) == parent:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)


def _started(directory: str) -> int:
    """When a process or thread was started, in clock ticks; 0 when it is gone, or dead and not yet taken note of."""
    fields = _fields(directory)
    return 0 if not fields or fields[0] in "ZX" else int(fields[_START])


def _fields(directory: str) -> list[str]:
    return _read(f"{directory}/stat").rpartition(")")[2].split()


def _read(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text(errors="replace")
    return ""
