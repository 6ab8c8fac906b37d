"""Files that the code of runs finds, changes, makes, and that answers bring along."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from afarensis import v1
from tests.support.api import Api, direct, is_event, output_of, printed
from tests.support.scripted_model import Wait, code, text
from tests.support.scripts import Script

pytestmark = pytest.mark.asyncio(loop_scope="session")

Add = Callable[..., Script]


async def test_files_that_the_model_does_not_cite_are_attached_and_images_shown(api: Api, script: Add) -> None:
    author = script(
        code(
            "from PIL import Image\n"
            "Image.new('RGB', (3, 2)).save('/mnt/data/dot.png')\n"
            "open('/mnt/data/report.txt', 'w').write('all is well')"
        ),
        text("I wrote sandbox:/mnt/data/rapport.txt for you."),
    )
    message = await api.answer(await api.settled(await api.run(author.model)))
    (attachment,) = message.attachments
    assert await api.download(attachment.file_id) == b"all is well"
    assert list(attachment.tools) == [v1.TOOL_TYPE_CODE_INTERPRETER]
    (image,) = [part.image_file for part in message.content if part.HasField("image_file")]
    assert (await api.download(image.file_id)).startswith(b"\x89PNG")
    assert not any(part.text.annotations for part in message.content)


async def test_code_changes_its_view_of_an_input_and_never_the_file(api: Api) -> None:
    file = await api.upload(b"original", "notes.txt")
    thread = await api.thread(
        direct("open('/mnt/data/notes.txt', 'w').write('changed')", "print(open('/mnt/data/notes.txt').read())"),
        attachments=[file.id],
    )
    run = await api.settled(await api.run(thread_id=thread.id))
    changing, reading = await api.code_calls(run)
    assert printed(reading) == "changed\n"
    (changed,) = [output.file for output in changing.outputs if output.HasField("file")]
    assert (changed.path, changed.change) == ("/mnt/data/notes.txt", v1.FILE_CHANGE_MODIFIED)
    assert changed.file.id != file.id
    assert await api.download(changed.file.id) == b"changed"
    assert await api.download(file.id) == b"original"


async def test_every_change_of_a_file_is_told_with_the_same_id_for_the_same_content(api: Api) -> None:
    blocks = [
        "open('/mnt/data/a.txt', 'w').write('1')",
        "open('/mnt/data/a.txt', 'w').write('1')",
        "open('/mnt/data/a.txt', 'w').write('2')",
        "import os; os.remove('/mnt/data/a.txt')",
    ]
    run = await api.settled(await api.run(text=direct(*blocks)))
    told = [
        [(output.file.change, output.file.file.id) for output in made.outputs if output.HasField("file")]
        for made in await api.code_calls(run)
    ]
    created, touched, modified, deleted = told
    assert [change for change, _ in created] == [v1.FILE_CHANGE_CREATED]
    # Written again with the same content: not told, or told with the same id.
    assert {file_id for _, file_id in touched} <= {created[0][1]}
    assert [change for change, _ in modified] == [v1.FILE_CHANGE_MODIFIED]
    assert modified[0][1] != created[0][1]
    assert deleted == [(v1.FILE_CHANGE_DELETED, "")]
    assert not (await api.answer(run)).attachments


async def test_file_that_code_writes_again_after_it_was_deleted_is_kept_anew(api: Api) -> None:
    thread = await api.thread()
    session = await api.session(thread_id=thread.id)
    write = "open('out.csv', 'w').write('a,b')"
    (first,) = [event.file for event in await api.execute(session.id, write) if event.HasField("file")]
    await api.files.DeleteFile(v1.DeleteFileRequest(file_id=first.file.id))
    (again,) = [event.file for event in await api.execute(session.id, write) if event.HasField("file")]
    assert again.file.id != first.file.id
    assert await api.download(again.file.id) == b"a,b"
    # The thread's next session has it, too.
    await api.sessions.CloseSession(v1.CloseSessionRequest(session_id=session.id))
    following = await api.session(thread_id=thread.id)
    assert output_of(await api.execute(following.id, "print(open('out.csv').read())")) == "a,b\n"


async def test_file_attached_between_two_runs_is_there_in_the_second(api: Api) -> None:
    run = await api.settled(await api.run_code("import os; print(sorted(os.listdir('/mnt/data')))"))
    file = await api.upload(b"new", "new.txt")
    message = v1.CreateMessageRequest(
        thread_id=run.thread_id,
        text=direct("print(open('/mnt/data/new.txt').read())"),
        attachments=[v1.MessageAttachment(file_id=file.id)],
    )
    await api.threads.CreateMessage(message)
    again = await api.settled(await api.run(thread_id=run.thread_id))
    (first,), (second,) = await api.code_calls(run), await api.code_calls(again)
    assert (printed(first), printed(second)) == ("[]\n", "new\n")
    assert first.session_id == second.session_id


async def test_two_files_of_one_name_are_both_there(api: Api) -> None:
    files = [await api.upload(content, "data.csv") for content in (b"first", b"second")]
    names = ["data.csv", "data (2).csv", *(file.id for file in files)]
    thread = await api.thread(
        direct(f"print([open('/mnt/data/' + name).read() for name in {names}])"),
        attachments=[file.id for file in files],
    )
    (made,) = await api.code_calls(await api.settled(await api.run(thread_id=thread.id)))
    assert printed(made) == "['first', 'second', 'first', 'second']\n"


# --- what code made, however the message ends -------------------------------------------------------------------------

MAKE = """\
open('/mnt/data/cited.csv', 'w').write('a')
open('/mnt/data/forgotten.csv', 'w').write('b')"""
CITED = "It is in sandbox:/mnt/data/cited.csv"


async def check_files(api: Api, message: v1.Message) -> None:
    """The file that the text names is annotated, the other one attached."""
    (part,) = message.content
    (annotation,) = part.text.annotations
    text = part.text.value
    assert text[annotation.start_index : annotation.end_index] == "sandbox:/mnt/data/cited.csv"
    assert await api.download(annotation.file_path.file_id) == b"a"
    (attachment,) = message.attachments
    assert await api.download(attachment.file_id) == b"b"


async def test_files_are_brought_into_an_answer_that_is_cut_off(api: Api, script: Add) -> None:
    author = script(code(MAKE), text(CITED, finish="length"))
    run = await api.settled(await api.run(author.model))
    assert run.status == v1.RUN_STATUS_INCOMPLETE
    message = await api.answer(run)
    assert message.status == v1.MESSAGE_STATUS_INCOMPLETE
    await check_files(api, message)


async def test_files_are_brought_into_an_answer_that_is_cancelled(api: Api, script: Add) -> None:
    author = script(code(MAKE), text(CITED).then(Wait(asyncio.Event())))
    run = await api.run(author.model)
    await api.until(run.id, is_event("message.delta"))
    await api.runs.CancelRun(v1.CancelRunRequest(run_id=run.id))
    assert (await api.settled(run)).status == v1.RUN_STATUS_CANCELLED
    await check_files(api, await api.answer(run))
    stored = await api.stored_events(run.id)
    assert joined(stored) == CITED
    assert [event.message for event in stored if event.HasField("message")][-1] == await api.answer(run)


async def test_picture_that_was_saved_and_shown_comes_once(api: Api, script: Add) -> None:
    chart = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.savefig('/mnt/data/chart.png', dpi=150)\nplt.show()"
    author = script(code(chart), text("Look ", "at it."))
    run = await api.settled(await api.run(author.model))
    message = await api.answer(run)
    image, words = message.content
    assert (await api.download(image.image_file.file_id)).startswith(b"\x89PNG")
    assert words.text.value == "Look at it."
    assert list(message.attachments) == []
    stored = await api.stored_events(run.id)
    deltas = [delta for event in stored for delta in event.message_delta.content]
    assert [delta.image_file.file_id for delta in deltas if delta.HasField("image_file")] == [image.image_file.file_id]


async def test_file_of_an_earlier_session_can_be_cited(api: Api, script: Add) -> None:
    author = script(code(MAKE), text("Made."), text(CITED))
    first = await api.settled(await api.run(author.model))
    (made,) = await api.code_calls(first)
    await api.sessions.CloseSession(v1.CloseSessionRequest(session_id=made.session_id))
    await api.say(first.thread_id, "Where is it?")
    second = await api.settled(await api.run(author.model, thread_id=first.thread_id))
    (annotation,) = (await api.answer(second)).content[0].text.annotations
    assert await api.download(annotation.file_path.file_id) == b"a"


def joined(events: Sequence[v1.RunEvent]) -> str:
    """The text of a message as its deltas say it."""
    return "".join(part.text.value for event in events for part in event.message_delta.content)
