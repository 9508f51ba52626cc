"""diagnosis/reproducer/script_text.py: no text of others becomes a part of the program."""

from __future__ import annotations

import ast

import pytest

from pytest_torchexport.diagnosis.reproducer.script_text import Script, commented, text_of_script

ENDS = ("\n", "\r", "\r\n", "\x0b", "\x0c", "\x85", "\u2028", "\x00")


@pytest.mark.parametrize("end", ENDS, ids=ascii)
def test_a_text_in_a_comment_cannot_leave_it(end):
    assert ast.parse(commented(f"m.a{end}1 / 0{end}")).body == []
    (only,) = ast.parse(f"{commented(f'a{end}b')}x = 1\n").body
    assert isinstance(only, ast.Assign)


def test_the_title_of_a_script_is_a_comment():
    plain = text_of_script(Script(title=["a"], device="cpu", make="artifact = 1\n"))
    odd = text_of_script(Script(title=["a\nimport os"], device="cpu", make="artifact = 1\n"))
    assert ast.dump(ast.parse(plain)) == ast.dump(ast.parse(odd))
    assert odd.startswith("# a\n# import os\n#\n# Ends with 1")
