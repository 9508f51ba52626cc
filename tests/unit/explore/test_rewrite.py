"""explore/rewrite.py: rewritten code does the same as the original, and reports its conditions."""

from __future__ import annotations

import ast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from programs import INTS, PROGRAMS, program

from pytest_torchexport.explore.rewrite import READERS, names_read, reads_tensor


def squeezed(log):
    """The log without a truth that is asked for again at once, as in ``any(x and y for ...)``."""
    return [
        line
        for line, before in zip(log, ["", *log], strict=False)
        if line != before or line[:4] != "bool"
    ]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_rewritten_program_does_what_it_did(tmp_path, name):
    plain = program(tmp_path, PROGRAMS[name], twin=False)
    twin = program(tmp_path, PROGRAMS[name])
    assert twin.file_twins.conditions
    assert not twin.file_twins.unread
    for value in INTS:
        (came, told), (expected, log) = twin.does(value), plain.does(value)
        assert (came, told) == (expected, log), value


# -- programs at random --------------------------------------------------------------------------------------

ATOMS = st.integers(0, 4).map(lambda i: f"Truth(x >> {i} & 1 > 0, 'abcde'[{i}])")
NUMBERS = st.sampled_from(["x", "say(x % 3)", "Number(x % 4).value", "1", "say(2)", "-x"])


def _compared(number):
    sign = st.sampled_from(["<", "<=", "==", "!=", ">", "is not"])
    pair = st.tuples(sign, number).map(" ".join)
    return st.builds(
        lambda first, more: f"{first} {' '.join(more)}",
        number,
        st.lists(pair, min_size=1, max_size=3),
    )


def _grown(inner):
    part = inner.map("({})".format)
    joined = st.builds(
        lambda sign, parts: f" {sign} ".join(parts),
        st.sampled_from(["and", "or"]),
        st.lists(part, min_size=2, max_size=3),
    )
    return st.one_of(
        joined,
        part.map("not {}".format),
        st.builds("{} if {} else {}".format, part, part, part),
        st.builds("(w := {}) and w".format, part),
        st.builds("[i for i in range(3) if {}][:1]".format, part),
        st.builds("any(({}) for i in range(2))".format, part),
        st.builds("(lambda x: {})(x + 1)".format, part),
        st.builds("say({}, 's')".format, part),
    )


EXPRESSIONS = st.recursive(st.one_of(ATOMS, _compared(NUMBERS), NUMBERS), _grown, max_leaves=8)


def _block(parts):
    return [f"    {line}" for part in parts for line in part] or ["    pass"]


def _statements(inner):
    block = st.lists(inner, min_size=1, max_size=2).map(_block)
    test = EXPRESSIONS
    return st.one_of(
        st.builds(lambda t, a, b: [f"if {t}:", *a, "else:", *b], test, block, block),
        st.builds(lambda t, a: [f"while rounds and ({t}):", "    rounds -= 1", *a], test, block),
        st.builds(
            lambda t, a, b: [
                "for k in range(n % 4):",
                *a,
                f"    if {t}:",
                "        break",
                "else:",
                *b,
            ],
            test,
            block,
            block,
        ),
        st.builds(
            lambda t, a, b: [
                "try:",
                *a,
                f"    assert {t}",
                "except AssertionError:",
                *b,
                "finally:",
                "    say('f')",
            ],
            test,
            block,
            block,
        ),
        st.builds(
            lambda t, a, b: [
                "match n:",
                f"    case int(m) if {t}:",
                *map("    {}".format, a),
                "    case 2 | 3:",
                *map("    {}".format, b),
            ],
            test,
            block,
            block,
        ),
    )


SIMPLE = st.one_of(
    EXPRESSIONS.map(lambda text: [f"say({text}, 'v')"]),
    EXPRESSIONS.map(lambda text: [f"if {text}:", "    return 'early'"]),
    EXPRESSIONS.map(lambda text: [f"n = ({text}) and 2 or 1"]),
)
BODIES = st.lists(st.recursive(SIMPLE, _statements, max_leaves=4), min_size=1, max_size=3)


