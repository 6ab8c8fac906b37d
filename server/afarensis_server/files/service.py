"""What can be done with files."""

import re
from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from .. import clock, ids
from ..domain.files import UPLOAD_PURPOSES, File, FilePurpose
from ..errors import ContentMismatch, FileNotFound, FileTooLarge, OffsetPastEnd
from ..store import files, requests
from ..store.database import Database
from ..store.pages import Page, PageRequest
from ..store.writer import Transaction
from ..uninterrupted import to_the_end
from ..validation import SharedLimits, Violations, check_page_size, check_request_id
from .blobs import BlobReader, BlobStore, StagedBlob
from .contents import Contents
from .expiry import Expiry
from .lookup import is_expired
from .names import check_filename, check_media_type, media_type_of, output_filename

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FileLimits:
    """Limits of files; the defaults are the Assistants API's."""

    #: Bytes of one file.
    file_bytes: int = 512 * 1024 * 1024
    #: Bytes of a file that is created in one call.
    unary_bytes: int = 1024 * 1024
    #: Bytes that are read in one call.
    read_bytes: int = 1024 * 1024
    #: Seconds that a file which expires is kept at least.
    minimum_ttl_seconds: int = 3_600
    #: Seconds that a file which expires is kept at most.
    maximum_ttl_seconds: int = 2_592_000
    #: Files of one page of a list.
    page_files: int = 10_000
    shared: SharedLimits = SharedLimits()


@dataclass(frozen=True, slots=True)
class UploadHead:
    """What is said about a file before its content."""

    filename: str
    purpose: FilePurpose = FilePurpose.ASSISTANTS
    #: Empty: guessed from the name.
    media_type: str = ""
    #: What the content must hash to, in lower-case hexadecimal; empty: not checked.
    sha256: str = ""
    #: The size that the content must have; None: not checked.
    size_bytes: int | None = None
    #: After how many seconds it is deleted; None: not by itself.
    ttl_seconds: float | None = None
    request_id: str = ""


#: Belongs to the storing of a file: done with it, or neither is.
Also = Callable[[Transaction, File], None]


