"""When a failed call is tried again, and what is said when it is not."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from afarensis_server.domain.runs import RunErrorCode
from afarensis_server.runs.models.protocol import ModelError, ModelErrorReason
from afarensis_server.runs.models.retry import Attempts, RetrySettings, is_transient, retry_after


def failed(*, transient: bool = True, after: float | None = None) -> ModelError:
    return ModelError(
        RunErrorCode.SERVER_ERROR,
        ModelErrorReason.MODEL_FAILED,
        "It failed (503). Try again later.",
        transient=transient,
        retry_after=after,
    )


def attempts(max_retries: int = 2, timeout_seconds: float = 600, expires_in: float | None = None) -> Attempts:
    deadline = None if expires_in is None else datetime.now(UTC) + timedelta(seconds=expires_in)
    made = Attempts(RetrySettings(), max_retries, timeout_seconds, deadline)
    made.begin()
    return made


def refusal(made: Attempts, error: ModelError) -> str:
    with pytest.raises(ModelError) as raised:
        made.wait_after(error)
    assert raised.value.reason is error.reason
    return raised.value.message


def test_waits_double_and_have_jitter() -> None:
    waits = []
    made = attempts(max_retries=20)
    for _ in range(20):
        waits.append(made.wait_after(failed()))
        made.begin()
    for number, wait in enumerate(waits):
        whole = min(0.5 * 2**number, 30.0)
        assert whole / 2 <= wait <= whole
    assert len({attempts().wait_after(failed()) for _ in range(10)}) > 1


def test_endpoint_says_how_long_to_wait() -> None:
    assert attempts().wait_after(failed(after=7.5)) == 7.5
    assert attempts().wait_after(failed(after=0.0)) == 0.0


def test_error_that_another_attempt_would_meet_again_is_told_as_it_is() -> None:
    error = failed(transient=False)
    assert refusal(attempts(), error) == error.message


def test_first_attempt_alone_says_nothing_of_attempts() -> None:
    assert refusal(attempts(max_retries=0), failed()) == "It failed (503). Try again later."


def test_number_of_attempts_is_told() -> None:
    made = attempts(max_retries=1)
    made.wait_after(failed())
    made.begin()
    assert refusal(made, failed()).startswith("It failed (503). Try again later. Tried 2 times in 0.0 s")


def test_no_wait_goes_beyond_the_expiry_of_the_run() -> None:
    said = refusal(attempts(expires_in=5), failed(after=60))
    assert said == "It failed (503). Try again later. It asks to wait 60 s, but the run expires in 5.0 s."
    said = refusal(attempts(expires_in=0.1), failed())
    assert "The next attempt would be in 0." in said
    assert "but the run expires in 0.1 s." in said
    assert attempts(expires_in=61).wait_after(failed(after=60)) == 60


def test_longest_wait_that_an_endpoint_may_ask_for_is_a_setting() -> None:
    assert attempts().wait_after(failed(after=120)) == 120
    assert "It asks to wait 121 s, longer than this server waits." in refusal(attempts(), failed(after=121))


def test_no_attempt_begins_after_the_timeout() -> None:
    assert "There is no time for another attempt." in refusal(attempts(timeout_seconds=10), failed(after=11))


@pytest.mark.parametrize(
    ("status", "transient"),
    [
        *((status, False) for status in (400, 401, 404, 422, 501)),
        *((status, True) for status in (408, 409, 425, 429, 500, 502, 503, 504, 529)),
    ],
)
def test_statuses_that_may_pass(status: int, transient: bool) -> None:
    assert is_transient(status, {}, "") is transient


def test_endpoint_may_say_whether_to_try_again() -> None:
    assert is_transient(400, {"x-should-retry": "true"}, "")
    assert not is_transient(503, {"x-should-retry": "false"}, "")


def test_account_without_money_is_not_asked_again() -> None:
    assert not is_transient(429, {}, "insufficient_quota You exceeded your current quota")


def test_retry_after_is_read_in_all_its_forms() -> None:
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after": "0.5"}) == 0.5
    assert retry_after({"retry-after": "7", "retry-after-ms": "1500"}) == 1.5
    moment = datetime.now(UTC) + timedelta(seconds=30)
    assert retry_after({"retry-after": format_datetime(moment, usegmt=True)}) == pytest.approx(30, abs=2)
    past = datetime.now(UTC) - timedelta(seconds=30)
    assert retry_after({"retry-after": format_datetime(past, usegmt=True)}) == 0
    assert retry_after({"retry-after": "-5"}) == 0
    for nonsense in ({}, {"retry-after": ""}, {"retry-after": "soon"}, {"retry-after": "nan"}, {"retry-after": "inf"}):
        assert retry_after(nonsense) is None
