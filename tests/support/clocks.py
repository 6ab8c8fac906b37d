"""The clock of this process, set otherwise than the host's."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from afarensis_server import clock, ids


def set_clock_back(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    """From now on, objects are created earlier than they are, as after a correction by NTP."""

    class Late(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(UTC) - by

    def time_ns() -> int:
        return int(Late.now().timestamp() * 1_000_000) * 1_000

    monkeypatch.setattr(clock, "datetime", Late)
    monkeypatch.setattr(ids, "time", SimpleNamespace(time_ns=time_ns))
