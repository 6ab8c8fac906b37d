import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from afarensis import v1 as pb
from tests.support.rpc import refused


def resources(*file_ids: str) -> pb.ToolResources:
    return pb.ToolResources(code_interpreter=pb.CodeInterpreterResources(file_ids=file_ids))


def list_texts(threads: pb.ThreadServiceStub, thread_id: str) -> list[str]:
    request = pb.ListMessagesRequest(thread_id=thread_id, order=pb.SORT_ORDER_ASCENDING)
    return [message.content[0].text.value for message in threads.ListMessages(request).messages]


def test_thread_begins_with_its_messages_in_order(threads: pb.ThreadServiceStub, file: pb.File) -> None:
    messages = [
        pb.MessageInput(text="first", metadata={"n": "1"}),
        pb.MessageInput(text="second", role=pb.MESSAGE_ROLE_ASSISTANT),
    ]
    request = pb.CreateThreadRequest(messages=messages, tool_resources=resources(file.id), metadata={"a": "b"})
    thread = threads.CreateThread(request).thread
    assert thread.id.startswith("thread_")
    assert list(thread.tool_resources.code_interpreter.file_ids) == [file.id]
    assert threads.GetThread(pb.GetThreadRequest(thread_id=thread.id)).thread == thread
    assert list_texts(threads, thread.id) == ["first", "second"]


def test_thread_changes_by_its_mask(threads: pb.ThreadServiceStub, file: pb.File) -> None:
    request = pb.CreateThreadRequest(tool_resources=resources(file.id), metadata={"a": "b"})
    thread = threads.CreateThread(request).thread
    update = pb.UpdateThreadRequest(
        thread_id=thread.id, update_mask=FieldMask(paths=["tool_resources"]), metadata={"not": "named"}
    )
    updated = threads.UpdateThread(update).thread
    assert not updated.tool_resources.code_interpreter.file_ids
    assert dict(updated.metadata) == {"a": "b"}


def test_threads_are_listed_newest_first(threads: pb.ThreadServiceStub) -> None:
    made = [threads.CreateThread(pb.CreateThreadRequest()).thread.id for _ in range(3)]
    page = threads.ListThreads(pb.ListThreadsRequest(page_size=3))
    assert [thread.id for thread in page.threads] == made[::-1]
    assert page.next_page_token


def test_deleted_thread_takes_its_messages_with_it(threads: pb.ThreadServiceStub) -> None:
    thread = threads.CreateThread(pb.CreateThreadRequest(messages=[pb.MessageInput(text="x")])).thread
    (message,) = threads.ListMessages(pb.ListMessagesRequest(thread_id=thread.id)).messages
    threads.DeleteThread(pb.DeleteThreadRequest(thread_id=thread.id))
    for call in (
        lambda: threads.GetThread(pb.GetThreadRequest(thread_id=thread.id)),
        lambda: threads.UpdateThread(pb.UpdateThreadRequest(thread_id=thread.id)),
        lambda: threads.DeleteThread(pb.DeleteThreadRequest(thread_id=thread.id)),
        lambda: threads.ListMessages(pb.ListMessagesRequest(thread_id=thread.id)),
        lambda: threads.CreateMessage(pb.CreateMessageRequest(thread_id=thread.id, text="x")),
    ):
        refusal = refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "THREAD_NOT_FOUND")
        assert refusal.message == f"No thread found with id '{thread.id}'."
    refusal = refused(lambda: threads.GetMessage(pb.GetMessageRequest(message_id=message.id)))
    assert refusal.reason == "MESSAGE_NOT_FOUND"


def test_message_comes_back_as_it_was_created(
    threads: pb.ThreadServiceStub, thread: pb.Thread, files: pb.FileServiceStub, file: pb.File
) -> None:
    image = files.CreateFile(
        pb.CreateFileRequest(filename="x.png", content=b"\x89PNG", purpose=pb.FILE_PURPOSE_VISION)
    ).file
    content = [
        pb.MessageContent(text=pb.TextContent(value="look 漢")),
        pb.MessageContent(image_file=pb.ImageFileContent(file_id=image.id, detail=pb.IMAGE_DETAIL_HIGH)),
        pb.MessageContent(image_url=pb.ImageUrlContent(url="https://example.org/x.png", detail=pb.IMAGE_DETAIL_AUTO)),
    ]
    request = pb.CreateMessageRequest(
        thread_id=thread.id,
        content=content,
        attachments=[pb.MessageAttachment(file_id=file.id)],
        metadata={"k": "v"},
    )
    message = threads.CreateMessage(request).message
    assert list(message.content) == content
    assert (message.role, message.status) == (pb.MESSAGE_ROLE_USER, pb.MESSAGE_STATUS_COMPLETED)
    assert list(message.attachments[0].tools) == [pb.TOOL_TYPE_CODE_INTERPRETER]
    assert message.HasField("complete_time")
    assert threads.GetMessage(pb.GetMessageRequest(message_id=message.id)).message == message
    changed = threads.GetThread(pb.GetThreadRequest(thread_id=thread.id)).thread
    assert list(changed.tool_resources.code_interpreter.file_ids) == [file.id]


