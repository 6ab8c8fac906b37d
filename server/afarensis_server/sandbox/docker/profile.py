"""The engine's seccomp profile, from the same table as the local driver's filter.

It is the outer of two: each interpreter installs that very filter for itself, which says more about arguments than a
profile can. This one binds the agent, too, which needs the call that installs the other.
"""

import json

from ..zygote import seccomp
from ..zygote.syscall_numbers import NUMBERS

_ALLOW = "SCMP_ACT_ALLOW"
_REFUSE = "SCMP_ACT_ERRNO"
_ENOSYS = 38
_EPERM = 1
#: What the container's first process needs before there is code of users: the engine's own last steps, and the filter.
_AGENT = ("seccomp",)
#: Calls that no list of ours has a number of, and that libraries try and do without when they are unknown; any other
#: answer would break them. Engines from version 23 on answer this for all that is not listed.
_TRIED = ("clone3", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr")
#: Calls that change how another process is scheduled or limited, and which argument names it; 0 is the caller itself.
#: The agent is the same user as code, which could keep it from ever running: then not even the engine can end it.
OWN_ONLY = {
    "setpriority": 1,
    "ioprio_set": 1,
    "sched_setaffinity": 0,
    "sched_setattr": 0,
    "sched_setparam": 0,
    "sched_setscheduler": 0,
    "prlimit64": 0,
}
#: Allowed or not by an argument.
_BY_ARGUMENT = ("clone", "socket", "socketpair", *OWN_ONLY)


def profile() -> str:
    """The profile as JSON, as the engine takes it."""
    allowed = {*seccomp.ALLOWED.split(), *_AGENT, *seccomp.CONDITIONAL, *seccomp.PRETENDED.split()} - {*_BY_ARGUMENT}
    forbidden = {*seccomp.FORBIDDEN.split()} - {*_AGENT}
    unknown = {*NUMBERS, *_TRIED} - allowed - forbidden - {*_BY_ARGUMENT}
    without_namespaces = {"index": 0, "value": seccomp.NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    local_only = {"index": 0, "value": seccomp.AF_UNIX, "valueTwo": 0, "op": "SCMP_CMP_EQ"}
    return json.dumps(
        {
            "defaultAction": _REFUSE,
            "defaultErrnoRet": _ENOSYS,
            "archMap": [
                {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []},
                {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []},
            ],
            "syscalls": [
                {"names": sorted(allowed), "action": _ALLOW},
                {"names": ["clone"], "action": _ALLOW, "args": [without_namespaces]},
                {"names": ["socket", "socketpair"], "action": _ALLOW, "args": [local_only]},
                *(rule for name, index in OWN_ONLY.items() for rule in _for_itself(name, index)),
                {"names": sorted(forbidden), "action": _REFUSE, "errnoRet": _EPERM},
                {"names": sorted(unknown), "action": _REFUSE, "errnoRet": _ENOSYS},
            ],
        }
    )


def _for_itself(name: str, index: int) -> list[dict[str, object]]:
    """Rules that let a process make a call for itself and for nobody else."""
    itself = {"index": index, "value": 0, "valueTwo": 0, "op": "SCMP_CMP_EQ"}
    return [
        {"names": [name], "action": _ALLOW, "args": [itself]},
        {"names": [name], "action": _REFUSE, "errnoRet": _EPERM, "args": [{**itself, "op": "SCMP_CMP_NE"}]},
    ]
