"""Files that come in parts, each a request of its own: a connection that breaks costs a part and not all of it.

A part is a content with a row, as a file is, so that parts outlive the server. Completing copies the parts into one
content, and ends the upload in the transaction that stores the file.
"""

import hashlib
import re
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

from sqlalchemy import Connection

from .. import clock, ids
from ..domain.files import File
from ..domain.uploads import Upload, UploadPart, UploadStatus
from ..errors import (
    FileTooLarge,
    PartsMismatch,
    PartTooLarge,
    TooManyUploads,
    UploadFull,
    UploadNotFound,
    UploadNotPending,
)
from ..store import requests, uploads
from ..store.database import Database
from ..store.writer import Transaction
from ..uninterrupted import to_the_end
from ..validation import Reason, SharedLimits, Violations, check_file_ids, check_request_id, echo
from .blobs import StagedBlob
from .expiry import Expiry
from .service import Files, UploadHead

_MD5 = re.compile(r"[0-9a-fA-F]{32}")


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """Limits of uploads; the defaults are the original's, which knew none for the number of parts."""

    #: Bytes of one part.
    part_bytes: int = 64 * 1024 * 1024
    #: Parts of one upload.
    parts: int = 1_000
    #: How many times the bytes announced all parts of an upload may have: a part that went wrong can be sent again.
    factor: float = 2.0
    #: Seconds that an upload may take.
    seconds: float = 3_600.0
    #: Uploads of one project that may be pending at the same time.
    pending: int = 1_000
    shared: SharedLimits = SharedLimits()


