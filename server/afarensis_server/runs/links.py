"""Finds the places in a model's text that lead to files below /mnt/data, also where the model broke the link.

Models write ``sandbox:/mnt/data/x.csv``, and ``sandbox:mnt/data/x.csv``, ``[x](/mnt/data/x.csv)``, ``[x](./x.csv)``,
``sandbox:/mnt/data/my%20table.csv``, ``sandbox:/mnt/data/X.CSV`` or the directory that a file lies in. What they mean
is found by trying: the path as it stands, then decoded, normalized and in any case, then its last part alone.
"""

import html
import posixpath
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

_ROOT = "/mnt/data/"
#: Where a link may begin: the root, with the scheme or as the target of a Markdown link; the scheme with a path that
#: forgot the root; or a target that is a relative path, as /mnt/data is the directory that code works in.
_BEGIN = re.compile(
    r"(?P<rooted>(?:sandbox|file):/{0,3}mnt/data/+|(?<=\]\()<?/?mnt/data/+)"
    r"|sandbox:/{0,3}(?:\./)*"
    r"|(?<=\]\()<?(?:\./)*(?![a-z][a-z0-9+.-]*:|[/#)<>\s])",
    re.IGNORECASE,
)
#: Where a link ends that stands in plain text.
_PLAIN_END = re.compile(r"[\s<>\"'`|)\]}，。；：！？、）】」』]|$")
#: What belongs to the sentence, not to the link.
_PUNCTUATION = ".,;:!?*_~"
#: A suffix: a link that goes on in letters of another script behind it ends with it.
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,10}(?=[^\x00-\x7f]|$)")
#: Characters of a path that are looked at.
_MOST_CHARACTERS = 1_100
#: What one text may cost, since its author need not mean well: links, places that lead nowhere, and names compared. An
#: answer has a few of each; what comes behind so many is not looked at.
_MOST_LINKS = 4_000
_MOST_DEAD = 500
_MOST_COMPARED = 100_000


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
    names: _Names | None = None
    links: list[Link] = []
    end = dead = 0
    for begin in _BEGIN.finditer(text) if files else ():
        if begin.start() < end:
            continue
        if names is None:
            names = _Names(files)
        if (link := names.link(text, begin)) is not None:
            links.append(link)
            end = link.end
        else:
            dead += 1
        if dead == _MOST_DEAD or len(links) == _MOST_LINKS or names.compared > _MOST_COMPARED:
            break
    return links


class _Names:
    """The files by all that they may be called."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._exact = {path.removeprefix(_ROOT): file_id for path, file_id in files.items() if path.startswith(_ROOT)}
        #: The lengths of the names that begin with a character, the longest first.
        self._lengths: dict[str, list[int]] = {}
        self._loose: dict[str, set[str]] = {}
        self._last: dict[str, set[str]] = {}
        lengths: dict[str, set[int]] = {}
        for name, file_id in self._exact.items():
            lengths.setdefault(name[:1], set()).add(len(name))
            loose = _loose(name)
            self._loose.setdefault(loose, set()).add(file_id)
            self._last.setdefault(loose.rpartition("/")[2], set()).add(file_id)
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        self._sorted = sorted(self._loose)
        self.compared = 0

    def link(self, text: str, begin: re.Match[str]) -> Link | None:
        """The link that begins here; None when it leads nowhere."""
        start, path = begin.span()
        is_rooted = begin["rooted"] is not None
        if text.startswith("<", start):
            start += 1
        rest = text[path : path + _MOST_CHARACTERS]
        before = text[max(0, start - 2) : start]
        is_target = before == "](" or before.endswith(("(", "(<"))
        is_relative = not is_rooted and path - start < len("sandbox:")
        if not is_relative and (found := self._as_it_stands(rest)) is not None:
            length, file_id = found
            return Link(start, path + length, (file_id,))
        for end in _ends(rest, is_target=is_target):
            loose = _loose(unquote(html.unescape(rest[:end]), errors="replace"))
            if file_ids := self._look_up(loose, by_last=is_rooted):
                return Link(start, path + end, file_ids)
        return None

    def _as_it_stands(self, rest: str) -> tuple[int, str] | None:
        """The longest name that a text begins with, which may hold spaces and brackets: its length and its file."""
        for length in self._lengths.get(rest[:1], ()):
            self.compared += 1
            file_id = self._exact.get(rest[:length])
            if file_id is not None and _ends_at(rest, length):
                return length, file_id
        return None

    def _look_up(self, loose: str, *, by_last: bool) -> tuple[str, ...]:
        """What a path means: a file if there is one of that name, or all that lie in a directory."""
        if (files := self._loose.get(loose)) is not None:
            return tuple(files) if len(files) == 1 else ()
        if below := self._below(f"{loose}/"):
            return below
        named = self._last.get(loose.rpartition("/")[2], set()) if by_last else set[str]()
        return tuple(named) if len(named) == 1 else ()

    def _below(self, prefix: str) -> tuple[str, ...]:
        found: dict[str, None] = {}
        index = bisect_left(self._sorted, prefix)
        while index < len(self._sorted) and self._sorted[index].startswith(prefix):
            found |= dict.fromkeys(sorted(self._loose[self._sorted[index]]))
            index += 1
        self.compared += len(found)
        return tuple(found)


def _loose(name: str) -> str:
    """A path without what people and models do not tell apart."""
    # In this order: folding may take a normal form apart again.
    return posixpath.normpath(unicodedata.normalize("NFC", name.casefold())).lstrip("/")


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