@settings(
    max_examples=80,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(BODIES)
def test_a_random_program_does_what_it_did(tmp_path, body):
    source = "\n".join(["def f(x):", "    n, rounds = 2, 6", *_block(body), "    return n"])
    plain, twin = program(tmp_path, source, twin=False), program(tmp_path, source)
    assert not twin.file_twins.unread
    for value in (0, 1, 5, 10, 22, 31):
        (came, told), (expected, log) = twin.does(value), plain.does(value)
        assert (came, squeezed(told)) == (expected, squeezed(log)), (source, value)


# -- what is told ----------------------------------------------------------------------------------------------


TOLD = {
    "both parts of an and": ("if x > 1 and x < 5: pass", 3, [("x > 1", True), ("x < 5", True)]),
    "no part that is not asked": ("if x > 1 and x < 5: pass", 0, [("x > 1", False)]),
    "what stands after not": ("if not x > 1: pass", 3, [("x > 1", True)]),
    "each link of a chain": ("if 0 < x < 5: pass", 7, [("0 < x < 5", True), ("0 < x < 5", False)]),
    "a ternary": ("y = 1 if x else 2", 0, [("x", False)]),
    "operands as values": ("y = x and [] or 5", 2, [("x", True), ("[]", False)]),
    "an assert": ("assert x > 0", 1, [("x > 0", True)]),
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
    "a lambda": ("y = (lambda z: z > 1 or z)(x)", 0, [("z > 1", False)]),
    "a comparison as a number": ("y = 1 + (x == 3)", 3, [("x == 3", True)]),
    "a membership as a number": ("y = 1 + (x in (3, 5))", 4, [("x in (3, 5)", False)]),
    "if max returns the first": ("y = max(x, 3)", 5, [("max(x, 3)", True)]),
    "if min returns the second": ("y = min(x, 3)", 5, [("min(x, 3)", True)]),
    "a key that is there": (
        "y = {3: 1, 'a': 2}.get(x, 0)",
        3,
        [("{3: 1, 'a': 2}.get(x, 0)", True)],
    ),
    "a key that is not": ("y = {3: 1}.get(x)", 4, [("{3: 1}.get(x)", False)]),
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


@pytest.mark.parametrize(
    ("body", "outcomes"),
    [
        ("if x: raise ValueError", (False,)),
        ("if not x: raise ValueError", (True,)),
        ("if x:\n        pass\n    else:\n        y = 1\n        raise ValueError", (True,)),
        ("assert x", (True,)),
        ("assert not x", (False,)),
        ("try: pass\n    except ValueError: raise", (False,)),
        ("if x: pass", (True, False)),
        ("if x:\n        if y: raise ValueError\n        return", (True, False)),
    ],
)
def test_an_outcome_after_which_the_code_only_raises_is_no_aim(tmp_path, body, outcomes):
    found = program(tmp_path, f"def f(x, y=0):\n    {body}\n")
    assert next(iter(found.file_twins.conditions.values())).outcomes == outcomes


@pytest.mark.parametrize(
    ("test", "outcomes"),
    [
        ("a and b", [(True, False), (False,)]),
        ("a or b", [(False,), (False,)]),
        ("not (a and b)", [(True,), (True,)]),
    ],
)
def test_which_part_of_a_test_raises_is_known(tmp_path, test, outcomes):
    found = program(tmp_path, f"def f(a, b=1):\n    if {test}: raise ValueError\n")
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
        ("torch.float16 == x.dtype", False),
        ("kind == torch.float16", False),
        ("x.max().dtype == torch.float16", False),
        ("x.device.type == 'cuda'", False),
        ("x.is_floating_point()", False),
        ("x.to(kind).sum() > torch.finfo(x.dtype).max", True),
        ("y.dtype == torch.float16", False),
        ("y > 3", False),
        ("len(x.shape) == 4", False),
        ("len(most.shape) == 4", False),
        ("len(x) == 4", True),
        ("most is None", False),
        ("most is not None", False),
        ("most is True", True),
    ],
)
def test_a_fact_is_no_number_of_a_tensor(text, expected):
    (function,) = ast.parse(SOURCE).body
    names = names_read(function, READERS)
    assert reads_tensor(ast.parse(text, mode="eval").body, names, READERS) is expected
