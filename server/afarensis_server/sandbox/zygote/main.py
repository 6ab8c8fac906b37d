"""The zygote: imports once what every session needs, then forks a session's interpreter for each request.

It runs in its jail, first of its pid namespace, root of nothing but a range of host users that own nothing else. When
it ends, the kernel ends every session in it.
"""

import gc
import importlib
import os
import selectors
import signal
import socket
from typing import Any, NoReturn

from . import clone, jail, own_root, privileges
from .birth import Birth
from .messages import PeerGoneError, answer, receive, send

_CONTROL = 3
#: The real one: the guest replaces it, for user code, by one that flushes first.
_exit = os._exit


def main() -> None:
    """Prepare, say so, and serve the server's requests until it closes the socket."""
    privileges.die_with_parent()
    control = socket.socket(fileno=_CONTROL)
    guest = importlib.import_module("afarensis_guest.runner")
    guest.prepare()
    layout = own_root.Layout.read()
    runner = guest.Runner(jail.DATA_DIRECTORY)
    runner.install()
    gc.collect()
    gc.freeze()
    if (threads := privileges.threads_alive()) != 1:
        # A fork copies the calling thread alone, with whatever the others had locked.
        raise RuntimeError(f"{threads} threads run after the imports, where one must")
    guest.share()
    Zygote(control, runner, layout).serve()


class Zygote:
    def __init__(self, control: socket.socket, runner: Any, layout: own_root.Layout) -> None:
        self._control = control
        self._runner = runner
        self._layout = layout
        self._children = selectors.EpollSelector()
        self._children.register(control, selectors.EVENT_READ)

    def serve(self) -> None:
        """Fork on request and report who ended, until the server is gone."""
        send(self._control, {"event": "ready"})
        while True:
            for key, _ in self._children.select():
                if key.fileobj is not self._control:
                    self._report_end(key)
                    continue
                try:
                    request, descriptors = receive(self._control)
                except (PeerGoneError, ConnectionResetError):
                    return
                self._spawn(request, descriptors)

    def _spawn(self, request: dict[str, Any], descriptors: list[int]) -> None:
        reply: dict[str, Any] = {"reply": request["request"], "error": None}
        answers: list[int] = []
        try:
            answers = [self._fork(request, descriptors)]
        except OSError as error:
            reply["error"] = f"{type(error).__name__}: {error}"
        if not answer(self._control, reply, answers):
            for pidfd in answers:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        for descriptor in descriptors:
            os.close(descriptor)

    def _fork(self, request: dict[str, Any], descriptors: list[int]) -> int:
        """Fork a child that is born once its user is mapped; its pidfd, which stays ours until it ends."""
        mapped, mapped_end = os.pipe()
        try:
            pid, pidfd = clone.fork(clone.NEW_VIEW | clone.NEW_USER)
            if pid == 0:
                self._be_born(descriptors, mapped, mapped_end)
            # First of all: whatever fails from here on, its end is seen, and it ends without a user.
            self._children.register(pidfd, selectors.EVENT_READ, (request["name"], pid))
            clone.write_maps(pid, privileges.SESSION_USER, request["user"], 1)
            os.write(mapped_end, b"1")
        finally:
            os.close(mapped)
            os.close(mapped_end)
        return pidfd

    def _be_born(self, descriptors: list[int], mapped: int, mapped_end: int) -> NoReturn:
        """Never returns: the child's stack ends here."""
        try:
            os.close(mapped_end)
            # The numbers of these will be other files: closing the objects later would close those.
            self._control.detach()
            control, stdout, stderr, *entrances = descriptors
            Birth(self._runner, self._layout).run(control, stdout, stderr, mapped, entrances)
        finally:
            _exit(70)

    def _report_end(self, key: selectors.SelectorKey) -> None:
        name, pid = key.data
        _, status, usage = os.wait4(pid, 0)
        self._children.unregister(key.fileobj)
        os.close(key.fd)
        exit_code = os.waitstatus_to_exitcode(status)
        cpu_seconds = usage.ru_utime + usage.ru_stime
        send(self._control, {"event": "ended", "name": name, "exit_code": exit_code, "cpu_seconds": cpu_seconds})
