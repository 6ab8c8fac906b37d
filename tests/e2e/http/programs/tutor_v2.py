"""The same program for the second version of the API, with the helpers of today's SDK."""

import json
import sys
from pathlib import Path

from openai import OpenAI

client = OpenAI()

file = client.files.create(file=Path(sys.argv[1]).open("rb"), purpose="assistants")
assistant = client.beta.assistants.create(
    instructions="You are a personal math tutor. When asked a math question, write and run code to answer the question.",
    model=sys.argv[2],
    tools=[{"type": "code_interpreter"}],
    tool_resources={"code_interpreter": {"file_ids": [file.id]}},
)
thread = client.beta.threads.create()
client.beta.threads.messages.create(
    thread_id=thread.id,
    role="user",
    content="What is the mean of the values? Draw them, too.",
    attachments=[{"file_id": file.id, "tools": [{"type": "code_interpreter"}]}],
)
run = client.beta.threads.runs.create_and_poll(
    thread_id=thread.id,
    assistant_id=assistant.id,
    instructions="Please address the user as Jane Doe. The user has a premium account.",
)

messages = client.beta.threads.messages.list(thread_id=thread.id, run_id=run.id)
answer = messages.data[0]
image = next(part for part in answer.content if part.type == "image_file")
text = next(part for part in answer.content if part.type == "text").text
annotation = text.annotations[0]
steps = client.beta.threads.runs.steps.list(thread_id=thread.id, run_id=run.id, order="asc")
calls = [call for step in steps if step.type == "tool_calls" for call in step.step_details.tool_calls]

print(
    json.dumps(
        {
            "status": run.status,
            "instructions": run.instructions,
            "file_ids": run.model_extra["tool_resources"]["code_interpreter"]["file_ids"],
            "thread_files": client.beta.threads.retrieve(thread.id).tool_resources.code_interpreter.file_ids,
            "answer": text.value,
            "cited": [annotation.text, text.value[annotation.start_index : annotation.end_index]],
            "image": client.files.content(image.image_file.file_id).read()[:8].hex(),
            "file": client.files.content(annotation.file_path.file_id).read().decode(),
            "steps": [step.type for step in steps],
            "input": calls[0].code_interpreter.input,
            "outputs": [output.type for output in calls[0].code_interpreter.outputs],
            "usage": run.usage.total_tokens,
            "uploaded": file.id,
        }
    )
)
client.beta.assistants.delete(assistant.id)
client.files.delete(file.id)
