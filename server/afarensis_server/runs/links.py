"""Finds the places in a model's text that lead to files below /mnt/data, also where the model broke the link.

Models write ``sandbox:/mnt/data/x.csv``, and ``sandbox:mnt/data/x.csv``, ``[x](/mnt/data/x.csv)``,
``sandbox:/mnt/data/my%20table.csv``, ``sandbox:/mnt/data/X.CSV`` or the directory that a file lies in. What they mean
is found by trying: the path as it stands, then decoded, normalized and in any case, then its last part alone.
"""

import html
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

_ROOT = "/mnt/data/"
#: Where a link may begin: the scheme and the root in any form, or the root as the target of a Markdown link.
_BEGIN = re.compile(r"sandbox:/{0,3}mnt/data\b/*|(?<=\]\()<?/?mnt/data\b/*|(?<=\]\()<(?=sandbox:)", re.IGNORECASE)
#: Where a link ends that stands in plain text, and one that is the target of a Markdown link.
_PLAIN_END = re.compile(r"[\s<>\"'`|)\]}，。；：！？、）】」』]|$")
_TARGET_END = re.compile(r"[\r\n>]|\)|$")
#: What belongs to the sentence, not to the link.
_PUNCTUATION = ".,;:!?*_~"
#: A suffix: a link that goes on in letters of another script behind it ends with it.
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,10}(?=[^\x00-\x7f]|$)")
#: Characters of a path that are looked at.
_MOST = 1_100
#: Links of one text that may lead nowhere. An answer has a few; what comes behind so many is not looked at.
_MOST_DEAD = 500


@dataclass(frozen=True, slots=True)
class Link:
    """A place in a text, in code points, and the files that it leads to: one, or those in a directory."""

    start: int
    end: int
    file_ids: tuple[str, ...]


def find_links(text: str, files: Mapping[str, str]) -> list[Link]:
    """All links in a text that lead somewhere, in order, none within another.

    Args:
        text: what the model wrote.
        files: file ids by absolute path below /mnt/data.
    """
    names = _Names(files)
    links: list[Link] = []
    end = dead = 0
    for begin in _BEGIN.finditer(text) if files else ():
        if begin.start() < end:
            continue
        link = names.link(text, begin.start(), begin.end())
        if link is not None:
            links.append(link)
            end = link.end
        elif (dead := dead + 1) == _MOST_DEAD:
            break
    return links


class _Names:
    """The files by all that they may be called."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._exact = {path.removeprefix(_ROOT): file_id for path, file_id in files.items() if path.startswith(_ROOT)}
        self._lengths = sorted({len(name) for name in self._exact}, reverse=True)
        self._loose: dict[str, set[str]] = {}
        self._last: dict[str, set[str]] = {}
        self._below: dict[str, set[str]] = {}
        for name, file_id in self._exact.items():
            loose = _loose(name)
            self._loose.setdefault(loose, set()).add(file_id)
            self._last.setdefault(loose.rsplit("/", 1)[-1], set()).add(file_id)
            directory = loose
            while "/" in directory:
                directory = directory.rpartition("/")[0]
                self._below.setdefault(directory, set()).add(file_id)

    def link(self, text: str, start: int, path: int) -> Link | None:
        """The link that begins at ``start``, its path below the root at ``path``; None when it leads nowhere."""
        if text[start] == "<":
            start += 1
            if text[start : start + 8].lower() == "sandbox:":
                return None  # it is found by itself
        rest = text[path : path + _MOST]
        for length in self._lengths:
            file_id = self._exact.get(rest[:length])
            if file_id is not None and _ends_at(rest, length):
                return Link(start, path + length, (file_id,))
        is_target = text[max(0, start - 2) : start] in ("](", "(<") or text[max(0, start - 1) : start] == "("
        for end in _ends(rest, is_target=is_target):
            if found := self._look_up(_loose(unquote(html.unescape(rest[:end]), errors="replace"))):
                return Link(start, path + end, found)
        return None

    def _look_up(self, loose: str) -> tuple[str, ...]:
        """What a path means: a file if there is one of that name, or all that lie in a directory."""
        if (files := self._loose.get(loose)) is not None:
            return tuple(files) if len(files) == 1 else ()
        if (below := self._below.get(loose)) is not None:
            return tuple(sorted(below))
        by_last = self._last.get(loose.rsplit("/", 1)[-1], set())
        return tuple(by_last) if len(by_last) == 1 else ()


def _loose(name: str) -> str:
    """A path without what people and models do not tell apart."""
    normal = posixpath.normpath(unicodedata.normalize("NFC", name)).casefold()
    return normal.removeprefix("./").lstrip("/")


def _ends(rest: str, *, is_target: bool) -> Iterator[int]:
    """Where the path at the beginning of a text may end, the likeliest first."""
    if is_target:
        # Names with brackets in them: each closing one may be the last, the furthest first as long as they balance.
        closings = [match.start() for match in re.finditer(r"[)>\r\n]", rest)][:4]
        ends = [end for end in closings if rest.count("(", 0, end) == rest.count(")", 0, end)] + closings[:1]
    else:
        match = _PLAIN_END.search(rest)
        ends = [match.start() if match is not None else len(rest)]
    seen: set[int] = set()
    for end in ends:
        stripped = len(rest[:end].rstrip(_PUNCTUATION))
        suffixes = [match.end() for match in _SUFFIX.finditer(rest, 0, end)][-3:]
        for candidate in (end, stripped, *reversed(suffixes)):
            if candidate > 0 and candidate not in seen:
                seen.add(candidate)
                yield candidate


def _ends_at(rest: str, end: int) -> bool:
    """Whether a name that ends here is whole: ``x.csv`` is not meant by ``x.csv.gz`` or ``x.csv2``."""
    following = rest[end : end + 2]
    if not following or not (following[0].isascii() and (following[0].isalnum() or following[0] in "._-/%")):
        return True
    return following[0] in "._-" and not (following[1:].isascii() and following[1:].isalnum())
