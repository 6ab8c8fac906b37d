"""The process between server and zygotes: starts them, and keeps the volumes that outlive interpreters.

The server execs it before it serves anything, since it must never fork itself. It sees the host's files, has one thread
and runs no code of users. When it ends, so does every zygote, and with a zygote all of its sessions.
"""

import os
import pwd
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import clone, jail, privileges, syscalls
from .messages import PeerGoneError, answer, receive
from .volumes import Volumes

_ROOT = 0
_CONTROL = 3
#: The most that an ordinary user may map is himself, as root of his namespace.
_OWN_ONLY = 1


def main(control_descriptor: int, work_directory: str, guest_code: str, first_user: int, users: int) -> None:
    """Serve the server's requests until it is gone."""
    privileges.die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's; the server decides what it means
    control = socket.socket(fileno=control_descriptor)
    # Of the user that the server runs as, before this process is another one.
    jail.check_places([Path(work_directory), Path(pwd.getpwuid(os.getuid()).pw_dir)])
    privileged = privileges.is_host_root()
    if privileged:
        # With it, every session would end. Where root may not say so, the sessions' own score has to do.
        with suppress(PermissionError):
            Path("/proc/self/oom_score_adj").write_text("-500")
        os.setgroups([])
        syscalls.unshare(clone.NEW_MOUNTS)
    else:
        clone.enter_own_user_namespace()
        privileges.die_with_parent()
        first_user, users = _ROOT, _OWN_ONLY
    syscalls.mount("", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    os.chdir(work_directory)
    Supervisor(control, guest_code, first_user, users, privileged=privileged).serve()


class Supervisor:
    def __init__(
        self, control: socket.socket, guest_code: str, first_user: int, users: int, *, privileged: bool
    ) -> None:
        self._control = control
        self._guest_code = guest_code
        self._first_user = first_user
        self._users = users
        self._volumes = Volumes(privileged=privileged)
        Path("jail").mkdir(exist_ok=True)
        signal.signal(signal.SIGCHLD, self._reap)

    def serve(self) -> None:
        """Answer requests one after another; each answer has the request's number."""
        while True:
            try:
                request, descriptors = receive(self._control)
            except (PeerGoneError, ConnectionResetError):
                return
            answers: list[int] = []
            try:
                answers = self._handle(request, descriptors)
                reply: dict[str, Any] = {"reply": request["request"], "error": None}
            except Exception as error:
                reply = {"reply": request["request"], "error": f"{type(error).__name__}: {error}"[:2000]}
            answer(self._control, reply, answers)
            for descriptor in (*descriptors, *answers):
                os.close(descriptor)

    def _handle(self, request: dict[str, Any], descriptors: list[int]) -> list[int]:
        match request["op"]:
            case "start_zygote":
                return [self._start_zygote(*descriptors)]
            case "create_volume":
                owner = self._first_user + request["user"]
                return self._volumes.create(
                    request["name"], size_bytes=request["size_bytes"], inodes=request["inodes"], owner=owner
                )
            case "clone_volume":
                return [self._volumes.clone(request["name"])]
            case "add_file":
                self._volumes.add(request["name"], request["file"])
                return []
            case "remove_volume":
                self._volumes.remove(request["name"])
                return []
            case unknown:
                raise ValueError(f"unknown request {unknown!r}")

    def _start_zygote(self, control: int, errors: int) -> int:
        """Fork a zygote into its jail; its pidfd. It says itself when it is ready."""
        unshared, unshared_end = os.pipe()
        mapped, mapped_end = os.pipe()
        pid, pidfd = clone.fork(clone.NEW_VIEW)
        if pid == 0:
            self._become_zygote(control, errors, unshared_end, mapped)
        os.close(unshared_end)
        os.close(mapped)
        try:
            if os.read(unshared, 1):
                clone.write_maps(pid, _ROOT, self._first_user, self._users)
                os.write(mapped_end, b"1")
        finally:
            os.close(unshared)
            os.close(mapped_end)
        return pidfd

    def _become_zygote(self, control: int, errors: int, unshared: int, mapped: int) -> None:
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            null = os.open("/dev/null", os.O_RDWR)
            for source, target in ((null, 0), (null, 1), (errors, 2)):
                os.dup2(source, target)
            python = jail.executable_inside()
            jail.enter("jail", self._guest_code, self._first_user)
            syscalls.unshare(clone.NEW_USER)
            os.write(unshared, b"1")
            if not os.read(mapped, 1):
                raise RuntimeError("the user namespace was not mapped")
            os.setresgid(_ROOT, _ROOT, _ROOT)
            os.setresuid(_ROOT, _ROOT, _ROOT)
            os.dup2(control, _CONTROL)
            syscalls.close_range(_CONTROL + 1, 0x7FFFFFFF)
            privileges.die_with_parent()
            code = (
                f"import sys; sys.path.append({jail.CODE_DIRECTORY!r}); from afarensis_zygote.main import main; main()"
            )
            os.execve(python, [python, "-I", "-c", code], _environment(python))  # noqa: S606 - there is no shell
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(1)

    def _reap(self, *_: object) -> None:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def _environment(python: str) -> dict[str, str]:
    """The whole environment of user code: nothing of the server's."""
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {
        "PATH": f"{Path(python).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",  # noqa: S108 - the session's own
        "USER": "sandbox",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONDONTWRITEBYTECODE": "1",
        # A pool of threads would exist before the fork, and not after it.
        **dict.fromkeys(threads, "1"),
    }
