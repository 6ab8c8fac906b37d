"""A server that kills itself at a chosen commit: python -m tests.support.mortal_server CONTROL serve ...

``CONTROL`` is a file with the number of a commit and ``before`` or ``after``. It is read on SIGUSR1; from then on
commits count. The product knows nothing of this: what commits is wrapped here.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from afarensis_server import cli
from afarensis_server.store.writer import GroupCommitWriter

_commit = GroupCommitWriter._commit


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


def main() -> None:
    fate = _Fate(Path(sys.argv.pop(1)))
    signal.signal(signal.SIGUSR1, fate.read)

    def commit(self: GroupCommitWriter, *arguments: Any) -> None:
        fate.meet("before")
        _commit(self, *arguments)
        fate.meet("after")

    GroupCommitWriter._commit = commit  # type: ignore[assignment, method-assign]
    cli.main()


if __name__ == "__main__":
    main()
