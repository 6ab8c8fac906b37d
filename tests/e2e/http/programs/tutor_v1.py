"""A program of early 2024, as its author left it: OPENAI_BASE_URL and OPENAI_API_KEY are in its environment."""

import json
import sys
import time
from pathlib import Path

from openai import OpenAI

client = OpenAI()

file = client.files.create(file=Path(sys.argv[1]).open("rb"), purpose="assistants")
assistant = client.beta.assistants.create(
    instructions="You are a personal math tutor. When asked a math question, write and run code to answer the question.",
    model=sys.argv[2],
    tools=[{"type": "code_interpreter"}],
    file_ids=[file.id],
)
thread = client.beta.threads.create(
    messages=[{"role": "user", "content": "What is the mean of the values? Draw them, too.", "file_ids": [file.id]}]
)
run = client.beta.threads.runs.create(
    thread_id=thread.id,
    assistant_id=assistant.id,
    instructions="Please address the user as Jane Doe. The user has a premium account.",
)
while run.status in ["queued", "in_progress"]:
    time.sleep(0.1)
    run = client.beta.threads.runs.retrieve(thread_id=thread.id, run_id=run.id)

messages = client.beta.threads.messages.list(thread_id=thread.id)
answer = messages.data[0]
image = next(part for part in answer.content if part.type == "image_file")
text = next(part for part in answer.content if part.type == "text").text
annotation = text.annotations[0]
steps = client.beta.threads.runs.steps.list(thread_id=thread.id, run_id=run.id)
calls = [call for step in steps.data if step.type == "tool_calls" for call in step.step_details.tool_calls]

print(
    json.dumps(
        {
            "status": run.status,
            "instructions": run.instructions,
            "file_ids": [assistant.file_ids, run.file_ids, messages.data[-1].file_ids],
            "answer": text.value,
            "cited": [annotation.text, text.value[annotation.start_index : annotation.end_index]],
            "image": client.files.content(image.image_file.file_id).read()[:8].hex(),
            "file": client.files.content(annotation.file_path.file_id).read().decode(),
            "steps": [step.type for step in steps.data],
            "input": calls[0].code_interpreter.input,
            "outputs": [output.type for output in calls[0].code_interpreter.outputs],
            "assistant_files": [one.id for one in client.beta.assistants.files.list(assistant.id).data],
            "message_files": [
                one.id
                for one in client.beta.threads.messages.files.list(messages.data[-1].id, thread_id=thread.id).data
            ],
            "uploaded": file.id,
        }
    )
)
client.beta.assistants.delete(assistant.id)
client.files.delete(file.id)
