"""Make text harmless: of others where it is shown, and our own where others read it.

Names of tests, messages and source lines may hold anything: markup, codes that move a terminal's
cursor, characters that reorder text. Files that others read name no paths of this machine.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from pathlib import Path

# Of a name or a message on one line, in characters.
MAX_LINE = 300
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


# A path, among other things. Each search begins where a word does: a recipe in base64 is one word
# of a megabyte.
_WORD = re.compile(r"[^\s\"'(:,=]+")


def without_private_paths(text: str, root: Path | None) -> str:
    """Return the text with paths as they are below the project, and ``~`` for the home directory.

    ``root`` is the project's directory; the working directory counts as well.
    """
    text = _WORD.sub(lambda word: word[0].rpartition("/site-packages/")[2], text)
    own = {str(folder) for folder in (root, Path.cwd()) if folder is not None}
    for folder in sorted(own - {"/"}, key=len, reverse=True):
        text = text.replace(f"{folder}/", "")
    home = str(Path.home())
    return text.replace(home, "~") if home != "/" else text
