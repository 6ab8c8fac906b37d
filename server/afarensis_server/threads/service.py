"""What can be done with threads and their messages."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection

from .. import clock, ids
from ..domain.threads import Attachment, ImageFileContent, Message, MessageRole, MessageStatus, Thread
from ..domain.tools import CodeInterpreterTool, ToolResources
from ..errors import MessageNotFound, ThreadFull, ThreadLocked, ThreadLockedForDeletion, ThreadNotFound
from ..files.lookup import require_files
from ..store import messages, requests, runs, threads
from ..store.database import Database
from ..store.pages import Page, PageRequest
from ..store.writer import Transaction
from ..uninterrupted import to_the_end
from ..validation import Reason, Violations, check_metadata, check_page_size, check_request_id
from .fields import (
    FILE_IDS_PATH,
    MessageFields,
    ThreadFields,
    ThreadLimits,
    check_image,
    check_message,
    check_thread,
    content_of,
)

#: Rows of a thread that are deleted in one unit of work: some 10 ms of the writer's time.
_DELETED_TOGETHER = 500

__all__ = ["MessageFields", "ThreadFields", "ThreadLimits", "Threads"]


class Threads:
    """Threads of all projects, with their messages."""

    def __init__(self, database: Database, limits: ThreadLimits) -> None:
        self._database = database
        self._limits = limits

    # --- threads ------------------------------------------------------------------------------------------------------

    async def create(
        self, project: str, fields: ThreadFields, initial: Sequence[MessageFields] = (), request_id: str = ""
    ) -> Thread:
        """Create a thread with its first messages. Raises InvalidFields, FileNotFound, RequestIdReused."""
        violations = Violations(self._limits.shared)
        self.check_new(violations, fields, initial)
        check_request_id(violations, request_id)
        violations.check()
        fingerprint = requests.fingerprint_of(fields, initial)

        def work(tx: Transaction) -> Thread:
            def insert() -> str:
                return self.insert_new(tx, project, fields, initial).id

            return _require(
                tx.connection, project, requests.once(tx, project, "CreateThread", request_id, fingerprint, insert)
            )

        return await self._database.write(work)

    async def get(self, project: str, thread_id: str) -> Thread:
        """Raises ThreadNotFound."""
        return await self._database.look(lambda connection: _require(connection, project, thread_id))

    async def list(self, project: str, page: PageRequest) -> Page[Thread]:
        """The threads of the project. Raises InvalidFields, PageTokenInvalid."""
        self._check_page(page)
        return await self._database.read(lambda connection: threads.list_page(connection, project, page))

    async def update(self, project: str, thread_id: str, fields: ThreadFields) -> Thread:
        """Replace the fields that are given, locked or not. Raises InvalidFields, ThreadNotFound, FileNotFound."""
        violations = Violations(self._limits.shared)
        check_thread(violations, fields, self._limits)
        violations.check()

        def work(tx: Transaction) -> Thread:
            before = _require(tx.connection, project, thread_id)
            thread = replace(before, **fields)
            if "tool_resources" in fields:
                file_ids = thread.tool_resources.code_interpreter_file_ids
                # One that was deleted since must not stand in the way of the others.
                known = before.tool_resources.code_interpreter_file_ids
                require_files(tx.connection, project, file_ids, clock.now(), known=known)
            threads.update(tx.connection, thread)
            return thread

        return await self._database.write(work)

    async def delete(self, project: str, thread_id: str) -> None:
        """Delete a thread, in which nothing goes on, with all that belongs to it; files stay. Raises ThreadNotFound."""
        await to_the_end(self._delete(project, thread_id))

    def hide(self, tx: Transaction, project: str, thread_id: str) -> None:
        """Take a thread from its project: from now on nothing is added to it. Raises ThreadNotFound.

        The first part of a deletion. What goes on in the thread is ended next, and then `delete_hidden` does the rest;
        should the server end before, the next start does.
        """
        if not threads.hide(tx.connection, project, thread_id):
            raise ThreadNotFound(id=thread_id)

    async def delete_hidden(self, thread_id: str) -> None:
        """Delete a hidden thread with its messages, runs, steps and events; files stay."""
        await to_the_end(self._delete_rest(thread_id))

    async def finish_deletions(self) -> None:
        """Delete what is left of threads whose deletion was begun by a server that has ended since."""
        while (thread_id := await self._database.read(threads.half_deleted)) is not None:
            await self._delete_rest(thread_id)

    async def _delete(self, project: str, thread_id: str) -> None:
        def begin(tx: Transaction) -> bool:
            self.hide(tx, project, thread_id)
            return threads.continue_deletion(tx.connection, thread_id, _DELETED_TOGETHER)

        if await self._database.write(begin, long=True):
            await self._delete_rest(thread_id)

    async def _delete_rest(self, thread_id: str) -> None:
        """Delete a thread that its project has no more, some rows at a time, so that others can write in between."""
        while await self._database.write(
            lambda tx: threads.continue_deletion(tx.connection, thread_id, _DELETED_TOGETHER), long=True
        ):
            pass

    # --- messages -----------------------------------------------------------------------------------------------------

    async def create_message(
        self, project: str, thread_id: str, fields: MessageFields, request_id: str = ""
    ) -> Message:
        """Add a message to the end of a thread; files for the code interpreter become the thread's.

        Raises InvalidFields, ThreadNotFound, FileNotFound, ThreadLocked, ThreadFull, RequestIdReused.
        """
        violations = Violations(self._limits.shared)
        self.check_message(violations, fields)
        check_request_id(violations, request_id)
        violations.check()
        fingerprint = requests.fingerprint_of(thread_id, fields)

        def work(tx: Transaction) -> Message:
            def insert() -> str:
                thread = _require(tx.connection, project, thread_id)
                if (run := runs.active_for_thread(tx.connection, project, thread_id)) is not None:
                    raise ThreadLocked(thread_id=thread_id, run_id=run.id)
                _, (message,) = self._insert_messages(tx, thread, [fields], [""])
                return message.id

            return _require_message(
                tx.connection, project, requests.once(tx, project, "CreateMessage", request_id, fingerprint, insert)
            )

        return await self._database.write(work)

    async def get_message(self, project: str, message_id: str) -> Message:
        """Raises MessageNotFound."""
        return await self._database.look(lambda connection: _require_message(connection, project, message_id))

    async def list_messages(
        self, project: str, thread_id: str, page: PageRequest, run_id: str | None = None
    ) -> Page[Message]:
        """The messages of a thread, or those that one run wrote.

        Raises InvalidFields, ThreadNotFound, PageTokenInvalid.
        """
        self._check_page(page)

        def read(connection: Connection) -> Page[Message]:
            _require(connection, project, thread_id)
            return messages.list_page(connection, project, page, thread_id, run_id)

        return await self._database.read(read)

    async def update_message(self, project: str, message_id: str, metadata: Mapping[str, str]) -> Message:
        """Replace the metadata. Raises InvalidFields, MessageNotFound."""
        violations = Violations(self._limits.shared)
        check_metadata(violations, "metadata", metadata)
        violations.check()

        def work(tx: Transaction) -> Message:
            messages.set_metadata(tx.connection, project, message_id, metadata)
            return _require_message(tx.connection, project, message_id)

        return await self._database.write(work)

    async def delete_message(self, project: str, message_id: str) -> None:
        """Delete a message; its files stay, also in the thread. Raises MessageNotFound, ThreadLockedForDeletion."""

        def work(tx: Transaction) -> None:
            message = _require_message(tx.connection, project, message_id)
            if (run := runs.active_for_thread(tx.connection, project, message.thread_id)) is not None:
                raise ThreadLockedForDeletion(thread_id=message.thread_id, run_id=run.id)
            messages.delete(tx.connection, project, message_id)

        await self._database.write(work)

    # --- pieces for units of work that create more than this ----------------------------------------------------------

    def check_new(self, violations: Violations, fields: ThreadFields, initial: Sequence[MessageFields]) -> None:
        """Collect what is wrong with a thread to create and its first messages."""
        check_thread(violations, fields, self._limits)
        violations.count("messages", initial, maximum=self._limits.initial_messages)
        for index, message in enumerate(initial[: self._limits.initial_messages]):
            self.check_message(violations.under(f"messages[{index}]"), message)

    def check_message(self, violations: Violations, fields: MessageFields) -> None:
        """Collect what is wrong with a message to create."""
        check_message(violations, fields, self._limits)

    def insert_new(
        self, tx: Transaction, project: str, fields: ThreadFields, initial: Sequence[MessageFields], prefix: str = ""
    ) -> Thread:
        """Store a checked thread with its first messages. Raises InvalidFields, FileNotFound.

        ``prefix`` stands before the paths of violations that only show now.
        """
        time = clock.now()
        thread = replace(Thread(id=ids.thread_id(), project=project, create_time=time), **fields)
        require_files(tx.connection, project, thread.tool_resources.code_interpreter_file_ids, time)
        threads.insert(tx.connection, thread)
        return self.insert_messages(tx, thread, initial, f"{prefix}messages")

    def insert_messages(
        self, tx: Transaction, thread: Thread, new: Sequence[MessageFields], field: str = "additional_messages"
    ) -> Thread:
        """Store checked messages at the end of a thread; returns the thread with the files attached to them.

        ``field`` names the list in the paths of violations that only show now. Whether the thread is locked is for the
        caller to see. Raises InvalidFields, FileNotFound, ThreadFull.
        """
        prefixes = [f"{field}[{index}]" for index in range(len(new))]
        thread, _ = self._insert_messages(tx, thread, new, prefixes)
        return thread

    def _insert_messages(
        self, tx: Transaction, thread: Thread, new: Sequence[MessageFields], prefixes: Sequence[str]
    ) -> tuple[Thread, Sequence[Message]]:
        if not new:
            return thread, ()
        connection, limits = tx.connection, self._limits
        if messages.count(connection, thread.project, thread.id) + len(new) > limits.messages:
            raise ThreadFull(thread_id=thread.id, limit=limits.messages)
        violations = Violations(limits.shared)
        file_ids = dict.fromkeys(thread.tool_resources.code_interpreter_file_ids)
        stored: list[Message] = []
        for fields, prefix in zip(new, prefixes, strict=True):
            message = _build_message(thread, fields)
            nested = violations.under(prefix) if prefix else violations
            self._check_files(connection, nested, message)
            file_ids |= dict.fromkeys(attachment.file_id for attachment in message.attachments)
            if len(file_ids) > limits.code_interpreter_files:
                nested.add("attachments", Reason.TOO_MANY_ITEMS, _too_many_files(thread, len(file_ids), limits))
            stored.append(message)
        violations.check()
        messages.insert(connection, *stored)
        resources = ToolResources(tuple(file_ids))
        if resources != thread.tool_resources:
            thread = replace(thread, tool_resources=resources)
            threads.update(connection, thread)
        return thread, stored

    def _check_files(self, connection: Connection, violations: Violations, message: Message) -> None:
        images = {
            f"content[{index}].image_file.file_id": part.file_id
            for index, part in enumerate(message.content)
            if isinstance(part, ImageFileContent)
        }
        named = [*images.values(), *(attachment.file_id for attachment in message.attachments)]
        found = require_files(connection, message.project, named, message.create_time)
        for field, file_id in images.items():
            check_image(violations, field, found[file_id], self._limits)

    def _check_page(self, page: PageRequest) -> None:
        violations = Violations(self._limits.shared)
        check_page_size(violations, page.size)
        violations.check()


def _too_many_files(thread: Thread, count: int, limits: ThreadLimits) -> str:
    return (
        f"Invalid 'attachments': thread '{thread.id}' would have {count} files for the code interpreter. "
        f"Expected at most {limits.code_interpreter_files}. Remove some from its '{FILE_IDS_PATH}' first."
    )


def _build_message(thread: Thread, fields: MessageFields) -> Message:
    time = clock.now()
    return Message(
        id=ids.message_id(),
        project=thread.project,
        thread_id=thread.id,
        create_time=time,
        role=fields.get("role", MessageRole.USER),
        # Clients send messages whole.
        status=MessageStatus.COMPLETED,
        content=content_of(fields),
        attachments=tuple(
            Attachment(attachment.file_id, attachment.tools or (CodeInterpreterTool(),))
            for attachment in fields.get("attachments", ())
        ),
        complete_time=time,
        metadata=fields.get("metadata", {}),
    )


def _require(connection: Connection, project: str, thread_id: str) -> Thread:
    thread = threads.get(connection, project, thread_id)
    if thread is None:
        raise ThreadNotFound(id=thread_id)
    return thread


def _require_message(connection: Connection, project: str, message_id: str) -> Message:
    message = messages.get(connection, project, message_id)
    if message is None:
        raise MessageNotFound(id=message_id)
    return message
