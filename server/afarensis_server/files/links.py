"""Links by which anyone who has one can download a file for a while: signed, and kept nowhere."""

import base64
import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from .. import clock
from ..errors import HttpDisabled
from ..store.database import Database
from ..store.pages import derived_key
from ..validation import Violations
from .service import Files

_PURPOSE = b"download links"
#: Of the digest, which is as much as nobody guesses.
_SIGNATURE_BYTES = 18


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """How long links work."""

    #: Seconds, when whoever asks for one does not say.
    seconds: float = 3_600.0
    #: Seconds at most.
    max_seconds: float = 604_800.0


@dataclass(frozen=True, slots=True)
class Link:
    """A link, and when it stops working."""

    url: str
    expire_time: datetime


class Links:
    """Makes links and tells whether one is good. ``base_url`` is where the server answers; empty: nowhere."""

    def __init__(self, database: Database, files: Files, settings: LinkSettings) -> None:
        self._database = database
        self._files = files
        self._settings = settings
        self.base_url = ""

    async def create(self, project: str, file_id: str, seconds: float | None = None) -> Link:
        """A link to a file. Raises InvalidFields, FileNotFound, HttpDisabled."""
        violations = Violations()
        violations.number("ttl", seconds, minimum=1, maximum=self._settings.max_seconds)
        violations.check()
        if not self.base_url:
            raise HttpDisabled
        await self._files.get(project, file_id)
        life = timedelta(seconds=self._settings.seconds if seconds is None else seconds)
        expires = int((clock.now() + life).timestamp())
        signature = await self._sign(project, file_id, expires)
        url = f"{self.base_url}/files/{file_id}/content?expires={expires}&signature={signature}"
        return Link(url, datetime.fromtimestamp(expires, clock.now().tzinfo))

    async def is_good(self, project: str, file_id: str, expires: str, signature: str) -> bool:
        """Whether a link was made here, for this file, and still works."""
        if not expires.isdecimal() or len(expires) > 12 or int(expires) < clock.now().timestamp():
            return False
        expected = await self._sign(project, file_id, int(expires))
        return hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))

    async def _sign(self, project: str, file_id: str, expires: int) -> str:
        def key(connection: Connection) -> bytes:
            return derived_key(connection, _PURPOSE)

        message = f"{project}\n{file_id}\n{expires}".encode()
        digest = hmac.digest(await self._database.look(key), message, hashlib.sha256)
        return base64.urlsafe_b64encode(digest[:_SIGNATURE_BYTES]).decode()
