"""What becomes of a run when the stream that created it breaks off."""

import pytest

from afarensis import v1 as pb
from tests.support.rpc import refused

CODE = "import time; print('begun', flush=True); time.sleep(1); print('ended')"


def run_request(assistants: pb.AssistantServiceStub, threads: pb.ThreadServiceStub) -> pb.CreateRunRequest:
    tool = pb.Tool(code_interpreter=pb.CodeInterpreterTool())
    assistant = assistants.CreateAssistant(pb.CreateAssistantRequest(tools=[tool])).assistant
    message = pb.MessageInput(text=f"```python\n{CODE}\n```")
    thread = threads.CreateThread(pb.CreateThreadRequest(messages=[message])).thread
    return pb.CreateRunRequest(thread_id=thread.id, assistant_id=assistant.id)


@pytest.mark.parametrize(("cancel", "status"), [(False, pb.RUN_STATUS_COMPLETED), (True, pb.RUN_STATUS_CANCELLED)])
def test_run_goes_on_without_its_stream_unless_it_was_asked_not_to(
    assistants: pb.AssistantServiceStub,
    threads: pb.ThreadServiceStub,
    runs: pb.RunServiceStub,
    cancel: bool,
    status: pb.RunStatus.ValueType,
) -> None:
    request = pb.CreateRunStreamRequest(run=run_request(assistants, threads), cancel_on_disconnect=cancel)
    stream = runs.CreateRunStream(request)
    run_id = ""
    for item in stream:
        run_id = item.event.run.id or run_id
        calls = item.event.run_step_delta.tool_calls
        if any("begun" in output.output.text for call in calls for output in call.code_interpreter.outputs):
            break
    stream.cancel()
    assert runs.WaitRun(pb.WaitRunRequest(run_id=run_id)).run.status == status


def test_stream_of_nothing_is_refused(runs: pb.RunServiceStub) -> None:
    refusal = refused(lambda: runs.CreateRunStream(pb.CreateRunStreamRequest()))
    assert refusal.violations == (("run", "REQUIRED", "Missing required parameter: 'run' or 'thread_and_run'."),)


def test_stream_of_what_cannot_be_created_is_refused_before_anything_is(
    runs: pb.RunServiceStub, thread: pb.Thread
) -> None:
    run = pb.CreateRunRequest(thread_id=thread.id, assistant_id="asst_x")
    refusal = refused(lambda: runs.CreateRunStream(pb.CreateRunStreamRequest(run=run)))
    assert refusal.reason == "ASSISTANT_NOT_FOUND"
    assert not runs.ListRuns(pb.ListRunsRequest(thread_id=thread.id)).runs
