"""Prefixed, time-ordered ids: ``run_01k9...``, 26 characters of lower-case base32 behind the prefix.

The first 48 bits are milliseconds since 1970, the other 80 bits are random (the layout of a ULID), and within a process
each id is greater than the one before it. Sorting the ids of a kind therefore sorts by creation, whatever the clock did
meanwhile: this is the order of every list. Ids of different kinds compare by `sort_key`.

It holds across restarts, too: a process begins behind the ids in its database (`continue_after`). Processes that make
ids at the same time are as much in order as their clocks agree.
"""

import re
import secrets
import threading
import time
from enum import StrEnum

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
#: Two characters at a time.
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_SHIFTS = range(120, -1, -10)
_RANDOM_BITS = 80
#: Of an id, behind its prefix.
_CHARACTERS = 26
_FORM = re.compile(f"[0-7][{_ALPHABET}]{{{_CHARACTERS - 1}}}")
#: From the alphabet to that of Python's numbers.
_DIGITS = str.maketrans(_ALPHABET, "0123456789abcdefghijklmnopqrstuv")

_lock = threading.Lock()
_last = 0


class Prefix(StrEnum):
    """What ids of a kind begin with, the separator included."""

    ASSISTANT = "asst_"
    THREAD = "thread_"
    MESSAGE = "msg_"
    RUN = "run_"
    STEP = "step_"
    CALL = "call_"
    SESSION = "sess_"
    EXECUTION = "exec_"
    FILE = "file-"
    UPLOAD = "upload_"
    PART = "part_"


def _next_value() -> int:
    global _last  # noqa: PLW0603  # the order of ids is a property of the process
    with _lock:
        fresh = (time.time_ns() // 1_000_000 << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
        # A clock that stands still or goes back must not break the order. The random step keeps ids hard to guess.
        _last = fresh if fresh > _last else _last + 1 + secrets.randbits(32)
        return _last


def new_id(prefix: str) -> str:
    """A new id with the given prefix, separator included: ``new_id("run_")``."""
    value = _next_value()
    return prefix + "".join([_PAIRS[value >> shift & 1023] for shift in _SHIFTS])


def continue_after(one_id: str) -> None:
    """Make every later id greater than this one, of whichever kind. What has not the form of an id changes nothing."""
    global _last  # noqa: PLW0603  # as above
    characters = sort_key(one_id)
    if _FORM.fullmatch(characters):
        with _lock:
            _last = max(_last, int(characters.translate(_DIGITS), 32))


def is_id(text: str, prefix: Prefix) -> bool:
    """Whether a text has the form of an id of this kind. Whether there is such an object, the store knows."""
    return text.startswith(prefix) and _FORM.fullmatch(text, len(prefix)) is not None


def sort_key(one_id: str) -> str:
    """What ids of any kind, the other kinds' among them, sort by."""
    return one_id[-_CHARACTERS:]


def assistant_id() -> str:
    return new_id(Prefix.ASSISTANT)


def thread_id() -> str:
    return new_id(Prefix.THREAD)


def message_id() -> str:
    return new_id(Prefix.MESSAGE)


def run_id() -> str:
    return new_id(Prefix.RUN)


def step_id() -> str:
    return new_id(Prefix.STEP)


def call_id() -> str:
    return new_id(Prefix.CALL)


def session_id() -> str:
    return new_id(Prefix.SESSION)


def execution_id() -> str:
    return new_id(Prefix.EXECUTION)


def file_id() -> str:
    return new_id(Prefix.FILE)


def upload_id() -> str:
    return new_id(Prefix.UPLOAD)


def part_id() -> str:
    return new_id(Prefix.PART)
