"""diagnosis/script_text.py: no text of others becomes a part of the program."""

from __future__ import annotations

import ast

import pytest

from pytest_torchexport.diagnosis.script_text import commented

ENDS = ("\n", "\r", "\r\n", "\x0b", "\x0c", "\x85", "\u2028", "\x00")


@pytest.mark.parametrize("end", ENDS, ids=ascii)
def test_a_text_in_a_comment_cannot_leave_it(end):
    assert ast.parse(commented(f"m.a{end}1 / 0{end}")).body == []
    (only,) = ast.parse(f"{commented(f'a{end}b')}x = 1\n").body
    assert isinstance(only, ast.Assign)
