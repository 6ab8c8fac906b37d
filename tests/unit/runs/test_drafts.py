"""Messages and steps rebuilt from the deltas that clients see."""

from afarensis_server.domain.events import (
    CodeInterpreterCallDelta,
    FunctionCallDelta,
    MessageContentDelta,
    MessageDelta,
    OutputDelta,
    RunStepDelta,
    ToolCallDelta,
)
from afarensis_server.domain.executions import ExecutionResult, ExecutionStatus, OutputItem, OutputStream
from afarensis_server.domain.runs import CodeInterpreterCall, FunctionCall
from afarensis_server.domain.threads import FilePathAnnotation, ImageFileContent, MessageContent, TextContent
from afarensis_server.runs.drafts import (
    CallsDraft,
    CodeCallDraft,
    MessageDraft,
    merge_message_deltas,
    merge_step_deltas,
)


def text_delta(index: int, content: MessageContent) -> MessageDelta:
    return MessageDelta("msg_1", (MessageContentDelta(index, content),))


def call_delta(delta: ToolCallDelta) -> RunStepDelta:
    return RunStepDelta("step_1", (delta,))


def printed(text: str, stream: OutputStream = OutputStream.STDOUT, dropped: int = 0) -> OutputItem:
    return OutputItem(stream, text, dropped)


def test_text_deltas_of_one_part_are_appended() -> None:
    draft = MessageDraft()
    annotation = FilePathAnnotation("sandbox:/mnt/data/x", 0, 19, "file-1")
    draft.apply(text_delta(0, ImageFileContent("file-0")))
    draft.apply(text_delta(1, TextContent("sandbox:")))
    draft.apply(text_delta(1, TextContent("/mnt/data/x")))
    draft.apply(text_delta(1, TextContent("", (annotation,))))
    assert draft.content() == (ImageFileContent("file-0"), TextContent("sandbox:/mnt/data/x", (annotation,)))


def test_output_of_one_stream_continues_and_of_another_begins_anew() -> None:
    call = CodeCallDraft("call_1")
    for item in (
        printed("a"),
        printed("b"),
        printed("!", OutputStream.STDERR),
        printed("c"),
        printed("d", dropped=7),
    ):
        call.apply(CodeInterpreterCallDelta(0, "call_1", outputs=(call.place(item),)))
    assert call.call().outputs == (
        printed("ab"),
        printed("!", OutputStream.STDERR),
        printed("c"),
        printed("d", dropped=7),
    )


def test_calls_grow_side_by_side() -> None:
    draft = CallsDraft()
    result = ExecutionResult(ExecutionStatus.OK, 0.1)
    for delta in (
        CodeInterpreterCallDelta(0, "call_1", input="print("),
        FunctionCallDelta(1, "call_2", name="lookup"),
        CodeInterpreterCallDelta(0, "call_1", input="1)"),
        FunctionCallDelta(1, "call_2", arguments_json='{"a":1}'),
        CodeInterpreterCallDelta(0, "call_1", execution_id="exec_1", session_id="sess_1", state_lost=True),
        CodeInterpreterCallDelta(0, "call_1", result=result),
        FunctionCallDelta(1, "call_2", output=""),
    ):
        draft.apply(call_delta(delta))
    assert draft.details().calls == (
        CodeInterpreterCall(
            "call_1", "print(1)", result=result, session_id="sess_1", execution_id="exec_1", state_lost=True
        ),
        FunctionCall("call_2", "lookup", '{"a":1}', ""),
    )


def test_merged_message_deltas_say_the_same() -> None:
    one, two = text_delta(0, TextContent("a")), text_delta(0, TextContent("b"))
    assert merge_message_deltas(one, two) == text_delta(0, TextContent("ab"))


def test_deltas_of_different_parts_stay_apart() -> None:
    assert merge_message_deltas(text_delta(0, TextContent("a")), text_delta(1, TextContent("b"))) is None
    assert merge_message_deltas(text_delta(0, ImageFileContent("f")), text_delta(0, TextContent("b"))) is None


def output(text: str, index: int = 0) -> RunStepDelta:
    return call_delta(CodeInterpreterCallDelta(0, "call_1", outputs=(OutputDelta(index, printed(text)),)))


def test_output_deltas_merge_up_to_a_limit() -> None:
    assert merge_step_deltas(output("a"), output("b"), 2) == output("ab")
    assert merge_step_deltas(output("a"), output("b"), 1) is None
    assert merge_step_deltas(output("a"), output("b", index=1), 9) is None


def test_the_delta_that_names_a_function_stays_alone() -> None:
    named = call_delta(FunctionCallDelta(0, "call_1", name="f"))
    more = call_delta(FunctionCallDelta(0, "call_1", arguments_json="{"))
    end = call_delta(FunctionCallDelta(0, "call_1", arguments_json="}"))
    assert merge_step_deltas(named, more, 99) is None
    assert merge_step_deltas(more, end, 99) == call_delta(FunctionCallDelta(0, "call_1", arguments_json="{}"))


def test_a_result_is_never_merged_away() -> None:
    result = call_delta(
        CodeInterpreterCallDelta(0, "call_1", result=ExecutionResult(ExecutionStatus.OK, wall_seconds=0.0))
    )
    assert merge_step_deltas(output("a"), result, 99) is None
