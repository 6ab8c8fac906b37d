"""The system calls that sessions may make: an allow-list, compiled once to a BPF program.

Unknown calls answer ENOSYS, so that libraries fall back to older ones; calls that exist but are dangerous answer EPERM.
A foreign architecture's numbering would pass the wrong calls, so it ends the process.

Some harmless-looking calls are unknown here, since what they take is counted for all of the host and not for the
session: inotify instances per user up to the host's root, events of asynchronous I/O for the whole kernel. A watch on
the system's directories would also tell what others run, and ``cachestat`` what they read.
"""

import errno
import struct
from collections.abc import Iterable

from .syscall_numbers import NUMBERS
from .syscalls import MACHINE

ALLOWED = """
    read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek sendfile copy_file_range open
    openat openat2 creat close close_range fcntl flock dup dup2 dup3 pipe pipe2 memfd_create stat fstat lstat
    newfstatat statx statfs fstatfs access faccessat faccessat2 truncate ftruncate fallocate fadvise64 readahead
    fsync fdatasync sync_file_range getdents getdents64 getcwd chdir fchdir umask rename renameat renameat2 mkdir
    mkdirat rmdir mknod mknodat link linkat unlink unlinkat symlink symlinkat readlink readlinkat chmod fchmod
    fchmodat fchmodat2 chown fchown lchown fchownat utime utimes utimensat futimesat setxattr lsetxattr fsetxattr
    getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr select
    pselect6 poll ppoll epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd eventfd2
    signalfd signalfd4 timerfd_create timerfd_settime timerfd_gettime mmap mprotect munmap mremap msync mincore
    madvise brk mlock mlock2 munlock mlockall munlockall pkey_alloc pkey_free pkey_mprotect membarrier shmget shmat
    shmctl shmdt semget semop semctl semtimedop msgget msgsnd msgrcv msgctl mq_open mq_unlink mq_timedsend
    mq_timedreceive mq_notify mq_getsetattr fork vfork execve execveat exit exit_group wait4 waitid kill tkill
    tgkill pidfd_open pidfd_send_signal rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait
    rt_sigqueueinfo rt_sigsuspend rt_tgsigqueueinfo sigaltstack pause getpid getppid gettid getuid geteuid getgid
    getegid getresuid getresgid getgroups getpgid getpgrp getsid setpgid setsid setuid setgid setreuid setregid
    setresuid setresgid setfsuid setfsgid setgroups capget capset getrlimit getrusage getpriority setpriority
    ioprio_get ioprio_set sysinfo uname times sched_yield sched_getaffinity sched_setaffinity sched_getparam
    sched_setparam sched_getscheduler sched_setscheduler sched_getattr sched_setattr sched_get_priority_max
    sched_get_priority_min sched_rr_get_interval getcpu nanosleep clock_nanosleep clock_gettime clock_getres
    gettimeofday time alarm getitimer setitimer timer_create timer_settime timer_gettime timer_getoverrun
    timer_delete futex futex_waitv futex_wake futex_wait futex_requeue set_robust_list get_robust_list
    set_tid_address restart_syscall rseq arch_prctl getrandom connect accept accept4 bind listen sendto
    recvfrom sendmsg recvmsg sendmmsg recvmmsg shutdown getsockname getpeername landlock_create_ruleset
    landlock_add_rule landlock_restrict_self
"""

#: These would make the host write out all that everybody changed. A session's files lie in memory.
PRETENDED = "sync syncfs"
#: Ways to memory that no process has mapped, so that only a control group counts it.
_UNCOUNTED = "memfd_create shmget"

#: Ways to other processes, to the kernel's insides, to mounts and namespaces; and pipe tricks behind several escapes.
FORBIDDEN = """
    ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd userfaultfd bpf perf_event_open
    seccomp add_key request_key keyctl mount umount2 pivot_root chroot unshare setns name_to_handle_at
    open_by_handle_at splice vmsplice tee init_module finit_module delete_module kexec_load kexec_file_load
    reboot swapon swapoff acct quotactl quotactl_fd iopl ioperm syslog vhangup sethostname setdomainname
    settimeofday clock_settime clock_adjtime adjtimex mbind set_mempolicy migrate_pages move_pages fanotify_init
    fanotify_mark
"""

