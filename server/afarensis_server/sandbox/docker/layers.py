"""Finds out which layers of isolation a container really has, by looking from inside one."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..driver import Layer, Output, OutputStream, Result, SessionLimits, SessionSpec
from .engine import LIMIT_KEYS, Engine
from .settings import DockerSandboxSettings
from .spec import cpu_quota, has_own_kernel, most_processes

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
_GROUPS = dict(zip(("memory", "pids", "cpu"), LIMIT_KEYS, strict=True))
#: Where a container sees the limit itself, of version 2 and of version 1.
_GROUP_FILES = {
    "memory": ("memory.max", "memory/memory.limit_in_bytes"),
    "pids": ("pids.max", "pids/pids.max"),
    "cpu": ("cpu.max", "cpu/cpu.cfs_quota_us"),
}
#: Where nothing may be written. Engines put writable places of their own into some.
_CLOSED = ("", "/usr", "/opt", "/etc", "/run", "/var/tmp", "/mnt/inputs")  # noqa: S108 - not used for files
#: What tells of the host, one of each kind that is masked.
_MASKED = ("/proc/cmdline", "/proc/interrupts", "/proc/kallsyms", "/proc/tty/drivers", "/sys/kernel/uevent_seqnum")

#: Runs inside. Whatever fails there is missing here.
_PROBE = """
import errno, json, os, socket, subprocess, time
def status(process):
    lines = open(f"/proc/{process}/status").read().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
statuses = [status(process) for process in PROCESSES]
def tried(call):
    try:
        call()
    except OSError as error:
        return error.errno
    return 0
def read(path):
    try:
        with open(path) as file:
            return file.read(4096)
    except OSError:
        return ""
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
    "capabilities": [one.get("Cap" + name, "0") for one in statuses for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")],
    "no_new_privileges": [one.get("NoNewPrivs", "") for one in statuses],
    "seccomp": [one.get("Seccomp", "") for one in statuses],
    "inet": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()),
    "writable": [path for path in WRITABLE if not tried(lambda: open(path + "/probe", "w").close())],
    "told": [path for path in TOLD if read(path)],
    "groups": {name: (" ".join(map(read, paths)).split() or [""])[0] for name, paths in GROUPS.items()},
    "agent": [tried(lambda: open("/proc/1/mem", "rb").close()), tried(lambda: os.listdir("/proc/1/fd"))],
    "data": disk("/mnt/data"),
    "forks": forks(),
    "kernel": os.uname().release,
}))
"""


def limits_memory(layers: Sequence[Layer]) -> bool:
    """Whether a group limits the memory of a container as a whole."""
    return any(layer.name == "cgroup memory" and layer.active for layer in layers)


async def inspect(driver: "DockerSandbox", engine: Engine, settings: DockerSandboxSettings) -> list[Layer]:
    """Ask the engine, open a session, look around in it, and say what was seen."""
    info = await engine.info()
    about = _describe_engine(engine, info, settings)
    session = await driver.open(SessionSpec(session_id="probe", limits=LIMITS))
    text = ""
    try:
        own_kernel = has_own_kernel(settings.runtime)
        names = {
            # A kernel of its own does not limit them, and takes much memory for each.
            "FORKS": 0 if own_kernel else LIMITS.processes + 4,
            # The agent's are what the engine gave it; an interpreter gives up more by itself.
            "PROCESSES": ("self",) if own_kernel else ("self", "1"),
            "WRITABLE": _CLOSED,
            "TOLD": _MASKED,
            "GROUPS": {name: [f"/sys/fs/cgroup/{file}" for file in files] for name, files in _GROUP_FILES.items()},
        }
        code = "".join(f"{name} = {value!r}\n" for name, value in names.items()) + _PROBE
        async for event in session.execute(code, timeout_seconds=_SECONDS):
            if isinstance(event, Output) and event.stream is OutputStream.STDOUT:
                text += event.text
            elif isinstance(event, Result) and event.error is not None:
                reason = f"the probe failed: {event.error.name}: {event.error.value}"
                return [*about, Layer(name="probe", active=False, essential=True, detail=reason)]
    finally:
        await session.close()
    seen = json.loads(text)
    return [*about, *_describe_groups(info, seen["groups"], settings), *_describe(seen, settings)]


def _describe_engine(engine: Engine, info: dict[str, Any], settings: DockerSandboxSettings) -> list[Layer]:
    options = " ".join(info.get("SecurityOptions") or [])
    name, version = info.get("OperatingSystem", "?"), info.get("ServerVersion", "?")
    runtime = settings.runtime or info.get("DefaultRuntime", "?")
    rootless = "rootless" in options or "userns" in options or info.get("Rootless") is True
    return [
        _essential(
            "engine",
            True,
            f"{engine.product}, version {version} at {engine.host}, on {name}, with the runtime {runtime}",
        ),
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
    ]


def _describe_groups(info: dict[str, Any], seen: dict[str, str], settings: DockerSandboxSettings) -> list[Layer]:
    """Control groups: by what a container sees of its own, or else by what the engine says that it can."""
    version = f"version {info.get('CgroupVersion', '?')}"
    most = {
        "memory": LIMITS.memory_bytes + settings.overhead_bytes,
        "pids": most_processes(LIMITS, settings.runtime),
        "cpu": cpu_quota(LIMITS),
    }
    is_seen = any(seen.values()) and not has_own_kernel(settings.runtime)
    layers = []
    for name, key in _GROUPS.items():
        limit = seen[name]
        if is_seen:
            active, reason = limit.isdigit() and int(limit) <= most[name], f"the limit inside is {limit or 'none'}"
        else:
            active, reason = bool(info.get(key, True)), "the engine says that it cannot limit this"
        detail = version if active else f"{version}, but {reason}"
        layers.append(Layer(name=f"cgroup {name}", active=active, essential=False, detail=detail))
    return layers


def _describe(seen: dict[str, Any], settings: DockerSandboxSettings) -> list[Layer]:
    capabilities = any(int(value, 16) for value in seen["capabilities"])
    size, inodes = seen["data"]
    most = LIMITS.disk_inodes + settings.input_inodes
    closed = all(seen["agent"])
    own_kernel = has_own_kernel(settings.runtime)
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
        Layer(
            name="masked paths",
            active=own_kernel or not seen["told"],
            essential=False,
            detail=f"{seen['told']} tell of the host"
            if seen["told"] and not own_kernel
            else "what of /proc and /sys tells of the host is hidden",
        ),
        _essential("network", bool(seen["inet"]), "none, and no way to ask for one"),
        _essential("capabilities", not capabilities, "none" if not capabilities else str(seen["capabilities"])),
        _essential("no_new_privs", {*seen["no_new_privileges"]} <= {"1", ""}, "programs cannot gain privileges"),
        _essential("seccomp", "0" not in seen["seccomp"], "an allow-list of system calls"),
        Layer(
            name="agent",
            active=closed,
            # The server believes nothing that comes from there: whoever takes it over has taken over his own session.
            essential=not own_kernel,
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
