"""What a terminal, or a reader of lines, would act on."""

import sys
import unicodedata

from broker.observe.escape import escape_text

DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def is_acted_on(character: str) -> bool:
    """Tell what Unicode says: a control character, a separator of lines or paragraphs, a change of direction."""
    category = unicodedata.category(character)
    return category in ("Cc", "Zl", "Zp") or unicodedata.bidirectional(character) in DIRECTIONS


def test_each_character() -> None:
    """Whatever is acted on comes out as plain ASCII, a line feed too; a tab and all other text as it is."""
    for character in map(chr, range(sys.maxunicode + 1)):
        escaped = escape_text(character)
        if is_acted_on(character) and character != "\t":
            assert escaped == character.encode("unicode_escape").decode()
            assert escaped.isprintable()
        else:
            assert escaped == character


def test_one_line() -> None:
    """A request that writes a line of its own into the log does not."""
    assert escape_text("/a\n2026-01-01 all is well") == "/a\\n2026-01-01 all is well"
