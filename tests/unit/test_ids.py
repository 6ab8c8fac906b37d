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


def test_ids_continue_after_one_that_is_greater(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = ids.step_id()
    monkeypatch.setattr(ids, "_last", 0)
    set_clock_back(monkeypatch, timedelta(hours=1))
    ids.continue_after(stored)
    assert ids.step_id() > stored


@pytest.mark.parametrize("other", ["", "thread_a", "msg_" + "z" * 26, "msg_" + "7" + "i" * 25, "msg_" + "Ω" * 26])
def test_what_is_no_id_is_nothing_to_continue_after(other: str) -> None:
    before = ids.message_id()
    ids.continue_after(other)
    assert before < ids.message_id() < "msg_7"


def test_form_of_an_id_is_told_from_what_is_none() -> None:
    message = ids.message_id()
    assert ids.is_id(message, ids.Prefix.MESSAGE)
    for other in (ids.run_id(), message.upper(), message[:-1], message + "0", f"{message}\n", "msg_" + "z" * 26, ""):
        assert not ids.is_id(other, ids.Prefix.MESSAGE), other
