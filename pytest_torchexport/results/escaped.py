"""Make text of others harmless where it is shown.

Names of tests, messages and source lines may hold anything: markup, codes that move a terminal's
cursor, characters that reorder text.
"""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Sequence

# Of a name or a message on one line, in characters.
MAX_LINE = 300
# Of names in a sentence.
SHOWN = 3
# Controls (ANSI codes begin with one), formats (they reorder text), surrogates, line separators.
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
# They would end a span of code or a cell of a table in Markdown.
_ENDS = frozenset("`|\\")
# A shell replaces what these begin, also in double quotes.
_READ_BY_SHELLS = frozenset('"$`\\!')


def visible(text: str) -> str:
    """Return the text with its escape, such as ``<U+001B>``, for each character that does not show.

    Line feeds and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in _HIDDEN else f"<U+{ord(c):04X}>"
        for c in text
    )


def on_a_line(text: str) -> str:
    """Return the text on one line of at most MAX_LINE characters, and all of them visible."""
    line = visible(" ".join(text.split()))
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 3]}..."


def few(things: Sequence[object], between: str = ", ") -> str:
    """Return ``a, b, c and 2 more``."""
    more = f" and {len(things) - SHOWN} more" if len(things) > SHOWN else ""
    return between.join(map(str, things[:SHOWN])) + more


def in_shell(text: str) -> str:
    """Return the text as one argument of a command, in double quotes unless a shell reads these."""
    return f'"{text}"' if _READ_BY_SHELLS.isdisjoint(text) else shlex.quote(text)


def code(text: str) -> str:
    """Return a span of code for a line of Markdown, or a cell of a table, that shows the text."""
    line = on_a_line(text)
    if not line:
        return ""
    return f"`{line}`" if _ENDS.isdisjoint(line) else html_code(line)


def html_code(text: str) -> str:
    """Return an element of code that shows the text, in HTML and in Markdown."""
    # An entity is never markup, in neither.
    line = on_a_line(text)
    shown = "".join(c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in line)
    return f"<code>{shown}</code>"


def code_block(text: str) -> str:
    """Return a fenced block for Markdown that shows the lines of the text; none can end it."""
    lines = [visible(line)[:MAX_LINE] for line in text.splitlines()]
    fence = "```"
    while any(fence in line for line in lines):
        fence += "`"
    return "\n".join([f"{fence}text", *lines, fence])
