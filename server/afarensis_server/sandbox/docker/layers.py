"""Finds out which layers of isolation a container really has, by looking from inside one."""

import json
from typing import TYPE_CHECKING, Any

from ..driver import Layer, Output, OutputStream, Result, SessionLimits, SessionSpec
from .engine import Engine
from .settings import DockerSandboxSettings
from .spec import has_own_kernel

if TYPE_CHECKING:
    from .driver import DockerSandbox

_MIB = 2**20
LIMITS = SessionLimits(
    memory_bytes=256 * _MIB,
    cpu_cores=1.0,
    processes=16,
    open_files=256,
    disk_bytes=_MIB,
    disk_inodes=64,
    output_bytes=2**16,
    display_bytes=0,
)
_SECONDS = 30.0
#: What the engine limits by control groups, and where it says whether it can.
_GROUPS = {"memory": "MemoryLimit", "pids": "PidsLimit", "cpu": "CpuCfsQuota"}

#: Runs inside. Whatever fails there is missing here.
_PROBE = """
import errno, json, os, socket, subprocess, time
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
def tried(call):
    try:
        call()
    except OSError as error:
        return error.errno
    return 0
def disk(path):
    state = os.statvfs(path)
    return [state.f_blocks * state.f_frsize, state.f_files]
def forks():
    children = []
    try:
        for _ in range(FORKS):
            child = os.fork()
            if not child:
                time.sleep(60)
                os._exit(0)
            children.append(child)
    except OSError:
        pass
    for child in children:
        os.kill(child, 9)
        os.waitpid(child, 0)
    return len(children)
print(json.dumps({
    "user": os.getuid(),
    "capabilities": [status.get(name, "0").strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privileges": status.get("NoNewPrivs", "").strip(),
    "seccomp": status.get("Seccomp", "").strip(),
    "inet": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()),
    "writable": [path for path in ("/probe", "/usr/probe", "/opt/probe") if not tried(lambda: open(path, "w").close())],
    "agent": [tried(lambda: open("/proc/1/mem", "rb").close()), tried(lambda: os.listdir("/proc/1/fd"))],
    "data": disk("/mnt/data"),
    "forks": forks(),
    "kernel": os.uname().release,
}))
"""


async def inspect(driver: "DockerSandbox", engine: Engine, settings: DockerSandboxSettings) -> list[Layer]:
    """Ask the engine, open a session, look around in it, and say what was seen."""
    about = await _describe_engine(engine, settings)
    session = await driver.open(SessionSpec(session_id="probe", limits=LIMITS))
    text = ""
    try:
        # A kernel of its own does not limit them, and takes much memory for each.
        forks = 0 if has_own_kernel(settings.runtime) else LIMITS.processes + 4
        async for event in session.execute(f"FORKS = {forks}\n{_PROBE}", timeout_seconds=_SECONDS):
            if isinstance(event, Output) and event.stream is OutputStream.STDOUT:
                text += event.text
            elif isinstance(event, Result) and event.error is not None:
                reason = f"the probe failed: {event.error.name}: {event.error.value}"
                return [*about, Layer(name="probe", active=False, essential=True, detail=reason)]
    finally:
        await session.close()
    return [*about, *_describe(json.loads(text), settings)]


async def _describe_engine(engine: Engine, settings: DockerSandboxSettings) -> list[Layer]:
    info = await engine.info()
    options = " ".join(info.get("SecurityOptions") or [])
    name, version = info.get("OperatingSystem", "?"), info.get("ServerVersion", "?")
    runtime = settings.runtime or info.get("DefaultRuntime", "?")
    rootless = "rootless" in options or "userns" in options
    groups = info.get("CgroupVersion", "?")
    return [
        _essential("engine", True, f"version {version} at {engine.host}, on {name}, with the runtime {runtime}"),
        Layer(
            name="own kernel",
            active=has_own_kernel(runtime),
            essential=False,
            detail="between code and the host's kernel"
            if has_own_kernel(runtime)
            else "sessions share the host's kernel; for hostile users install gVisor and set docker.runtime to runsc",
        ),
        Layer(
            name="rootless engine",
            active=rootless,
            essential=False,
            detail="root of a container is nobody on the host"
            if rootless
            else "whoever breaks out of the engine is root; a rootless engine, or userns-remap, makes that nobody",
        ),
        *(_group_layer(name, groups, bool(info.get(key, True))) for name, key in _GROUPS.items()),
    ]


def _group_layer(name: str, version: str, active: bool) -> Layer:
    detail = f"version {version}" if active else f"version {version}, but the engine says that it cannot limit this"
    return Layer(name=f"cgroup {name}", active=active, essential=False, detail=detail)


def _describe(seen: dict[str, Any], settings: DockerSandboxSettings) -> list[Layer]:
    capabilities = any(int(value, 16) for value in seen["capabilities"])
    size, inodes = seen["data"]
    most = LIMITS.disk_inodes + settings.input_inodes
    closed = all(seen["agent"])
    return [
        _essential("user", seen["user"] != 0, f"code runs as the user {seen['user']}"),
        _essential(
            "file system",
            not seen["writable"],
            f"read-only, but {seen['writable']}" if seen["writable"] else "read-only",
        ),
        _essential("disk limit", size <= LIMITS.disk_bytes + 2**16, f"{size} bytes, of {LIMITS.disk_bytes}"),
        Layer(
            name="inode limit",
            active=0 < inodes <= most + 8,
            essential=False,
            detail=f"{inodes} files" if inodes else "this runtime does not limit how many files there are",
        ),
        _essential("network", bool(seen["inet"]), "none, and no way to ask for one"),
        _essential("capabilities", not capabilities, "none" if not capabilities else str(seen["capabilities"])),
        _essential("no_new_privs", seen["no_new_privileges"] in ("1", ""), "programs cannot gain privileges"),
        _essential("seccomp", seen["seccomp"] != "0", "an allow-list of system calls"),
        Layer(
            name="agent",
            active=closed,
            # The server believes nothing that comes from there: whoever takes it over has taken over his own session.
            essential=not has_own_kernel(settings.runtime),
            detail="closed to the code beside it" if closed else "code can speak and end in its own agent's place",
        ),
        Layer(
            name="process limit",
            active=0 < seen["forks"] < LIMITS.processes,
            essential=False,
            detail=f"{seen['forks']} more could be started, of {LIMITS.processes}"
            if seen["forks"]
            else "this runtime limits its own threads on the host, and not the code's processes",
        ),
    ]


def _essential(name: str, active: bool, detail: str) -> Layer:
    return Layer(name=name, active=active, essential=True, detail=detail)
