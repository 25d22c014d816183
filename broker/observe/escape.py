"""Making visible what a terminal, or a reader of lines, would act on."""

import re

_ACTED_ON = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def escape_text(text: str) -> str:
    r"""Return `text` with control characters but tabs, line separators and changes of direction as `\x1b` or `\u2028`.

    What a stranger wrote into a path or a header then stays on its line, and moves no cursor.
    """
    return text if text.isprintable() else _ACTED_ON.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
