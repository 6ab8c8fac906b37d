"""The main job, end to end, with both kinds of model: files go in, code runs, a chart and a table come out."""

import csv
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp

from afarensis import v1
from tests.support.api import Api, event_name, is_event, printed, printed_by, text_of
from tests.support.scripted_model import code, text
from tests.support.scripts import Script, Scripts

pytestmark = pytest.mark.asyncio(loop_scope="session")

BIRDS = b"species,grams\nAdelie,3700\nAdelie,3800\nGentoo,5000\nGentoo,5200\n"
NOTES = "Wägung: früh am Morgen\n".encode()

LOOK = """\
import os, time
import pandas as pd

birds = pd.read_csv("/mnt/data/birds.csv")
print(f"{len(birds)} birds")
time.sleep(0.6)
print(open("/mnt/data/notes.txt", encoding="utf-8").read(), end="")
same = [
    open(f"/mnt/data/{file_id}", "rb").read() == open(f"/mnt/data/{name}", "rb").read()
    for file_id, name in [("BIRDS_ID", "birds.csv"), ("NOTES_ID", "notes.txt")]
]
print("the same by id:", same)
birds.groupby("species").grams.mean()"""

MAKE = """\
import matplotlib.pyplot as plt

means = birds.groupby("species").grams.mean()
means.to_csv("/mnt/data/means.csv")
plt.figure(figsize=(4, 3), dpi=100)
means.plot.bar()
plt.show()"""

#: In front of the citation: characters that count more than one in UTF-8 and in UTF-16.
ANSWER = ("Größe 𝒙 🐧: the means are in ", "[this table](sandbox:/mnt/", "data/means.csv), the chart is above.")


@dataclass(slots=True)
class Road:
    """What there was, and what came out."""

    birds: v1.File
    notes: v1.File
    run: v1.Run
    events: list[v1.RunEvent]
    steps: list[v1.RunStep]
    calls: list[v1.CodeInterpreterCall]
    message: v1.Message
    script: Script | None


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["direct", "scripted"])
async def road(request: pytest.FixtureRequest, api: Api, scripts: Scripts) -> AsyncIterator[Road]:
    birds = await api.upload(BIRDS, "birds.csv")
    notes = await api.upload(NOTES, "notes.txt")
    look = LOOK.replace("BIRDS_ID", birds.id).replace("NOTES_ID", notes.id)
    script = None if request.param == "direct" else scripts.add(code(look), code(MAKE), text(*ANSWER))
    assistant = await api.assistant("direct" if script is None else script.model, file_ids=[birds.id])
    question = f"How heavy are they?\n\n```python\n{look}\n```\n\nAnd a chart:\n\n```python\n{MAKE}\n```"
    thread = await api.thread(question, attachments=[notes.id])
    items = api.runs.CreateRunStream(
        v1.CreateRunStreamRequest(run=v1.CreateRunRequest(thread_id=thread.id, assistant_id=assistant.id))
    )
    events = [item.event async for item in items if item.HasField("event")]
    run = events[-1].run
    yield Road(
        birds, notes, run, events, list(await api.steps(run)), await api.code_calls(run), await api.answer(run), script
    )


async def test_run_completes_in_three_steps(road: Road) -> None:
    assert road.run.status == v1.RUN_STATUS_COMPLETED, road.run
    assert [step.WhichOneof("step_details") for step in road.steps] == ["tool_calls", "tool_calls", "message_creation"]
    assert {step.status for step in road.steps} == {v1.RUN_STEP_STATUS_COMPLETED}
    assert road.steps[2].message_creation.message_id == road.message.id
    assert [call.input for call in road.calls] == [
        LOOK.replace("BIRDS_ID", road.birds.id).replace("NOTES_ID", road.notes.id),
        MAKE,
    ]
    assert {call.result.status for call in road.calls} == {v1.EXECUTION_STATUS_OK}
    assert len({call.session_id for call in road.calls}) == 1
    assert len({call.execution_id for call in road.calls}) == 2


async def test_code_reads_the_files_of_assistant_and_thread_by_name_and_by_id(road: Road) -> None:
    assert printed(road.calls[0]) == "4 birds\nWägung: früh am Morgen\nthe same by id: [True, True]\n"


async def test_last_expression_is_shown_in_its_forms(road: Road) -> None:
    shown = [output.display for output in road.calls[0].outputs if output.HasField("display")]
    assert len(shown) == 1
    forms = {form.media_type: form for form in shown[0].representations}
    assert "Adelie    3750.0" in forms["text/plain"].text


async def test_output_comes_in_pieces_while_the_code_still_runs(road: Road) -> None:
    first_step = road.steps[0].id
    pieces = [
        event for event in road.events if event.run_step_delta.run_step_id == first_step and printed_by(event) != ""
    ]
    end = next(event for event in road.events if is_event("run.step.completed")(event))
    assert len(pieces) >= 2
    assert printed_by(pieces[0]) == "4 birds\n"
    # The code pauses for 0.6 s behind its first line.
    assert _seconds(pieces[0].create_time, pieces[-1].create_time) > 0.5
    assert pieces[-1].sequence < end.sequence


