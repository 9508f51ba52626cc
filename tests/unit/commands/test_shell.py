"""commands/shell.py: what is printed can be printed anywhere, and a dim has its sizes."""

from __future__ import annotations

import io

import pytest

from pytest_torchexport.commands.shell import CommandError, parse_dim, say


def test_a_stream_that_lacks_a_character_gets_its_escape():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    say(["naïve \x1b"], stream)
    stream.flush()
    assert raw.getvalue() == b"na\\xefve <U+001B>\n"


def test_a_dim_has_its_sizes():
    assert parse_dim("batch=1..16") == ("batch", range(1, 17))
    assert parse_dim("n=8") == ("n", range(8, 9))
    for text in ("batch", "batch=", "batch=a..b", "2=1..3", "n=3..1"):
        with pytest.raises(CommandError, match=r"legal: batch=1..16|low 3 is above high 1"):
            parse_dim(text)
