"""The local driver: sandboxed interpreters on this machine, without a daemon.

======================  ==============================================================================================
``driver``              the driver: opens sessions, counts them, ends them
``session``             one session: its files and its executions
``place``               what a session takes up; ``shared.pool`` makes some ahead
``execution``           one request to an interpreter, as ``shared.execution`` has it; ``readiness`` waits for it
``interpreter``         one process with its socket and pipes
``launcher``            makes interpreters; ``zygotes`` and ``peer`` talk to the processes that fork them
``files``, ``inputs``   what comes out of /mnt/data, and what goes in
``cgroups``, ``layers`` limits by the kernel, and what of all this the host really gives
``sandbox.zygote``      the code of those other processes
======================  ==============================================================================================
"""

from .driver import LocalSandbox
from .settings import CgroupMode, LocalSandboxSettings

__all__ = ["CgroupMode", "LocalSandbox", "LocalSandboxSettings"]
