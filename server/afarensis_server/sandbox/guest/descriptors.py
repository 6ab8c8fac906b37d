"""Descriptors of the guest's own, under numbers that user code does not touch by accident."""

import fcntl
import resource

#: The lowest number for descriptors of the guest's own, out of the way of code that closes or replaces low ones.
HIGH_DESCRIPTOR = 200


def move_high(descriptor: int) -> int:
    """A copy of the descriptor under a high number, closed on exec."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = HIGH_DESCRIPTOR if limit == resource.RLIM_INFINITY else min(HIGH_DESCRIPTOR, limit // 2)
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)