class Uploads:
    """Uploads of all projects.

    An async context manager: until it is left, uploads end when their time is over.
    """

    def __init__(self, database: Database, files: Files, limits: UploadLimits) -> None:
        self._database = database
        self._files = files
        self._contents = files.contents
        self._limits = limits
        self._expiry = Expiry("uploads", self.end_expired, self._next_expiry)

    async def __aenter__(self) -> Self:
        await self._expiry.__aenter__()
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._expiry.__aexit__(error_type, error, traceback)

    async def create(self, project: str, head: UploadHead) -> Upload:
        """Announce a file, with its size. Raises InvalidFields, FileTooLarge, TooManyUploads, RequestIdReused."""
        violations = Violations(self._limits.shared)
        self._files.check(violations, head)
        check_request_id(violations, head.request_id)
        if head.size_bytes is None:
            violations.required("size_bytes")
        violations.check()
        assert head.size_bytes is not None
        self._files.check_size(head.size_bytes)
        upload = _new_upload(project, head, head.size_bytes, self._limits.seconds)
        fingerprint = requests.fingerprint_of(replace(head, request_id=""))

        def work(tx: Transaction) -> Upload | None:
            def insert() -> str:
                if uploads.count_pending(tx.connection, project, upload.create_time) >= self._limits.pending:
                    raise TooManyUploads(limit=self._limits.pending)
                uploads.insert(tx.connection, upload)
                return upload.id

            uploads.forget(tx.connection, upload.create_time - requests.KEPT)
            upload_id = requests.once(tx, project, "CreateUpload", head.request_id, fingerprint, insert)
            return uploads.get(tx.connection, project, upload_id)

        stored = await self._database.write(work)
        if stored is None:
            raise UploadNotFound(id=upload.id)
        self._expiry.changed()
        return stored

    async def get_pending(self, project: str, upload_id: str) -> Upload:
        """An upload that takes parts. Raises UploadNotFound, UploadNotPending."""
        return await self._database.look(lambda connection: _pending(connection, project, upload_id))

    async def add_part(
        self, project: str, upload_id: str, chunks: AsyncIterable[bytes], request_id: str = ""
    ) -> UploadPart:
        """Store a part as it comes in; many may come at the same time.

        Raises InvalidFields, UploadNotFound, UploadNotPending, UploadFull, PartTooLarge, RequestIdReused, StorageFull,
        and what ``chunks`` raises.
        """
        violations = Violations(self._limits.shared)
        check_request_id(violations, request_id)
        violations.check()
        await self.get_pending(project, upload_id)

        def insert(tx: Transaction, staged: StagedBlob) -> UploadPart:
            upload = _pending(tx.connection, project, upload_id)
            part = UploadPart(ids.part_id(), project, clock.now(), upload_id, staged.size_bytes, staged.sha256)

            def create() -> str:
                self._check_room(tx.connection, upload, part)
                uploads.insert_part(tx.connection, part)
                return part.id

            fingerprint = requests.fingerprint_of(upload_id, staged.sha256)
            part_id = requests.once(tx, project, "AddUploadPart", request_id, fingerprint, create)
            stored = uploads.get_part(tx.connection, project, part_id)
            assert stored is not None, "a pending upload keeps its parts"
            return stored

        limit = self._limits.part_bytes
        try:
            return await self._contents.store(chunks, limit_bytes=limit, check=_accept, insert=insert)
        except FileTooLarge as error:
            raise PartTooLarge(limit_bytes=limit) from error

    def _check_room(self, connection: Connection, upload: Upload, part: UploadPart) -> None:
        count, size = uploads.sum_parts(connection, upload.id)
        most = int(self._limits.factor * upload.size_bytes)
        if count >= self._limits.parts or size + part.size_bytes > most:
            raise UploadFull(
                id=upload.id, limit_parts=self._limits.parts, limit_bytes=most, announced_bytes=upload.size_bytes
            )

    async def complete(
        self, project: str, upload_id: str, part_ids: Sequence[str], md5: str = ""
    ) -> tuple[Upload, File]:
        """Make the file, of these parts in this order. Doing it again gives the same file.

        Raises InvalidFields, UploadNotFound, UploadNotPending, PartsMismatch, StorageFull, and FileNotFound when it was
        done before and the file has been deleted since.
        """
        violations = Violations(self._limits.shared)
        check_file_ids(violations, "part_ids", part_ids, maximum=self._limits.parts)
        violations.string("md5", md5, pattern=_MD5)
        violations.check()
        md5 = md5.lower()
        completion = requests.fingerprint_of(list(part_ids), md5)
        if done := await self._completed(project, upload_id, completion):
            return done
        try:
            return await self._complete(project, upload_id, part_ids, md5, completion)
        except (FileNotFoundError, UploadNotPending):
            # Somebody else was quicker: with the same, perhaps.
            if done := await self._completed(project, upload_id, completion):
                return done
            await self.get_pending(project, upload_id)
            raise

    async def _complete(
        self, project: str, upload_id: str, part_ids: Sequence[str], md5: str, completion: str
    ) -> tuple[Upload, File]:
        """Raises FileNotFoundError, too: when the upload ends while its parts are read."""
        upload, parts = await self._database.read(lambda connection: _with_parts(connection, project, upload_id))
        chosen = _chosen(upload, parts, part_ids)
        unnamed: set[str] = set()

        def end(tx: Transaction, file: File) -> None:
            nonlocal upload
            upload = _pending(tx.connection, project, upload_id)
            upload = replace(upload, status=UploadStatus.COMPLETED, file_id=file.id, completion=completion)
            unnamed.update(uploads.end(tx.connection, upload))

        try:
            file = await self._files.upload(project, _head_of(upload), self._joined(chosen, md5), under="", also=end)
        finally:
            await self._contents.drop_unused(unnamed)
        return upload, file

    async def cancel(self, project: str, upload_id: str) -> Upload:
        """End an upload without a file. Raises UploadNotFound, and UploadNotPending unless it was cancelled before."""
        return await to_the_end(self._cancel(project, upload_id))

    async def _cancel(self, project: str, upload_id: str) -> Upload:
        def work(tx: Transaction) -> tuple[Upload, set[str]]:
            upload = uploads.get(tx.connection, project, upload_id)
            if upload is not None and upload.status is UploadStatus.CANCELLED:
                return upload, set()
            upload = replace(_pending(tx.connection, project, upload_id), status=UploadStatus.CANCELLED)
            return upload, uploads.end(tx.connection, upload)

        upload, unnamed = await self._database.write(work)
        await self._contents.drop_unused(unnamed)
        return upload

    async def end_expired(self, time: datetime) -> int:
        """End the uploads of all projects that expired until then; tells how many."""

        def work(tx: Transaction) -> tuple[int, set[str]]:
            expired = uploads.expired_before(tx.connection, time)
            unnamed: set[str] = set()
            for upload in expired:
                unnamed |= uploads.end(tx.connection, replace(upload, status=UploadStatus.EXPIRED))
            return len(expired), unnamed

        async def end_some() -> int:
            count, unnamed = await self._database.write(work)
            await self._contents.drop_unused(unnamed)
            return count

        ended = 0
        while count := await to_the_end(end_some()):
            ended += count
        return ended

    async def _next_expiry(self, after: datetime) -> datetime | None:
        return await self._database.read(lambda connection: uploads.next_expiry(connection, after))

    async def _completed(self, project: str, upload_id: str, completion: str) -> tuple[Upload, File] | None:
        """What the same request has made before."""
        upload = await self._database.look(lambda connection: uploads.get(connection, project, upload_id))
        if upload is None or upload.file_id is None or upload.completion != completion:
            return None
        return upload, await self._files.get(project, upload.file_id)

    async def _joined(self, parts: Sequence[UploadPart], md5: str) -> AsyncIterator[bytes]:
        """The contents one after another. Raises PartsMismatch at the end."""
        digest = hashlib.md5(usedforsecurity=False)
        for part in parts:
            reader = await self._contents.read(part.sha256, part.size_bytes)
            async with aclosing(reader):
                async for chunk in reader:
                    if md5:
                        digest.update(chunk)
                    yield chunk
        if md5 and digest.hexdigest() != md5:
            raise PartsMismatch(what="md5", expected=md5, actual=digest.hexdigest())


