"""explore/rewrite.py: rewritten code does the same as the original, and reports its conditions."""

from __future__ import annotations

import ast

import pytest
from programs import INTS, PROGRAMS, program

from pytest_torchexport.explore.rewrite import READERS, names_read, reads_tensor


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_rewritten_program_does_what_it_did(tmp_path, name):
    plain = program(tmp_path, PROGRAMS[name], twin=False)
    twin = program(tmp_path, PROGRAMS[name])
    assert twin.file_twins.conditions
    assert not twin.file_twins.unread
    for value in INTS:
        (came, told), (expected, log) = twin.does(value), plain.does(value)
        assert (came, told) == (expected, log), value


# -- what is told ----------------------------------------------------------------------------------------------


TOLD = {
    "both parts of an and": ("if x > 1 and x < 5: pass", 3, [("x > 1", True), ("x < 5", True)]),
    "what stands after not": ("if not x > 1: pass", 3, [("x > 1", True)]),
    "each link of a chain": ("if 0 < x < 5: pass", 7, [("0 < x < 5", True), ("0 < x < 5", False)]),
    "a ternary": ("y = 1 if x else 2", 0, [("x", False)]),
    "operands as values": ("y = x and [] or 5", 2, [("x", True), ("[]", False)]),
    "rounds of a while": ("while x > 0: x -= 1", 1, [("x > 0", True), ("x > 0", False)]),
    "rounds of an endless while": ("while True:\n        break", 1, [("True", True)]),
    "rounds of a for": ("for i in range(x): pass", 1, [("range(x)", True), ("range(x)", False)]),
    "conditions of a comprehension": (
        "[i for i in range(1) if i > x]",
        1,
        [("range(1)", True), ("i > x", False), ("range(1)", False)],
    ),
    "a handler that was come to": (
        "try: 1 / x\n    except ZeroDivisionError: pass",
        0,
        [("except ZeroDivisionError: pass", True)],
    ),
    "a handler that was not": (
        "try: 1 / x\n    except ZeroDivisionError: pass",
        1,
        [("except ZeroDivisionError: pass", False)],
    ),
    "cases up to the one that fits": (
        "match x:\n        case 1: pass\n        case 2: pass\n        case 3: pass",
        2,
        [("1", False), ("2", True)],
    ),
    "no case that fits": (
        "match x:\n        case 1: pass\n        case 2: pass",
        5,
        [("1", False), ("2", False)],
    ),
    "a comparison as a number": ("y = 1 + (x == 3)", 3, [("x == 3", True)]),
    "a membership as a number": ("y = 1 + (x in (3, 5))", 4, [("x in (3, 5)", False)]),
    "if max returns the first": ("y = max(x, 3)", 5, [("max(x, 3)", True)]),
    "if min returns the second": ("y = min(x, 3)", 5, [("min(x, 3)", True)]),
    "a key that is there": (
        "y = {3: 1, 'a': 2}.get(x, 0)",
        3,
        [("{3: 1, 'a': 2}.get(x, 0)", True)],
    ),
    "nothing of other comparisons and calls": (
        "y = [x] == [1], 'a' < 'b', x is None, max([x]), max('a', 'b'), {}.get(x), {3: 1}.get('a')",
        1,
        [],
    ),
    "nothing of constants": ("if 1: pass\n    y = 2 if __debug__ else x", 1, [("__debug__", True)]),
}


@pytest.mark.parametrize("name", TOLD)
def test_conditions_are_told_in_order(tmp_path, name):
    body, value, told = TOLD[name]
    assert program(tmp_path, f"def f(x):\n    {body}\n").said(value) == told


def test_a_condition_says_where_it_is(tmp_path):
    found = program(
        tmp_path,
        """
        class Net:
            def forward(self, x):
                return (1 if x
                        > 2 else 0)
        def f(x):
            return Net().forward(x)
        """,
    )
    (condition,) = found.file_twins.conditions.values()
    lines = (tmp_path / "program.py").read_text().splitlines()
    assert lines[condition.line - 1] == "        return (1 if x"
    assert (condition.first_line, condition.end_line) == (condition.line, condition.line + 1)
    assert (condition.kind, condition.text, condition.statement) == (
        "expression",
        "x > 2",
        "return (1 if x",
    )
    assert (condition.function, condition.file) == ("Net.forward", str(tmp_path / "program.py"))
    assert condition.outcomes == (True, False)


def test_a_form_feed_ends_no_line(tmp_path):
    found = program(tmp_path, "\fX = 1\n\f\ndef f(x):\n    if x: return 'ä\u2028', 1 if X else 2\n")
    assert [(s.text, s.statement) for s in found.file_twins.conditions.values()] == [
        (text, "if x: return 'ä\u2028', 1 if X else 2") for text in ("x", "X")
    ]


BOTH = (True, False)


@pytest.mark.parametrize(
    ("body", "outcomes"),
    [
        ("if x: raise ValueError", [(False,)]),
        ("if x:\n        pass\n    else:\n        y = 1\n        raise ValueError", [(True,)]),
        ("assert x", [(True,)]),
        ("try: pass\n    except ValueError: raise", [(False,)]),
        ("if x:\n        if y: raise ValueError\n        return", [BOTH, (False,)]),
        ("while True: break", [(True,)]),
        ("if x and y: raise ValueError", [BOTH, (False,)]),
        ("if x or y: raise ValueError", [(False,), (False,)]),
        ("if not (x and y): raise ValueError", [(True,), (True,)]),
    ],
)
def test_an_outcome_after_which_the_code_only_raises_is_no_aim(tmp_path, body, outcomes):
    found = program(tmp_path, f"def f(x, y=0):\n    {body}\n")
    assert [condition.outcomes for condition in found.file_twins.conditions.values()] == outcomes


SOURCE = """
def forward(self, x):
    most = x.abs().max()
    x = x.clamp(max=most)
    kind = x.dtype
    return x
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x > 3", True),
        ("x.item() > 3", True),
        ("most.item() == 3", True),
        ("x.dtype == torch.float16", False),
        ("kind == torch.float16", False),
        ("x.is_floating_point()", False),
        ("x.to(kind).sum() > torch.finfo(x.dtype).max", True),
        ("y > 3", False),
        ("len(x.shape) == 4", False),
        ("len(x) == 4", True),
        ("most is None", False),
        ("most is True", True),
    ],
)
def test_a_fact_is_no_number_of_a_tensor(text, expected):
    (function,) = ast.parse(SOURCE).body
    names = names_read(function, READERS)
    assert reads_tensor(ast.parse(text, mode="eval").body, names, READERS) is expected
