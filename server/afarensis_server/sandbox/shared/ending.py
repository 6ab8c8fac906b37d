"""How an interpreter ended."""

import contextlib
import signal
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended, from the kernel: an exit status, or minus a signal."""

    exit_code: int
    cpu_seconds: float

    def describe(self) -> str:
        """Say it in words."""
        if self.exit_code >= 0:
            return f"exited with status {self.exit_code}"
        if self.exit_code == -signal.SIGSEGV:
            # The kernel spares the first process of a namespace a SIGABRT of its own; libc then ends it like this.
            return "was ended by SIGSEGV: native code crashed or called abort()"
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-self.exit_code).name}"
        return f"was ended by signal {-self.exit_code}"
