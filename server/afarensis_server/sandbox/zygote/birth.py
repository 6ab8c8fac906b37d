"""The way of a forked child into its sandbox: two steps, with a rest in between.

First, what needs nothing but the fork. Then it waits for the place of its files, moves in, and gives up every right.
Everything up to the last line of ``run`` is our code, which is why it may still hold the rights that mounting takes;
user code starts without any. What serves it then sets the limits of the session, once the server knows them.
"""

import fcntl
import json
import os
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from . import clone, jail, landlock, own_root, privileges, seccomp, syscalls

_CONTROL = 3
#: Bytes of the one message that a parked child waits for.
_ACTIVATION = 4096
_FAILED = 70
#: The real one: the guest replaces it, for user code, by one that flushes first.
_exit = os._exit


class Birth:
    def __init__(self, runner: Any, layout: own_root.Layout) -> None:
        self._runner = runner
        self._layout = layout

    def run(self, control: int, stdout: int, stderr: int, mapped: int, entrances: Sequence[int]) -> NoReturn:
        """Become an isolated interpreter and serve.

        The descriptors: the server's socket, its two pipes, a pipe that says when this process has a user, and files
        by which it enters its control group.
        """
        try:
            for entrance in entrances:
                os.write(entrance, b"0")
            self._isolate(control, stdout, stderr, mapped)
            rules = landlock.begin()
            self._runner.attach(socket.socket(fileno=_CONTROL))
            activation, tree = _await_activation(self._runner.control)
            self._confine(activation, tree, rules)
        except BaseException:
            # The server passes it on to its log: nothing of a user's has run yet.
            os.write(2, traceback.format_exc().encode())
            _exit(_FAILED)
        self._runner.serve(privileges.limit_resources, rehearse=activation["ahead"])
        _exit(_FAILED)

    def _isolate(self, control: int, stdout: int, stderr: int, mapped: int) -> None:
        if not os.read(mapped, 1):
            raise RuntimeError("the user namespace was not mapped")
        privileges.become(privileges.SESSION_USER)
        privileges.die_with_parent()
        os.setsid()
        # When the host itself is out of memory, sessions go first.
        clone.write("/proc/self/oom_score_adj", "500")
        syscalls.set_hostname("sandbox")
        self._layout.enter()
        # Now, since /dev/null is another one than before.
        _place(control, stdout, stderr)
        privileges.limit_capabilities()

    def _confine(self, activation: dict[str, Any], tree: int, rules: int | None) -> None:
        writable = syscalls.MS_NOSUID | syscalls.MS_NODEV
        size, inodes = activation["disk_bytes"], activation["disk_inodes"]
        options = f"size={size},nr_inodes={inodes},mode=1777"
        syscalls.mount("tmpfs", "/tmp", "tmpfs", writable, options)  # noqa: S108 - the session's own
        syscalls.mount("tmpfs", "/dev/shm", "tmpfs", writable | syscalls.MS_NOEXEC, options)  # noqa: S108
        syscalls.move_mount(tree, jail.DATA_DIRECTORY)
        os.close(tree)
        os.chdir(jail.DATA_DIRECTORY)
        privileges.limit_core_files()
        if (threads := privileges.threads_alive()) != 1:
            # Capabilities and filters are a thread's own: another one would keep the rights that this one gives up.
            raise RuntimeError(f"{threads} threads run, where one must be confined")
        privileges.drop_capabilities()
        if rules is not None:
            landlock.confine(rules, jail.WRITABLE)
        program = seccomp.PROGRAMS[activation["memory_is_counted"]]
        if program:  # else the server's probe says that it is missing
            syscalls.install_filter(program)


def _place(control: int, stdout: int, stderr: int) -> None:
    """Put the descriptors at their numbers, and close all others: sockets of other sessions are among them."""
    null = os.open("/dev/null", os.O_RDONLY)
    placed = (null, stdout, stderr, control)
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _CONTROL + 1) for descriptor in placed]
    for target, source in enumerate(high):
        os.dup2(source, target)
    syscalls.close_range(_CONTROL + 1, 0x7FFFFFFF)
    os.set_inheritable(_CONTROL, False)


def _await_activation(connection: socket.socket) -> tuple[dict[str, Any], int]:
    data, descriptors, _, _ = socket.recv_fds(connection, _ACTIVATION, 1, socket.MSG_CMSG_CLOEXEC)
    if not data:
        sys.exit(0)  # the server does not need this one
    activation = json.loads(data)
    return activation, descriptors[0]
