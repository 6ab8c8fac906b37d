"""An execution as one message, however much it put out."""

from afarensis_server.clock import now
from afarensis_server.domain.executions import (
    DisplayItem,
    Execution,
    ExecutionItem,
    OutputItem,
    OutputStream,
    Representation,
    join_outputs,
)
from afarensis_server.rpc.convert.executions import execution_message
from afarensis_server.sessions.executions import ExecutionState


def state(*outputs: ExecutionItem) -> ExecutionState:
    return ExecutionState(Execution("exec_x", "default", now(), "sess_x", "1"), False, outputs, None)


def out(text: str, dropped_bytes: int = 0, stream: OutputStream = OutputStream.STDOUT) -> OutputItem:
    return OutputItem(stream, text, dropped_bytes)


def test_small_execution_is_whole() -> None:
    image = DisplayItem((Representation("image/png", data=b"png", file_id="file-1"),))
    message = execution_message(state(out("a"), image), 10_000)
    assert message.outputs[0].output.text == "a"
    assert message.outputs[1].display.representations[0].data == b"png"


def test_what_has_a_file_is_left_out_first() -> None:
    image = DisplayItem((Representation("image/png", data=bytes(9_000), file_id="file-1"),))
    message = execution_message(state(out("a" * 5_000), image), 10_000)
    (form,) = message.outputs[1].display.representations
    assert (form.data, form.file_id) == (b"", "file-1")
    assert len(message.outputs[0].output.text) == 5_000


def test_then_the_middle_of_the_text_is_left_out_and_counted() -> None:
    outputs = (out("b" * 8_000 + "é" * 4_000), out("x", stream=OutputStream.STDERR), out("e" * 8_000))
    message = execution_message(state(*outputs), 10_000)
    assert message.ByteSize() <= 10_000
    texts = [output.output for output in message.outputs]
    shown = "".join(text.text for text in texts)
    assert shown.startswith("b")
    assert shown.endswith("e")
    total = sum(len(output.text.encode()) for output in outputs)
    # A code point that would be cut is left out without being counted.
    assert 0 <= total - len(shown.encode()) - sum(text.dropped_bytes for text in texts) <= 2


def test_neighbors_of_one_stream_are_joined_unless_something_was_dropped_between() -> None:
    error = out("x", stream=OutputStream.STDERR)
    assert join_outputs([out("a"), out("b"), error, out("c"), out("d", 5), out("e")]) == (
        out("ab"),
        error,
        out("c"),
        out("de", 5),
    )
    assert join_outputs([]) == ()