#: Allowed or not by their arguments.
CONDITIONAL = (
    "clone",
    "socket",
    "socketpair",
    "getsockopt",
    "setsockopt",
    "ioctl",
    "prctl",
    "personality",
    "setrlimit",
    "prlimit64",
)

_RETURN_KILL = 0x80000000
_RETURN_ALLOW = 0x7FFF0000
_RETURN_ERRNO = 0x00050000
_NO_ERROR = 0

_LOAD = 0x20
_JUMP = 0x05
_JUMP_EQUAL = 0x15
_JUMP_AT_LEAST = 0x35
_JUMP_ANY_BIT = 0x45
_RETURN = 0x06
#: The longest conditional jump.
_FAR = 255

#: Offsets in struct seccomp_data, of low halves: the machines we know are little-endian.
_NUMBER = 0
_ARCHITECTURE = 4
_ARGUMENTS = 16

_AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
#: x86-64 has a second numbering, for 32-bit pointers, from here on.
_X32 = 0x40000000
NAMESPACE_FLAGS = 0x7E020000
AF_UNIX = 1
#: ioctls that put input into a terminal of another process.
_TERMINAL_INJECTIONS = (0x5412, 0x541C)
_PERSONALITIES = (0, 0xFFFFFFFF)
_RLIMIT_CORE = 4
#: Options of a socket, SO_PASSPIDFD and SO_PEERPIDFD, that give a handle of the process at its other end: the server.
_PEER_HANDLES = (76, 77)
#: Options, SO_ATTACH_FILTER and the like, that have the kernel translate programs: the host has one pool of memory for
#: them.
_SOCKET_FILTERS = (26, 50, 51, 52)
#: From the first ioctl of sockets to the last: the one socket that is from outside would tell of the host's network.
_SOCKET_IOCTLS = (0x8900, 0x8A00)
#: Settings of a process that touch others: PR_SET_SECCOMP, by that pool and the host's log, PR_SCHED_CORE, and
#: PR_SET_MEMORY_MERGE, which tells by its time what they have in memory.
_HOST_SETTINGS = (22, 62, 67)

Instruction = tuple[int, int, int, int]


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> Instruction:
    return code, if_true, if_false, value


def _return(value: int) -> list[Instruction]:
    return [_instruction(_RETURN, value)]


def _refuse(code: int) -> list[Instruction]:
    return _return(_RETURN_ERRNO | code)


def _only(argument: int, values: Iterable[int], code: int) -> list[Instruction]:
    """Allow these values of an argument."""
    program = [_instruction(_LOAD, _ARGUMENTS + 8 * argument)]
    for value in values:
        program += [_instruction(_JUMP_EQUAL, value, 0, 1), *_return(_RETURN_ALLOW)]
    return program + _refuse(code)


def _except(argument: int, values: Iterable[int], code: int) -> list[Instruction]:
    """Refuse these values of an argument."""
    program = [_instruction(_LOAD, _ARGUMENTS + 8 * argument)]
    for value in values:
        program += [_instruction(_JUMP_EQUAL, value, 0, 1), *_refuse(code)]
    return program + _return(_RETURN_ALLOW)


def _without_bits(argument: int, bits: int, code: int) -> list[Instruction]:
    """Allow an argument without any of these bits."""
    return [
        _instruction(_LOAD, _ARGUMENTS + 8 * argument),
        _instruction(_JUMP_ANY_BIT, bits, 0, 1),
        *_refuse(code),
        *_return(_RETURN_ALLOW),
    ]


def _ioctls() -> list[Instruction]:
    """Allow all but those of sockets, and those that put input into a terminal."""
    first, end = _SOCKET_IOCTLS
    return [
        _instruction(_LOAD, _ARGUMENTS + 8),
        _instruction(_JUMP_AT_LEAST, first, 0, 2),
        _instruction(_JUMP_AT_LEAST, end, 1, 0),
        *_refuse(errno.ENODEV),
        *_except(1, _TERMINAL_INJECTIONS, errno.EPERM),
    ]


