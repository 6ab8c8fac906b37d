"""Which names of files that code made are told."""

import sys
import unicodedata

from afarensis_server.sandbox.observing import files

#: Bidirectional classes of characters that turn the direction of the text after them.
TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def test_names_hold_no_character_that_misleads_and_any_other() -> None:
    refused = {chr(code) for code in range(sys.maxunicode + 1) if not files._is_name(f"a{chr(code)}b")}
    assert refused == {
        character
        for character in map(chr, range(sys.maxunicode + 1))
        if character == "\\"
        or unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}
        or unicodedata.bidirectional(character) in TURNING
    }
    assert not files._is_name("")