def _pending(connection: Connection, project: str, upload_id: str) -> Upload:
    upload = uploads.get(connection, project, upload_id)
    if upload is None:
        raise UploadNotFound(id=upload_id)
    if upload.status is not UploadStatus.PENDING:
        raise UploadNotPending(id=upload_id, status=upload.status)
    if upload.expire_time <= clock.now():
        # Also before it is swept away.
        raise UploadNotPending(id=upload_id, status=UploadStatus.EXPIRED)
    return upload


def _with_parts(connection: Connection, project: str, upload_id: str) -> tuple[Upload, dict[str, UploadPart]]:
    return _pending(connection, project, upload_id), uploads.get_parts(connection, upload_id)


def _chosen(upload: Upload, parts: dict[str, UploadPart], part_ids: Sequence[str]) -> list[UploadPart]:
    """The parts in the order of their ids. Raises InvalidFields, PartsMismatch."""
    found = Violations()
    for index, part_id in enumerate(part_ids):
        if part_id not in parts:
            text = f"Invalid 'part_ids[{index}]': '{echo(part_id)}' is no part of upload {upload.id}."
            found.add(f"part_ids[{index}]", Reason.INVALID_VALUE, text)
    found.check()
    chosen = [parts[part_id] for part_id in part_ids]
    size = sum(part.size_bytes for part in chosen)
    if size != upload.size_bytes:
        raise PartsMismatch(what="bytes", expected=upload.size_bytes, actual=size)
    return chosen


def _new_upload(project: str, head: UploadHead, size_bytes: int, seconds: float) -> Upload:
    time = clock.now()
    return Upload(
        id=ids.upload_id(),
        project=project,
        create_time=time,
        status=UploadStatus.PENDING,
        filename=head.filename,
        purpose=head.purpose,
        media_type=head.media_type,
        size_bytes=size_bytes,
        expire_time=time + timedelta(seconds=seconds),
        ttl_seconds=head.ttl_seconds,
    )


def _head_of(upload: Upload) -> UploadHead:
    return UploadHead(
        upload.filename,
        upload.purpose,
        upload.media_type,
        size_bytes=upload.size_bytes,
        ttl_seconds=upload.ttl_seconds,
    )


def _accept(staged: StagedBlob) -> None:
    """Nothing about a part was announced."""
