"""What a session's container is made of: all that hardens it is in here."""

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..agent.data import DATA_DIRECTORY, INPUT_DIRECTORY
from ..driver import SessionLimits
from .profile import profile
from .settings import DockerSandboxSettings

#: Of every container of ours; the value is its owner.
LABEL = "afarensis.sandbox"
#: Where the owner runs: tells whether it is still alive.
PROCESS_LABEL = "afarensis.process"
CPU_PERIOD = 100_000
#: The user and group of the image that code runs as.
_USER = "1000:1000"
_HOME = "/opt/afarensis"
_START = f"import sys; sys.path.append({_HOME!r}); from afarensis_sandbox.agent.main import main; main()"
_PYTHON = f"{_HOME}/python/bin/python"
#: Processes that are not the session's: the agent.
_OWN_PROCESSES = 1
#: Processes of a runtime that is a kernel of its own: what counts there are its threads on the host.
_KERNEL_PROCESSES = 512
#: Names of runtimes that are.
_KERNELS = ("runsc", "kata")
#: The directory itself.
_INODES_OF_PLACE = 1
#: What of /proc and /sys says something about the host, and is of no use to code.
_MASKED_PROC = """
    acpi asound buddyinfo bus cgroups cmdline config.gz consoles crypto devices diskstats dma driver execdomains fb
    fs interrupts iomem ioports irq kallsyms kcore key-users keys kmsg kpagecgroup kpagecount kpageflags
    latency_stats locks mdstat misc modules mtrr pagetypeinfo partitions pressure sched_debug schedstat scsi
    slabinfo softirqs swaps sysrq-trigger sysvipc timer_list tty vmallocinfo vmstat zoneinfo
"""
_MASKED_SYS = """
    block bus class dev devices firmware hypervisor kernel module power fs/bpf fs/ext4 fs/fuse
"""
_MASKED = [*(f"/proc/{name}" for name in _MASKED_PROC.split()), *(f"/sys/{name}" for name in _MASKED_SYS.split())]
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
#: The profile, as every container gets it.
SECCOMP = profile()


def cpu_quota(limits: SessionLimits) -> int:
    """Microseconds of processor time in each period."""
    return max(1000, int(limits.cpu_cores * CPU_PERIOD))


def most_processes(limits: SessionLimits, runtime: str) -> int:
    """Processes that a container may have, those included that are not the session's."""
    return limits.processes + (_KERNEL_PROCESSES if has_own_kernel(runtime) else _OWN_PROCESSES)


def has_own_kernel(runtime: str) -> bool:
    """Whether a runtime puts a kernel of its own between code and the host's."""
    return any(name in runtime for name in _KERNELS)


def container(
    settings: DockerSandboxSettings,
    limits: SessionLimits,
    *,
    image: str,
    inputs: Path | None,
    labels: Mapping[str, str],
    private_cgroups: bool,
) -> dict[str, Any]:
    """The configuration of a container, as the engine takes it; ``inputs`` is mounted read-only."""
    mounts = []
    if inputs is not None:
        options = {"Propagation": "rprivate"}
        mounts = [
            {
                "Type": "bind",
                "Source": str(inputs),
                "Target": INPUT_DIRECTORY,
                "ReadOnly": True,
                "BindOptions": options,
            }
        ]
    memory = limits.memory_bytes + settings.overhead_bytes
    host = {
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true", f"seccomp={SECCOMP}"],
        "ReadonlyRootfs": True,
        "MaskedPaths": _MASKED,
        "ReadonlyPaths": ["/proc/sys"],
        "NetworkMode": "none",
        "IpcMode": "private",
        "LogConfig": {"Type": "none", "Config": {}},
        "RestartPolicy": {"Name": "no"},
        "Memory": memory,
        # As much as memory alone: nothing is swapped.
        "MemorySwap": memory,
        "PidsLimit": most_processes(limits, settings.runtime),
        "CpuPeriod": CPU_PERIOD,
        "CpuQuota": cpu_quota(limits),
        # When the host itself is out of memory, sessions go first.
        "OomScoreAdj": 500,
        "Ulimits": [
            _limit("nofile", max(limits.open_files, 256)),
            # Not 0: a host that pipes core files into a program would start that for a crash in here.
            _limit("core", 1),
            _limit("memlock", 64 * 1024),
            _limit("msgqueue", 0),
        ],
        "Tmpfs": {
            DATA_DIRECTORY: _tmpfs(limits, settings.input_inodes, "exec,uid=1000,gid=1000,mode=755"),
            "/tmp": _tmpfs(limits, 0, "exec,mode=1777"),  # noqa: S108 - the session's own
            "/dev/shm": _tmpfs(limits, 0, "noexec,mode=1777"),  # noqa: S108 - as above
        },
        "Mounts": mounts,
    }
    if private_cgroups:
        host["CgroupnsMode"] = "private"
    if settings.runtime:
        host["Runtime"] = settings.runtime
    return {
        "Image": image,
        "Entrypoint": [_PYTHON, "-I", "-B", "-c", _START],
        "Cmd": [],
        "Env": [f"{name}={value}" for name, value in _environment(warm=settings.warm).items()],
        "User": _USER,
        "WorkingDir": DATA_DIRECTORY,
        "Hostname": "sandbox",
        "NetworkDisabled": True,
        "Tty": False,
        "OpenStdin": True,
        # The end of the server is the end of the stream, and so of the container.
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Healthcheck": {"Test": ["NONE"]},
        "Labels": dict(labels),
        "HostConfig": host,
    }


def process_label() -> str:
    """Names this process for whoever finds its containers later."""
    start = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    return json.dumps([_machine(), os.getpid(), start])


def is_alive(label: str) -> bool | None:
    """Whether a process that was named lives; None where that cannot be known from here."""
    try:
        machine, pid, start = json.loads(label)
        if machine != _machine():
            return None
        return bool(Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[19] == start)
    except FileNotFoundError:
        return False
    except (ValueError, TypeError, OSError, IndexError):
        return None


def _machine() -> str:
    """This machine since its last start, and the namespace that process numbers are of."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()}"


def _tmpfs(limits: SessionLimits, extra_inodes: int, options: str) -> str:
    inodes = limits.disk_inodes + extra_inodes + _INODES_OF_PLACE
    return f"rw,nosuid,nodev,size={limits.disk_bytes},nr_inodes={inodes},{options}"


def _limit(name: str, value: int) -> dict[str, Any]:
    return {"Name": name, "Soft": value, "Hard": value}


def _environment(*, warm: bool) -> dict[str, str]:
    """The whole environment of user code, and what the agent is told."""
    return {
        "PATH": f"{_HOME}/python/bin:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",  # noqa: S108 - the session's own
        "USER": "sandbox",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONDONTWRITEBYTECODE": "1",
        # A pool of threads would exist before the fork, and not after it.
        **dict.fromkeys(_THREADS, "1"),
        "AFARENSIS_WARM": "1" if warm else "0",
    }
