"""Finds out which layers of isolation a session really has, by looking from inside one."""

import errno
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..driver import Layer, Output, OutputStream, Result, SessionLimits, SessionSpec
from .cgroups import Cgroups

if TYPE_CHECKING:
    from .driver import LocalSandbox
    from .launcher import Launcher

_LIMITS = SessionLimits(
    memory_bytes=256 * 2**20,
    cpu_cores=1.0,
    processes=16,
    open_files=256,
    disk_bytes=2**20,
    disk_inodes=64,
    output_bytes=2**16,
    display_bytes=0,
)
_SECONDS = 30.0

#: Runs inside. Whatever fails there is missing here.
_PROBE = """
import json, os, socket, stat
NAMESPACES = ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup")
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
def try_socket():
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except OSError:
        return False
    return True
def try_write(path):
    try:
        with open(path, "w"):
            return True
    except OSError:
        return False
def try_device():
    # The only kind that takes no capability, so that nothing but Landlock refuses it.
    try:
        os.mknod("/tmp/probe", stat.S_IFCHR, 0)
    except OSError as error:
        return error.errno
print(json.dumps({
    "device": try_device(),
    "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES},
    "pid": os.getpid(),
    "processes": sum(name.isdigit() for name in os.listdir("/proc")),
    "capabilities": [status[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privileges": status["NoNewPrivs"].strip(),
    "seccomp": status["Seccomp"].strip(),
    "inet": try_socket(),
    "own_inodes": any(" /usr " in line and " - overlay " in line for line in open("/proc/self/mountinfo")),
    "sys": os.path.exists("/sys/kernel"),
    "root": sorted(os.listdir("/")),
    "writable": try_write("/probe") or try_write("/usr/probe"),
    "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd")),
    "environment": sorted(os.environ),
}))
"""


async def inspect(driver: "LocalSandbox", launcher: "Launcher") -> list[Layer]:
    """Open a session, look around in it, and say what was seen."""
    session = await driver.open(SessionSpec(session_id="probe", limits=_LIMITS))
    text = ""
    try:
        async for event in session.execute(_PROBE, timeout_seconds=_SECONDS):
            if isinstance(event, Output) and event.stream is OutputStream.STDOUT:
                text += event.text
            elif isinstance(event, Result) and event.error is not None:
                reason = f"the probe failed: {event.error.name}: {event.error.value}"
                return [Layer(name="probe", active=False, essential=True, detail=reason)]
    finally:
        await session.close()
    return _describe(json.loads(text), launcher)


def _describe(seen: dict[str, Any], launcher: "Launcher") -> list[Layer]:
    host = _host_namespaces()
    shared = sorted(name for name, link in seen["namespaces"].items() if link == host.get(name))
    capabilities = any(int(value, 16) for value in seen["capabilities"])
    one_user = "as root, the server gives each session a host user of its own"
    return [
        _essential("namespaces", not shared, f"shared with the host: {shared}" if shared else "seven of its own"),
        _essential("processes", seen["pid"] == 1, f"sees {seen['processes']} process(es), being number {seen['pid']}"),
        _essential("file system", not seen["writable"] and not seen["sys"], f"sees {' '.join(seen['root'])}"),
        _essential("network", not seen["inet"], "none, and no way to ask for one"),
        _essential("capabilities", not capabilities, "none" if not capabilities else str(seen["capabilities"])),
        _essential("no_new_privs", seen["no_new_privileges"] == "1", "programs cannot gain privileges"),
        _essential("seccomp", seen["seccomp"] == "2", "an allow-list of system calls"),
        _landlock_layer(seen["device"] == errno.EACCES),
        _locks_layer(seen["own_inodes"]),
        Layer(
            name="distinct users",
            active=launcher.distinct_users,
            essential=False,
            detail=one_user if launcher.distinct_users else f"all sessions are the server's own user; {one_user}",
        ),
        *_cgroup_layers(launcher.cgroups),
    ]


def _landlock_layer(active: bool) -> Layer:
    detail = "a second refusal of files, abstract sockets and signals outside of the session"
    if not active:
        detail = "paths are kept apart by mounts alone; a kernel from 5.19 on has it, where lsm= does not leave it out"
    return Layer(name="landlock", active=active, essential=False, detail=detail)


def _locks_layer(active: bool) -> Layer:
    detail = "a lock on a file of the system is seen by nobody else"
    if not active:
        detail = (
            "sessions can see each other's locks on the system's files; a kernel from 5.11 on lets users mount overlays"
        )
    return Layer(name="own inodes", active=active, essential=False, detail=detail)


def _cgroup_layers(cgroups: Cgroups) -> list[Layer]:
    without = {
        "memory": "each process is limited by itself, and all of a session's together are not",
        "pids": "processes are counted per user namespace by RLIMIT_NPROC instead",
        "cpu": "a session may keep every core busy",
    }
    layers = []
    for controller, consequence in without.items():
        active = controller in cgroups.controllers
        detail = cgroups.detail if active else f"{consequence} ({cgroups.detail})"
        layers.append(Layer(name=f"cgroup {controller}", active=active, essential=False, detail=detail))
    return layers


def _essential(name: str, active: bool, detail: str) -> Layer:
    return Layer(name=name, active=active, essential=True, detail=detail)


def _host_namespaces() -> dict[str, str]:
    return {path.name: str(path.readlink()) for path in Path("/proc/self/ns").iterdir()}
