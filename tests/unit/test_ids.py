"""Ids: their form, and that they sort by creation."""

from datetime import timedelta

import pytest

from afarensis_server import ids
from tests.support.clocks import set_clock_back

_KINDS = (ids.message_id, ids.step_id, ids.run_id, ids.file_id)


def test_ids_sort_by_creation_though_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [ids.message_id() for _ in range(100)]
    set_clock_back(monkeypatch, timedelta(hours=1))
    made += [ids.message_id() for _ in range(100)]
    assert made == sorted(set(made))


def test_ids_of_different_kinds_compare_by_what_is_behind_the_prefix() -> None:
    made = [kind() for _ in range(20) for kind in (ids.step_id, ids.message_id, ids.run_id, ids.file_id)]
    assert sorted(made, key=ids.sort_key) == made
