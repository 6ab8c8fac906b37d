"""Sessions leave nothing behind; ``python -m bench.soak`` looks for the same after 10,000 of them."""

import pytest

from bench.soak import leaks, soak
from tests.support.sandbox import guest_python

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.timeout(180)
async def test_two_hundred_sessions_leave_nothing_behind() -> None:
    assert leaks(*await soak(200, 200, guest_python())) == []
