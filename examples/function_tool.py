"""A model calls a function of yours. Start: .venv/bin/python examples/function_tool.py gpt-4.1-mini [host:port]"""

import json
import sys

import afarensis
from afarensis import v1

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def get_weather(city: str) -> str:
    return f"18 degrees and rain in {city}"


if len(sys.argv) < 2:
    sys.exit("Name a language model that the server has: function_tool.py MODEL [HOST:PORT]")
with afarensis.connect(*sys.argv[2:]) as client:
    function = v1.FunctionTool(
        name="get_weather", description="The weather in a city now", parameters_json=json.dumps(SCHEMA)
    )
    new_assistant = v1.CreateAssistantRequest(model=sys.argv[1], tools=[v1.Tool(function=function)])
    assistant = client.assistants.CreateAssistant(new_assistant).assistant
    thread = v1.CreateThreadRequest(messages=[v1.MessageInput(text="Do I need an umbrella in Oslo?")])
    run = v1.CreateRunRequest(assistant_id=assistant.id)
    for event in client.create_run_stream(v1.CreateThreadAndRunRequest(thread=thread, run=run)):
        if event.type == v1.RUN_EVENT_TYPE_THREAD_RUN_REQUIRES_ACTION:
            answers = v1.SubmitToolOutputsRequest(run_id=event.run.id)
            for call in event.run.required_action.submit_tool_outputs.tool_calls:
                print("called", call.function.name, call.function.arguments_json)
                output = get_weather(**json.loads(call.function.arguments_json))
                answers.tool_outputs.add(tool_call_id=call.id, output=output)
            client.runs.SubmitToolOutputs(answers)  # the same stream goes on
        if event.type == v1.RUN_EVENT_TYPE_THREAD_MESSAGE_COMPLETED:
            print(afarensis.message_text(event.message))
        if event.type == v1.RUN_EVENT_TYPE_THREAD_RUN_FAILED:
            print("failed:", event.run.last_error.message)