async def test_deltas_add_up_to_the_stored_step(road: Road) -> None:
    deltas = [event.run_step_delta for event in road.events if event.run_step_delta.run_step_id == road.steps[0].id]
    added = [delta.tool_calls[0].code_interpreter for delta in deltas]
    assert "".join(delta.input for delta in added) == road.calls[0].input
    streamed = "".join(output.output.text for delta in added for output in delta.outputs)
    assert streamed == printed(road.calls[0])
    assert [delta.HasField("result") for delta in added] == [False] * (len(added) - 1) + [True]


async def test_events_come_in_the_documented_order(road: Road) -> None:
    names: list[str] = []
    for event in road.events:
        if not names or names[-1] != event_name(event):
            names.append(event_name(event))
    step = ["run.step.created", "run.step.in_progress", "run.step.delta", "run.step.completed"]
    assert names == [
        *("run.created", "run.queued", "run.in_progress", *step, *step),
        *("run.step.created", "run.step.in_progress", "message.created", "message.in_progress", "message.delta"),
        *("message.completed", "run.step.completed", "run.completed"),
    ]
    assert [event.sequence for event in road.events] == list(range(1, len(road.events) + 1))


async def test_chart_comes_out_as_an_image_of_the_message(road: Road, api: Api) -> None:
    images = [part.image_file for part in road.message.content if part.HasField("image_file")]
    assert len(images) == 1
    assert road.message.content[0].HasField("image_file"), "images stand before the text"
    content = await api.download(images[0].file_id)
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    assert 300 <= width <= 500
    assert 200 <= height <= 400
    file = (await api.files.GetFile(v1.GetFileRequest(file_id=images[0].file_id))).file
    assert (file.media_type, file.purpose) == ("image/png", v1.FILE_PURPOSE_ASSISTANTS_OUTPUT)


async def test_table_comes_out_behind_the_citation_of_its_path(road: Road, api: Api) -> None:
    (part,) = [part.text for part in road.message.content if part.HasField("text")]
    (annotation,) = part.annotations
    assert annotation.text == "sandbox:/mnt/data/means.csv"
    assert part.value[annotation.start_index : annotation.end_index] == annotation.text
    content = await api.download(annotation.file_path.file_id)
    assert list(csv.reader(content.decode().splitlines())) == [
        ["species", "grams"],
        ["Adelie", "3750.0"],
        ["Gentoo", "5100.0"],
    ]
    file = (await api.files.GetFile(v1.GetFileRequest(file_id=annotation.file_path.file_id))).file
    assert (file.filename, file.media_type, file.size_bytes) == ("means.csv", "text/csv", len(content))


async def test_step_names_the_file_that_the_code_wrote(road: Road) -> None:
    (changed,) = [output.file for output in road.calls[1].outputs if output.HasField("file")]
    (part,) = [part.text for part in road.message.content if part.HasField("text")]
    assert (changed.path, changed.change) == ("/mnt/data/means.csv", v1.FILE_CHANGE_CREATED)
    assert changed.file.id == part.annotations[0].file_path.file_id


async def test_message_deltas_add_up_to_the_stored_message(road: Road) -> None:
    deltas = [delta for event in road.events for delta in event.message_delta.content]
    assert "".join(delta.text.value for delta in deltas) == text_of(road.message)
    images = [part.image_file.file_id for part in road.message.content if part.HasField("image_file")]
    assert [delta.image_file.file_id for delta in deltas if delta.HasField("image_file")] == images


async def test_model_is_told_of_the_files_and_of_what_came_out(road: Road) -> None:
    if road.script is None:
        assert "4 birds" in text_of(road.message)
        return
    first, second, third = road.script.requests
    manifest = first.body["messages"][0]["content"]
    assert f"/mnt/data/birds.csv (text/csv, {len(BIRDS)} bytes, id {road.birds.id})" in manifest
    assert f"/mnt/data/notes.txt (text/plain, {len(NOTES)} bytes, id {road.notes.id})" in manifest
    assert "4 birds\nWägung: früh am Morgen\n" in second.tool_texts[0]
    assert "Adelie    3750.0" in second.tool_texts[0]
    assert "[image shown: image/png]\n[file created: /mnt/data/means.csv]\n[status: ok]" in third.tool_texts[1]


async def test_usage_counts_every_model_call(road: Road) -> None:
    if road.script is None:
        assert road.run.usage == v1.TokenUsage()
    else:
        assert road.run.usage == v1.TokenUsage(prompt_tokens=300, completion_tokens=60, total_tokens=360)
        assert sum(step.usage.total_tokens for step in road.steps) == 360


def _seconds(begin: Timestamp, end: Timestamp) -> float:
    return (end.ToNanoseconds() - begin.ToNanoseconds()) / 1e9
