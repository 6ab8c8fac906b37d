"""Guests that write whatever they like into whatever they hold: found by chance, and made small by hypothesis."""

import json
from random import Random

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from afarensis_server.sandbox.driver import Display, ExecutionStatus
from afarensis_server.sandbox.guest.frames import PREFIX, FrameBuffer, FrameError
from afarensis_server.sandbox.local import LocalSandbox
from afarensis_server.sandbox.shared.frames import MAX_BODY, MAX_HEADER, parse_display, parse_result
from tests.support.sandbox import SOCKET, opened, run

#: Stands for the number of the request that runs, which the guest knows and we do not.
REQUEST = "<request>"

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
_FORMS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "media_type": st.sampled_from(["text/plain", "image/png", "", "a" * 300, "\ud800"]) | _JSON,
            "length": st.integers(-2, 40) | _JSON,
            "text": st.booleans() | _JSON,
        },
    )
    | _JSON,
    max_size=4,
)
_HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["result", "display", "ready", "execute"]) | _JSON,
        "id": st.just(REQUEST) | _JSON,
        "status": st.sampled_from(["ok", "error", "interrupted"]) | _JSON,
        "error": st.fixed_dictionaries(dict.fromkeys(("name", "value", "traceback"), st.text(max_size=20))) | _JSON,
        "representations": _FORMS | _JSON,
        "out_of_memory": _JSON,
    },
)
#: Frames as (header, body, bytes that are left out at the end, times it is sent).
_FRAMES = st.tuples(
    _HEADERS, st.binary(max_size=60), st.just(0) | st.integers(0, 40), st.sampled_from([1, 1, 1, 2, 300])
)
_GARBAGE = st.binary(max_size=200) | st.builds(PREFIX.pack, *[st.integers(0, 2**32 - 1)] * 2)

#: Writes all of it to each of the guest's descriptors, as far as that is possible.
ATTACK = (
    SOCKET
    + """
def fill(value):
    if value == "<request>": return request
    if isinstance(value, dict): return {name: fill(one) for name, one in value.items()}
    return [fill(one) for one in value] if isinstance(value, list) else value
def is_open(number):
    try: return bool(os.fstat(number))
    except OSError: return False
control.close()
held = [number for number in range(256) if is_open(number)]
chunks = []
for one in attack:
    if isinstance(one, bytes): chunks.append(one); continue
    header, body, cut, times = one
    data = frame(fill(header), body)
    chunks.append(data[:len(data) - cut] * times)
for number in (held if target is None else [held[target % len(held)]]):
    os.set_blocking(number, False)
    for chunk in chunks:
        try: os.write(number, chunk)
        except OSError: pass
"""
)


@settings(max_examples=500, database=None, deadline=None)
@given(st.lists(st.tuples(_HEADERS, st.binary(max_size=60)), max_size=5), st.binary(max_size=50), st.randoms())
def test_frames_are_believed_or_refused_and_nothing_else(
    frames: list[tuple[dict[str, object], bytes]], garbage: bytes, random: Random
) -> None:
    stream = b""
    for header, body in frames:
        encoded = json.dumps(header).encode()
        stream += PREFIX.pack(len(encoded), len(body)) + encoded + body
    stream += garbage
    buffer = FrameBuffer(MAX_HEADER, MAX_BODY)
    try:
        while stream:
            size = random.randint(1, len(stream))
            for header, body in buffer.feed(stream[:size]):
                if header["type"] == "display":
                    display = parse_display(header, body)
                    assert sum(len(form.data or b"") for form in display.representations) <= len(body)
                elif header["type"] == "result":
                    assert parse_result(header).status in {"ok", "error", "interrupted"}
            stream = stream[size:]
    except FrameError:
        return


@pytest.mark.timeout(180)
@pytest.mark.asyncio(loop_scope="session")
@settings(max_examples=60, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(attack=st.lists(_GARBAGE | _FRAMES, max_size=6), target=st.none() | st.integers(0, 5))
async def test_a_guest_that_writes_anything_anywhere_ends_only_itself(
    driver: LocalSandbox, attack: list[object], target: int | None
) -> None:
    async with opened(driver) as neighbour, opened(driver) as session:
        await run(neighbour, "x = 1")
        code = f"from math import inf, nan\nattack = {attack!r}\ntarget = {target!r}\n{ATTACK}"
        cell = await run(session, code, timeout_seconds=10)
        event(cell.status)
        assert cell.status is not ExecutionStatus.TIMEOUT
        assert sum(isinstance(event, Display) for event in cell.events) <= 2_000
        after = await run(session, "print(1 + 1)", timeout_seconds=10)
        if after.status is ExecutionStatus.SESSION_LOST:
            after = await run(session, "print(1 + 1)", timeout_seconds=10)
        assert (after.status, after.stdout[-2:]) == (ExecutionStatus.OK, "2\n")
        assert (await run(neighbour, "x")).value == "1"