def _core_limit(resource: int, value: int | None) -> list[Instruction]:
    """Allow all but setting the limit of core files, by the arguments that name the limit and point to its new value.

    It is 1, which is the only one that keeps a host's handler of core files from being started. Code may lower it.
    """
    program = [
        _instruction(_LOAD, _ARGUMENTS + 8 * resource),
        _instruction(_JUMP_EQUAL, _RLIMIT_CORE, 1, 0),
        *_return(_RETURN_ALLOW),
    ]
    if value is not None:
        low = _ARGUMENTS + 8 * value
        program += [
            _instruction(_LOAD, low),
            _instruction(_JUMP_EQUAL, 0, 0, 3),
            _instruction(_LOAD, low + 4),
            _instruction(_JUMP_EQUAL, 0, 0, 1),
            *_return(_RETURN_ALLOW),
        ]
    return program + _refuse(errno.EPERM)


def _rules(machine: str, *, memory_is_counted: bool) -> dict[int, list[Instruction]]:
    """What is done about each system call number."""
    # EPERM on clone3 would break threads, whose creation falls back to clone on ENOSYS alone; so it is left unknown.
    rules = dict.fromkeys(ALLOWED.split(), _return(_RETURN_ALLOW))
    rules |= dict.fromkeys(FORBIDDEN.split(), _refuse(errno.EPERM))
    rules |= dict.fromkeys(PRETENDED.split(), _refuse(_NO_ERROR))
    if not memory_is_counted:
        rules |= dict.fromkeys(_UNCOUNTED.split(), _refuse(errno.ENOSYS))
    # As `CONDITIONAL` names them.
    rules["clone"] = _without_bits(0, NAMESPACE_FLAGS, errno.EPERM)
    rules["socket"] = rules["socketpair"] = _only(0, (AF_UNIX,), errno.EAFNOSUPPORT)
    rules["getsockopt"] = rules["setsockopt"] = _except(2, (*_PEER_HANDLES, *_SOCKET_FILTERS), errno.ENOPROTOOPT)
    rules["ioctl"] = _ioctls()
    rules["prctl"] = _except(0, _HOST_SETTINGS, errno.EPERM)
    rules["personality"] = _only(0, _PERSONALITIES, errno.EPERM)
    rules["setrlimit"] = _core_limit(0, None)
    rules["prlimit64"] = _core_limit(1, 2)
    column = ("x86_64", "aarch64").index(machine)
    numbered = {NUMBERS[name][column]: rule for name, rule in rules.items()}
    return {number: rule for number, rule in numbered.items() if number is not None}


def _decide(starts: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """Search for the last start that is not above the number, by halves."""
    if len(starts) == 1:
        return starts[0][1]
    middle = len(starts) // 2
    lower, upper = _decide(starts[:middle]), _decide(starts[middle:])
    if len(lower) <= _FAR:
        return [_instruction(_JUMP_AT_LEAST, starts[middle][0], len(lower), 0), *lower, *upper]
    far = [_instruction(_JUMP_AT_LEAST, starts[middle][0], 0, 1), _instruction(_JUMP, len(lower))]
    return [*far, *lower, *upper]


def compile_filter(machine: str, *, memory_is_counted: bool) -> bytes:
    """Compile the filter of a machine, an array of struct sock_filter.

    Without a control group that counts all the memory of a session, more calls are refused.
    """
    rules = _rules(machine, memory_is_counted=memory_is_counted)
    unknown = _refuse(errno.ENOSYS)
    starts = [(0, unknown)]
    for number in sorted(rules):
        for start, rule in ((number, rules[number]), (number + 1, unknown)):
            if starts[-1][0] == start:
                starts.pop()
            if not starts or starts[-1][1] != rule:
                starts.append((start, rule))
    program = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_JUMP_EQUAL, _AUDIT_ARCHITECTURE[machine], 1, 0),
        *_return(_RETURN_KILL),
        _instruction(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        program += [_instruction(_JUMP_AT_LEAST, _X32, 0, 1), *_return(_RETURN_KILL)]
    program += _decide(starts)
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _compile(*, memory_is_counted: bool) -> bytes:
    return compile_filter(MACHINE, memory_is_counted=memory_is_counted) if MACHINE in _AUDIT_ARCHITECTURE else b""


#: The filters of this machine, by whether a control group counts the session's memory; empty where we have none.
PROGRAMS = {counted: _compile(memory_is_counted=counted) for counted in (True, False)}
