"""Tells the words that a model thinks from those that it says, where an endpoint sends both as content."""

_OPENING = "<think>"
_CLOSING = "</think>"


class ThinkTags:
    """Takes a `<think>` block off the beginning of an answer that comes in pieces. Later ones are the answer's own."""

    def __init__(self, *, enabled: bool) -> None:
        self._state = "before" if enabled else "after"
        #: What cannot be told yet.
        self._held = ""

    def read(self, piece: str) -> tuple[str, str]:
        """What this piece adds: reasoning, and text."""
        if self._state == "after":
            return "", piece
        self._held += piece
        reasoning = ""
        if self._state == "before":
            begin = self._held.lstrip()
            if len(begin) < len(_OPENING) and _OPENING.startswith(begin):
                return "", ""
            if not begin.startswith(_OPENING):
                self._state = "after"
                return "", self._take()
            self._state, self._held = "within", begin.removeprefix(_OPENING)
        if self._state == "within":
            thought, closing, rest = self._held.partition(_CLOSING)
            if not closing:
                kept = _overlap(thought)
                self._held = thought[len(thought) - kept :]
                return thought[: len(thought) - kept], ""
            reasoning, self._held, self._state = thought, rest, "behind"
        # The empty lines between the block and the answer belong to neither.
        self._held = self._held.lstrip()
        if not self._held:
            return reasoning, ""
        self._state = "after"
        return reasoning, self._take()

    def end(self) -> tuple[str, str]:
        """What was held back when the answer ends."""
        held = self._take()
        return (held, "") if self._state == "within" else ("", held)

    def _take(self) -> str:
        held, self._held = self._held, ""
        return held


def _overlap(text: str) -> int:
    """How many characters at the end of the text may be the beginning of the closing tag."""
    return next((length for length in range(len(_CLOSING) - 1, 0, -1) if text.endswith(_CLOSING[:length])), 0)