class Files:
    """Files of all projects. One instance owns a blob store.

    An async context manager: entering sweeps what a killed process left; until it is left, expired files are deleted.
    """

    def __init__(self, database: Database, blobs: BlobStore, limits: FileLimits) -> None:
        self._database = database
        self._blobs = blobs
        self._limits = limits
        #: Shared with whatever else has contents in the same blob store.
        self.contents = Contents(database, blobs)
        self._expiry = Expiry("files", self.delete_expired, self.next_expiry)

    async def __aenter__(self) -> Self:
        await self.sweep()
        await self._expiry.__aenter__()
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._expiry.__aexit__(error_type, error, traceback)

    # --- putting in ---------------------------------------------------------------------------------------------------

    async def create(self, project: str, head: UploadHead, content: bytes) -> File:
        """Store a small file. Raises InvalidFields, FileTooLarge, ContentMismatch, RequestIdReused, StorageFull."""
        violations = Violations(self._limits.shared)
        self.check(violations, head)
        check_request_id(violations, head.request_id)
        violations.check()
        if len(content) > self._limits.unary_bytes:
            raise FileTooLarge(limit_bytes=self._limits.unary_bytes, hint="Use UploadFile for larger ones.")
        return await self._receive(project, "CreateFile", head, _once(content))

    async def upload(
        self,
        project: str,
        head: UploadHead,
        chunks: AsyncIterable[bytes],
        *,
        under: str = "metadata",
        also: Also | None = None,
    ) -> File:
        """Store a file as it comes in; nothing of it is left unless all of it came and is what was announced.

        ``under`` is the path of what the head is made of, in the words of its violations; ``also`` is what is done in
        the transaction that stores the file.
        Raises InvalidFields, FileTooLarge, ContentMismatch, RequestIdReused, StorageFull, and what ``chunks`` raises.
        """
        violations = Violations(self._limits.shared)
        fields = violations.under(under) if under else violations
        self.check(fields, head)
        check_request_id(fields, head.request_id)
        violations.check()
        if head.size_bytes is not None:
            self.check_size(head.size_bytes)
        return await self._receive(project, "UploadFile", head, chunks, also)

    async def store_output(self, project: str, filename: str, chunks: AsyncIterable[bytes]) -> File:
        """Store a file that code made; a name that no file can have is made one. Raises FileTooLarge, StorageFull."""
        head = UploadHead(output_filename(filename), FilePurpose.ASSISTANTS_OUTPUT)
        return await self._receive(project, "", head, chunks)

    def check_size(self, size_bytes: int) -> None:
        """Raise FileTooLarge for a size that no file may have."""
        if size_bytes > self._limits.file_bytes:
            raise FileTooLarge(limit_bytes=self._limits.file_bytes, hint="Nothing was stored.")

    def check(self, violations: Violations, head: UploadHead) -> None:
        """Check what is said about a file."""
        check_filename(violations, "filename", head.filename)
        if head.purpose not in UPLOAD_PURPOSES:
            violations.unsupported("purpose", head.purpose, UPLOAD_PURPOSES)
        check_media_type(violations, "media_type", head.media_type)
        violations.string("sha256", head.sha256, pattern=_SHA256)
        violations.number("size_bytes", head.size_bytes, minimum=0)
        limits = self._limits
        violations.number(
            "ttl", head.ttl_seconds, minimum=limits.minimum_ttl_seconds, maximum=limits.maximum_ttl_seconds
        )

    async def _receive(
        self, project: str, method: str, head: UploadHead, chunks: AsyncIterable[bytes], also: Also | None = None
    ) -> File:
        announced = head.size_bytes
        limit = self._limits.file_bytes if announced is None else announced

        def insert(tx: Transaction, staged: StagedBlob) -> File:
            def create() -> str:
                file = _new_file(project, head, staged)
                files.insert(tx.connection, file)
                if also is not None:
                    also(tx, file)
                return file.id

            fingerprint = requests.fingerprint_of(replace(head, request_id=""), staged.sha256)
            file_id = requests.once(tx, project, method, head.request_id, fingerprint, create)
            file = files.get(tx.connection, project, file_id)
            if file is None:
                raise FileNotFound(id=file_id)
            return file

        try:
            file = await self.contents.store(chunks, limit_bytes=limit, check=partial(_compare, head), insert=insert)
        except FileTooLarge:
            if announced is None:
                raise
            raise ContentMismatch(what="size_bytes", expected=announced, actual="more") from None
        if file.expire_time is not None:
            self._expiry.changed()
        return file

    # --- looking at ---------------------------------------------------------------------------------------------------

    async def get(self, project: str, file_id: str) -> File:
        """What is known about a file. Raises FileNotFound."""
        file = await self._database.look(lambda connection: files.get(connection, project, file_id))
        if file is None or is_expired(file, clock.now()):
            raise FileNotFound(id=file_id)
        return file

    async def list(self, project: str, page: PageRequest, purpose: FilePurpose | None = None) -> Page[File]:
        """Files of the project, or those of one purpose. Raises InvalidFields, PageTokenInvalid."""
        violations = Violations(self._limits.shared)
        check_page_size(violations, page.size, self._limits.page_files)
        violations.check()
        found = await self._database.read(lambda connection: files.list_page(connection, project, page, purpose))
        time = clock.now()
        return replace(found, items=[file for file in found.items if not is_expired(file, time)])

    async def open(
        self, project: str, file_id: str, offset_bytes: int = 0, limit_bytes: int | None = None
    ) -> tuple[File, BlobReader]:
        """A file and its content from an offset on, which can be read to the end even if the file is deleted.

        Raises InvalidFields, FileNotFound, OffsetPastEnd.
        """
        violations = Violations(self._limits.shared)
        violations.number("offset_bytes", offset_bytes, minimum=0)
        violations.number("limit_bytes", limit_bytes, minimum=0)
        violations.check()
        file = await self.get(project, file_id)
        if offset_bytes > file.size_bytes:
            raise OffsetPastEnd(offset_bytes=offset_bytes, id=file.id, size_bytes=file.size_bytes)
        rest = file.size_bytes - offset_bytes
        length = rest if limit_bytes is None else min(limit_bytes, rest)
        try:
            return file, await self._blobs.open(file.sha256, offset_bytes=offset_bytes, length_bytes=length)
        except FileNotFoundError:
            # Deleted while it was being opened: then this says so.
            await self.get(project, file_id)
            raise

    async def read(self, project: str, file_id: str, offset_bytes: int = 0, limit_bytes: int = 0) -> tuple[File, bytes]:
        """A file and a piece of its content; 0 stands for the most that one call reads. Raises as `open` does."""
        most = self._limits.read_bytes
        wanted = limit_bytes if limit_bytes < 0 else min(limit_bytes or most, most)
        file, chunks = await self.open(project, file_id, offset_bytes, wanted)
        return file, b"".join([chunk async for chunk in chunks])

    async def path(self, project: str, file_id: str) -> Path:
        """Where sandboxes of this host find the content, to link it before it may be deleted. Raises FileNotFound."""
        return self._blobs.path((await self.get(project, file_id)).sha256)

    # --- taking away --------------------------------------------------------------------------------------------------

    async def delete(self, project: str, file_id: str) -> None:
        """Delete a file, and its blob with the last file of that content. Raises FileNotFound."""
        file = await self.get(project, file_id)
        if not await to_the_end(self._delete(file)):
            raise FileNotFound(id=file_id)

    async def drop_repeat(self, kept: File, repeat: File) -> bool:
        """Delete a file whose content another one has, if that one is still there; tells whether it is."""

        def drop(tx: Transaction) -> bool:
            is_there = files.get(tx.connection, kept.project, kept.id) is not None
            return is_there and files.delete(tx.connection, repeat.project, repeat.id) is not None

        # The blob stays in use, so it needs no lock.
        return await to_the_end(self._database.write(drop))

    async def delete_expired(self, time: datetime) -> int:
        """Delete the files of all projects that expired until then; tells how many."""
        deleted = 0
        while batch := await self._database.read(lambda connection: files.expired_before(connection, time)):
            for file in batch:
                deleted += await to_the_end(self._delete(file))
        return deleted

    async def next_expiry(self, after: datetime) -> datetime | None:
        """When the next file expires; None when none is to."""
        return await self._database.read(lambda connection: files.next_expiry(connection, after))

    async def sweep(self) -> int:
        """Remove what a killed process left; see `Contents.sweep`."""
        return await self.contents.sweep()

    async def _delete(self, file: File) -> bool:
        async with self.contents.lock(file.sha256):
            deleted = await self._database.write(lambda tx: files.delete(tx.connection, file.project, file.id))
            if deleted is not None and deleted.frees_blob:
                await self._blobs.delete(file.sha256)
            return deleted is not None


def _new_file(project: str, head: UploadHead, staged: StagedBlob) -> File:
    time = clock.now()
    return File(
        id=ids.file_id(),
        project=project,
        create_time=time,
        filename=head.filename,
        purpose=head.purpose,
        size_bytes=staged.size_bytes,
        sha256=staged.sha256,
        media_type=head.media_type or media_type_of(head.filename),
        expire_time=None if head.ttl_seconds is None else time + timedelta(seconds=head.ttl_seconds),
    )


def _compare(head: UploadHead, staged: StagedBlob) -> None:
    if head.size_bytes is not None and head.size_bytes != staged.size_bytes:
        raise ContentMismatch(what="size_bytes", expected=head.size_bytes, actual=staged.size_bytes)
    if head.sha256 and head.sha256 != staged.sha256:
        raise ContentMismatch(what="sha256", expected=head.sha256, actual=staged.sha256)


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content
