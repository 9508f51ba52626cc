"""commands/shell.py: what is printed can be printed anywhere."""

from __future__ import annotations

import io

from pytest_torchexport.commands.shell import say


def test_a_stream_that_lacks_a_character_gets_its_escape():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    say(["naïve \x1b"], stream)
    stream.flush()
    assert raw.getvalue() == b"na\\xefve <U+001B>\n"
