"""The main job, end to end: a file goes in, an assistant runs Python on it, a chart and a CSV come out.

``make demo`` runs it: it starts a server of its own, does the job through the Python SDK, and stops the server.
``make demo ARGS="--model gpt-4.1-mini"`` has a language model do the very same job; ``--target`` uses a running server.
"""

import argparse
import sys
from pathlib import Path

from rich.markup import escape

# So that `python examples/demo.py` finds its neighbors, too.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import afarensis
from afarensis import v1
from examples.local_server import ServerFailed, running_server
from examples.terminal import Terminal

DATA = Path(__file__).with_name("penguins.csv")
OUTPUT = Path("demo-out")

REQUEST = """\
The file `penguins.csv` holds measurements of penguins. How heavy is each species, how sure can we be of that, and does
a longer flipper go with a heavier bird? Please run these three pieces of Python one after the other, and then tell me
what came out. Link the file that they write as `sandbox:/mnt/data/penguin_summary.csv`.

First, a look at the data:

```python
import pandas as pd

penguins = pd.read_csv("/mnt/data/penguins.csv")
gaps = int(penguins.isna().any(axis=1).sum())
print(f"{len(penguins)} penguins, {gaps} of them with gaps")
columns = ["body_mass_g", "flipper_length_mm"]
penguins.groupby("species")[columns].agg(["count", "mean"]).round(1)
```

Then the mean mass of each species, with an interval from resampling:

```python
import numpy as np

rng = np.random.default_rng(2007)
weighed = penguins.dropna(subset=columns)
rows = []
for species, group in weighed.groupby("species"):
    mass = group.body_mass_g.to_numpy()
    means = rng.choice(mass, size=(20_000, len(mass))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    corr = group.body_mass_g.corr(group.flipper_length_mm)
    rows.append([species, len(mass), mass.mean(), low, high, corr])
    print(f"{species:<9} {mass.mean():.0f} g, 95 %: {low:.0f} to {high:.0f} g")

names = ["species", "penguins", "mean_g", "low_g", "high_g", "flipper_corr"]
summary = pd.DataFrame(rows, columns=names).round(2)
summary.to_csv("/mnt/data/penguin_summary.csv", index=False)
```

Last, a chart:

```python
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(8, 5), dpi=120)
for species, group in weighed.groupby("species"):
    flipper, mass = group.flipper_length_mm, group.body_mass_g
    (dots,) = axes.plot(flipper, mass, "o", alpha=0.6, label=species)
    ends = np.array([flipper.min(), flipper.max()])
    line = np.polyval(np.polyfit(flipper, mass, 1), ends)
    axes.plot(ends, line, color=dots.get_color())
axes.set_title("Palmer penguins: longer flippers, heavier birds")
axes.set(xlabel="flipper (mm)", ylabel="body mass (g)")
axes.legend(frameon=False)
plt.show()
```
"""


