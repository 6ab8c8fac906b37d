"""A server that kills itself at a chosen commit: python -m tests.support.mortal_server CONTROL serve ...

``CONTROL`` is a file with the number of a commit and ``before`` or ``after``. It is read on SIGUSR1; from then on
commits count. What code interpreters are given is appended to ``CONTROL.executed``, a line of JSON each. The product
knows nothing of this: what commits, and what executes, is wrapped here.
"""

import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from afarensis_server import cli
from afarensis_server.sandbox.driver import ExecutionEvent
from afarensis_server.sandbox.local.session import LocalSession
from afarensis_server.store.batches import Batch

_commit = Batch.commit
_execute = LocalSession.execute


class _Fate:
    """When the server dies."""

    def __init__(self, control: Path) -> None:
        self._control = control
        self._left = 0
        self._is_due = False
        self._when = ""

    def read(self, *_: object) -> None:
        number, self._when = self._control.read_text().split()
        self._left = int(number)

    def meet(self, when: str) -> None:
        if when == "before" and self._left > 0:
            self._left -= 1
            self._is_due = self._left == 0
        if self._is_due and self._when == when:
            os.kill(os.getpid(), signal.SIGKILL)


def executed_file(control: Path) -> Path:
    return control.with_name(f"{control.name}.executed")


def main() -> None:
    control = Path(sys.argv.pop(1))
    fate = _Fate(control)
    signal.signal(signal.SIGUSR1, fate.read)

    def commit(self: Batch) -> None:
        fate.meet("before")
        _commit(self)
        fate.meet("after")

    def execute(self: LocalSession, code: str, *, timeout_seconds: float) -> AsyncGenerator[ExecutionEvent, None]:
        with executed_file(control).open("a") as executed:
            executed.write(json.dumps(code) + "\n")
        return _execute(self, code, timeout_seconds=timeout_seconds)

    Batch.commit = commit  # type: ignore[method-assign]
    LocalSession.execute = execute  # type: ignore[method-assign]
    cli.main()


if __name__ == "__main__":
    main()
