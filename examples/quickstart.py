"""The main job in 20 lines. Start a server first (`make serve`), then: .venv/bin/python examples/quickstart.py"""

import sys
from pathlib import Path

import afarensis
from afarensis import v1

QUESTION = """How heavy are the penguins of each species? Use this:
```python
import pandas as pd
penguins = pd.read_csv("penguins.csv").dropna()
print(f"{len(penguins)} penguins without gaps")
summary = penguins.groupby("species")["body_mass_g"].mean().round()
summary.to_csv("mass.csv")
axes = summary.plot.barh(title="Mean body mass (g)")
```"""

output_dir = Path("demo-out")
output_dir.mkdir(exist_ok=True)
with afarensis.connect(*sys.argv[1:]) as client:  # host:port; default 127.0.0.1:50051
    data = client.upload(Path(__file__).with_name("penguins.csv"))
    files = v1.CodeInterpreterResources(file_ids=[data.id])
    new_assistant = v1.CreateAssistantRequest(
        model="direct",  # runs the code blocks of the message; or the name of a real model
        tools=[v1.Tool(code_interpreter=v1.CodeInterpreterTool())],
        tool_resources=v1.ToolResources(code_interpreter=files),
    )
    assistant = client.assistants.CreateAssistant(new_assistant).assistant
    thread = v1.CreateThreadRequest(messages=[v1.MessageInput(text=QUESTION)])
    run = v1.CreateRunRequest(assistant_id=assistant.id)
    for event in client.create_run_stream(v1.CreateThreadAndRunRequest(thread=thread, run=run)):
        for call in event.run_step_delta.tool_calls:
            for output in call.code_interpreter.outputs:
                print(output.output.text, end="")  # live, while the code runs
        if event.type == v1.RUN_EVENT_TYPE_THREAD_MESSAGE_COMPLETED:
            text, made = client.text_with_files(event.message)
            print(text)
            for file in made:
                print("saved", output_dir / client.download(file.id, output_dir).filename)