def run_scenario(client: afarensis.Client, model: str, terminal: Terminal) -> None:
    """The job itself; raises DemoFailed when it does not end as it should."""
    terminal.heading("Upload a data set")
    with terminal.transfer(DATA.name) as progress:
        file = client.upload(DATA, progress=progress)
    terminal.fact("file", f"{file.id}  {file.filename}, {file.size_bytes:,} bytes")

    terminal.heading("Create an assistant with that file, and a thread with a question")
    assistant = client.assistants.CreateAssistant(
        v1.CreateAssistantRequest(
            name="Data analyst",
            model=model,
            instructions="You analyze data with Python. Run the code you are given, then report in a few sentences.",
            tools=[v1.Tool(code_interpreter=v1.CodeInterpreterTool())],
            tool_resources=v1.ToolResources(
                code_interpreter=v1.CodeInterpreterResources(file_ids=[file.id]),
            ),
        )
    ).assistant
    terminal.fact("assistant", f"{assistant.id}  model {assistant.model}")
    thread = client.threads.CreateThread(v1.CreateThreadRequest()).thread
    terminal.fact("thread", thread.id)
    message = client.threads.CreateMessage(v1.CreateMessageRequest(thread_id=thread.id, text=REQUEST)).message
    terminal.fact("message", message.id)

    terminal.heading("Run the assistant, and follow it event by event")
    request = v1.CreateRunRequest(thread_id=thread.id, assistant_id=assistant.id)
    answers: list[v1.Message] = []
    run = v1.Run()
    with client.create_run_stream(request) as events:
        for event in events:
            terminal.show(event)
            if event.HasField("run"):
                run = event.run
            if event.type == v1.RUN_EVENT_TYPE_THREAD_MESSAGE_COMPLETED:
                answers.append(event.message)
    if run.status != v1.RUN_STATUS_COMPLETED:
        status = v1.RunStatus.Name(run.status).removeprefix("RUN_STATUS_").lower()
        raise DemoFailed(f"The run ended as {status}. {run.last_error.message}".strip())

    terminal.heading("Download the files of the answer")
    saved = {file_id: save(client, file_id, terminal) for answer in answers for file_id in downloads_of(answer)}
    terminal.console.print()
    for answer in answers:
        terminal.answer(afarensis.resolved_text(answer, saved.get))
    suffixes = {Path(path).suffix for path in saved.values()}
    if not {".png", ".csv"} <= suffixes:
        raise DemoFailed("The run completed, but its answer does not lead to both a chart and a summary.")

    terminal.heading("Done")
    terminal.fact("events", f"{events.last_sequence}, each exactly once; replay them with StreamRunEvents")
    for path in saved.values():
        terminal.fact("written", path)


def downloads_of(message: v1.Message) -> list[str]:
    """The files to download: images by the image_file parts, others by the file_path annotations."""
    images = [part.image_file.file_id for part in message.content if part.HasField("image_file")]
    cited = [annotation.file_path.file_id for part in message.content for annotation in part.text.annotations]
    return list(dict.fromkeys(images + cited))


def save(client: afarensis.Client, file_id: str, terminal: Terminal) -> str:
    """Download a file into the output directory, and say where it is."""
    with terminal.transfer(file_id) as progress:
        file = client.download(file_id, OUTPUT, progress=progress)
    return str(OUTPUT / file.filename)


class DemoFailed(Exception):
    """The scenario did not end as it should."""


def next_steps(model: str) -> str:
    """What to do after the demo."""
    if model != "direct":
        return "This was a real language model. `make serve` starts the server for daily use."
    return (
        "`direct` is not a language model: it ran the code blocks of the message as they are.\n"
        "To have a real one do the very same job, name any OpenAI-compatible endpoint:\n\n"
        "    export AFARENSIS_OPENAI_BASE_URL=https://api.openai.com/v1\n"
        "    export AFARENSIS_OPENAI_API_KEY=sk-...\n"
        '    make demo ARGS="--model gpt-4.1-mini"\n\n'
        "`make serve` starts the server for daily use; examples/quickstart.py is this in few lines."
    )


def main() -> int:
    """Run the demo; the exit status is 0 when the chart and the summary were written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="direct", help="the model that answers (default: %(default)s, no LLM)")
    parser.add_argument("--target", help="host:port of a server that runs already (default: start one)")
    arguments = parser.parse_args()
    OUTPUT.mkdir(exist_ok=True)
    terminal = Terminal()
    try:
        terminal.heading("Find a server" if arguments.target else "Start a server")
        with running_server(arguments.target, OUTPUT / "server.log", terminal.fact) as target:
            terminal.fact("address", target)
            with afarensis.connect(target) as client:
                run_scenario(client, arguments.model, terminal)
    except (ServerFailed, DemoFailed, afarensis.Error) as error:
        terminal.close()
        terminal.console.print(f"\n[bold red]The demo failed.[/] {escape(str(error))}", soft_wrap=True)
        return 1
    terminal.console.print()
    terminal.console.print(next_steps(arguments.model), soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
