import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from afarensis_server.logs import LogFormat, configure_logs

SECRET = "what the user wrote"


@pytest.fixture(autouse=True)
def reset() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()


def fail() -> None:
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        raise KeyError(SECRET) from error


def test_traceback_has_frames_and_types_but_no_messages() -> None:
    stream = io.StringIO()
    configure_logs("info", "json", stream)
    try:
        fail()
    except KeyError:
        structlog.get_logger().exception("failed")
    line = json.loads(stream.getvalue())
    assert [entry for entry in line["traceback"] if entry.startswith("builtins.")] == [
        "builtins.ValueError",
        "builtins.KeyError",
    ]
    assert "in fail" in line["traceback"][0]
    assert SECRET not in stream.getvalue()


def test_packages_are_heard_from_warnings_on_in_the_same_form() -> None:
    stream = io.StringIO()
    configure_logs("debug", "json", stream)
    logging.getLogger("package").info("detail")
    try:
        fail()
    except KeyError:
        logging.getLogger("package").exception("trouble")
    (line,) = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (line["event"], line["logger"], line["level"]) == ("trouble", "package", "error")
    assert SECRET not in stream.getvalue()


def test_level_leaves_out_what_is_less_important() -> None:
    stream = io.StringIO()
    configure_logs("warning", "json", stream)
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["loud"]


@pytest.mark.parametrize(("log_format", "is_json"), [("json", True), ("auto", True), ("console", False)])
def test_form_is_what_was_asked_for_and_json_where_nobody_watches(log_format: LogFormat, is_json: bool) -> None:
    stream = io.StringIO()
    configure_logs("info", log_format, stream)
    structlog.get_logger().info("said", count=1)
    assert stream.getvalue().startswith("{") is is_json
