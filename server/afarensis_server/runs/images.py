"""Images on their way to a model: chosen, and read once for all the calls that show them."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from datetime import datetime

from ..domain.files import File
from ..errors import FileNotFound
from ..files.lookup import is_expired
from ..files.service import Files

#: What models take.
MEDIA_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})


def choose(
    file_ids: Iterable[str], stored: Mapping[str, File], now: datetime, *, most: int, image_bytes: int, all_bytes: int
) -> tuple[list[File], dict[str, str]]:
    """Which of these images a prompt shows, the newest first; and why not, by file id.

    Args:
        file_ids: the images, the newest first; each may come several times.
        stored: the files that exist, by id.
        now: the time.
        most: how many are shown.
        image_bytes: the size of one.
        all_bytes: the size of all together.
    """
    chosen: list[File] = []
    left_out: dict[str, str] = {}
    for file_id in dict.fromkeys(file_ids):
        file = stored.get(file_id)
        if file is None or is_expired(file, now):
            left_out[file_id] = f"[the image {file_id} was deleted]"
        elif file.size_bytes > image_bytes:
            left_out[file_id] = f"[the image {file.filename} is too large to be shown: {file.size_bytes} bytes]"
        elif len(chosen) >= most or file.size_bytes > all_bytes:
            # Nothing behind one that is left out for the sake of the whole: the newest are those that matter.
            all_bytes = 0
            left_out[file_id] = f"[the image {file.filename} is left out to keep the prompt short]"
        else:
            all_bytes -= file.size_bytes
            chosen.append(file)
    return chosen, left_out


class ImageCache:
    """Contents of images by their SHA-256, those used last, up to so many bytes in all."""

    def __init__(self, files: Files, limit_bytes: int) -> None:
        self._files = files
        self._limit_bytes = limit_bytes
        self._contents: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    async def content(self, file: File) -> bytes | None:
        """The image; None when it was deleted meanwhile."""
        if (known := self._contents.get(file.sha256)) is not None:
            self._contents.move_to_end(file.sha256)
            return known
        try:
            _, chunks = await self._files.open(file.project, file.id)
        except FileNotFound:
            return None
        content = b"".join([chunk async for chunk in chunks])
        if file.sha256 not in self._contents and len(content) <= self._limit_bytes:
            self._contents[file.sha256] = content
            self._bytes += len(content)
            while self._bytes > self._limit_bytes:
                self._bytes -= len(self._contents.popitem(last=False)[1])
        return content