def test_message_without_content_is_refused(threads: pb.ThreadServiceStub, thread: pb.Thread) -> None:
    refusal = refused(lambda: threads.CreateMessage(pb.CreateMessageRequest(thread_id=thread.id)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
    assert refusal.violations[0][:2] == ("content", "REQUIRED")


def test_too_long_text_gets_the_text_that_clients_match_on(threads: pb.ThreadServiceStub, thread: pb.Thread) -> None:
    refusal = refused(lambda: threads.CreateMessage(pb.CreateMessageRequest(thread_id=thread.id, text="x" * 256_001)))
    assert refusal.message == (
        "Invalid 'content': string too long. Expected a string with maximum length 256000, "
        "but got a string with length 256001 instead."
    )


@pytest.mark.parametrize(
    ("part", "field"),
    [
        (pb.MessageContent(), "content[0]"),
        (pb.MessageContent(text=pb.TextContent()), "content[0].text.value"),
        (
            pb.MessageContent(text=pb.TextContent(value="x", annotations=[pb.Annotation()])),
            "content[0].text.annotations",
        ),
        (pb.MessageContent(refusal=pb.RefusalContent(value="no")), "content[0].refusal"),
        (pb.MessageContent(image_file=pb.ImageFileContent()), "content[0].image_file.file_id"),
        (pb.MessageContent(image_url=pb.ImageUrlContent(url="ftp://x")), "content[0].image_url.url"),
    ],
)
def test_content_that_cannot_be_is_refused(
    threads: pb.ThreadServiceStub, thread: pb.Thread, part: pb.MessageContent, field: str
) -> None:
    request = pb.CreateMessageRequest(thread_id=thread.id, content=[part])
    refusal = refused(lambda: threads.CreateMessage(request))
    assert (refusal.code, refusal.reason, refusal.fields) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELDS",
        [field],
    )


def test_violations_of_first_messages_are_named_by_their_whole_path(threads: pb.ThreadServiceStub) -> None:
    messages = [pb.MessageInput(text="fine"), pb.MessageInput(text="x", metadata={"k" * 65: "v"})]
    refusal = refused(lambda: threads.CreateThread(pb.CreateThreadRequest(messages=messages)))
    assert refusal.fields == ["messages[1].metadata"]


def test_attachment_of_an_unknown_file_is_refused_and_leaves_nothing(
    threads: pb.ThreadServiceStub, thread: pb.Thread
) -> None:
    request = pb.CreateMessageRequest(
        thread_id=thread.id, text="x", attachments=[pb.MessageAttachment(file_id="file-gone")]
    )
    refusal = refused(lambda: threads.CreateMessage(request))
    assert (refusal.reason, refusal.message) == ("FILE_NOT_FOUND", "No such File object: file-gone")
    assert list_texts(threads, thread.id) == []


def test_metadata_of_a_message_changes_and_nothing_else(threads: pb.ThreadServiceStub, thread: pb.Thread) -> None:
    message = threads.CreateMessage(pb.CreateMessageRequest(thread_id=thread.id, text="x", metadata={"a": "b"})).message
    unchanged = threads.UpdateMessage(pb.UpdateMessageRequest(message_id=message.id)).message
    assert unchanged == message
    updated = threads.UpdateMessage(pb.UpdateMessageRequest(message_id=message.id, metadata={"c": "d"})).message
    assert dict(updated.metadata) == {"c": "d"}
    cleared = threads.UpdateMessage(
        pb.UpdateMessageRequest(message_id=message.id, update_mask=FieldMask(paths=["metadata"]))
    ).message
    assert not cleared.metadata
    refusal = refused(
        lambda: threads.UpdateMessage(
            pb.UpdateMessageRequest(message_id=message.id, update_mask=FieldMask(paths=["content"]))
        )
    )
    assert refusal.reason == "UPDATE_MASK_INVALID"


def test_deleted_message_is_not_found(threads: pb.ThreadServiceStub, thread: pb.Thread) -> None:
    message = threads.CreateMessage(pb.CreateMessageRequest(thread_id=thread.id, text="x")).message
    threads.DeleteMessage(pb.DeleteMessageRequest(message_id=message.id))
    refusal = refused(lambda: threads.DeleteMessage(pb.DeleteMessageRequest(message_id=message.id)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "MESSAGE_NOT_FOUND")
    assert refusal.message == f"No message found with id '{message.id}'."


def test_messages_created_with_a_request_id_are_created_once(threads: pb.ThreadServiceStub, thread: pb.Thread) -> None:
    request = pb.CreateMessageRequest(thread_id=thread.id, text="x", request_id="once-message")
    first = threads.CreateMessage(request).message
    assert threads.CreateMessage(request).message == first
    assert list_texts(threads, thread.id) == ["x"]


def test_page_of_long_messages_stays_below_what_clients_accept(
    threads: pb.ThreadServiceStub, thread: pb.Thread
) -> None:
    texts = [f"{number:02}" + "漢" * 255_998 for number in range(8)]
    for text in texts:
        threads.CreateMessage(pb.CreateMessageRequest(thread_id=thread.id, text=text))
    seen: list[str] = []
    token = ""
    while True:
        # A default channel refuses more than 4 MiB; all eight have more than 6.
        request = pb.ListMessagesRequest(
            thread_id=thread.id, page_size=100, page_token=token, order=pb.SORT_ORDER_ASCENDING
        )
        page = threads.ListMessages(request)
        seen += [message.content[0].text.value[:2] for message in page.messages]
        token = page.next_page_token
        if not token:
            break
    assert seen == [text[:2] for text in texts]
