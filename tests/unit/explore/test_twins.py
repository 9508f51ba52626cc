"""explore/twins.py: which code has a twin, and what others see of it."""

from __future__ import annotations

import sys
import types
import warnings

import pytest
import torch
from programs import PROGRAMS, program

from pytest_torchexport.explore.twins import twins_of, with_recorder

# -- what is not rewritten -----------------------------------------------------------------------------------


def test_code_without_conditions_has_no_twin(tmp_path):
    found = program(tmp_path, "def f(x):\n    y = [x, x + 1]\n    return not y, x is y, x + 3\n")
    assert (dict(found.file_twins.twins), found.file_twins.unread) == ({}, ())


def test_only_what_is_asked_for_is_rewritten(tmp_path):
    found = program(
        tmp_path,
        """
        def other(x):
            return 1 if x else 2
        if len("ab") > 1:
            def f(x):
                return 3 if x else 4
        """,
    )
    assert {condition.function for condition in found.file_twins.conditions.values()} == {"f"}


CHANGES = {
    "another number": ("x > 3", "x > 4"),
    "another sign": ("x > 3", "x < 3"),
    "a number of another type": ("x > 1", "x > True"),
    "another line": ("def f", "\ndef f"),
    "a name more": ("x > 3", "x > x.y"),
    "another inner number": ("[lambda: 5]", "[lambda: 6]"),
    "no Python any more": ("x > 3", "x >"),
    "an empty file": (None, ""),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_changed_since_it_was_imported_is_not_trusted(tmp_path, name):
    before, after = CHANGES[name]
    number = "1" if "1" in str(before) else "3"
    text = f"def f(x):\n    return 1 if x > {number} else [lambda: 5]\n"
    path = tmp_path / "program.py"
    path.write_text(text)
    names = {}
    exec(compile(text, str(path), "exec"), names)
    code = names["f"].__code__
    assert twins_of(str(path), frozenset([code])).twins.keys() == {code}
    path.write_text(after if before is None else text.replace(before, after) + "# changed\n")
    found = twins_of(str(path), frozenset([code]))
    assert (dict(found.twins), found.unread) == ({}, (code,))


def test_code_without_a_file_is_unread_where_it_decides_something():
    names = {}
    exec("def f(x):\n    return 1 if x else 2\ndef g(x):\n    return x\n", names)
    found = twins_of("<string>", frozenset([names["f"].__code__, names["g"].__code__]))
    assert found.unread == (names["f"].__code__,)
    assert not found.conditions


def test_source_nested_too_deeply_is_unread(tmp_path):
    source = "def f(x):\n    if x == -1:\n        return 0\n" + "".join(
        f"    elif x == {i}:\n        return {i}\n" for i in range(400)
    )
    path = tmp_path / "program.py"
    path.write_text(source)
    names = {}
    exec(compile(source, str(path), "exec"), names)
    found = twins_of(str(path), frozenset([names["f"].__code__]))
    assert found.twins or found.unread == (names["f"].__code__,)


def test_what_python_warns_of_in_the_users_source_is_not_said_again(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = program(tmp_path, "def f(x):\n    return '\\d' if x is 3 else 0\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = tmp_path / "other.py"
        path.write_text((tmp_path / "program.py").read_text())
        codes = frozenset(item.__code__ for item in found.functions)
        assert twins_of(str(path), codes).twins


def test_lambdas_on_a_line_are_told_apart_also_after_many_calls(tmp_path):
    found = program(
        tmp_path,
        """
        pair = (lambda x: x + 1 if x > 1 else 0), (lambda x: x + 1 if x > 2 else 0)
        def f(x):
            return [part(x) for part in pair]
        """,
        twin=False,
    )
    for _ in range(300):
        assert found.names["f"](2) == [3, 0]
    again = twins_of(found.file, frozenset(part.__code__ for part in found.names["pair"]))
    assert len(again.twins) == 2
    assert not again.unread


def test_asserts_that_pytest_rewrote_are_read_all_the_same(pytester):
    pytester.makepyfile(
        test_inner="""
        from pytest_torchexport.explore.twins import twins_of

        def checked(x):
            assert x != 3, "three"
            for i in range(x):
                assert i < 2 or x in (5, 6), f"{i}"
            return 1 if x > 4 else 0

        def test_here():
            found = twins_of(__file__, frozenset([checked.__code__]))
            assert checked.__code__ in found.twins
            assert "@py_builtins" in checked.__code__.co_names
            assert [condition.text for condition in found.conditions.values()] == [
                "x != 3", "range(x)", "i < 2", "x in (5, 6)", "x > 4"]
        """
    )
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


# -- what others see -------------------------------------------------------------------------------------------


def test_a_tracer_sees_the_same_lines(tmp_path):
    source = """
        def f(x):
            found = []
            for i in range(3):
                if 0 < i < x and i:
                    found.append(
                        i if x > 1
                        else 0)
                try:
                    found[5]
                except IndexError:
                    pass
            match x:
                case 1:
                    return 1
                case _:
                    return found or 2
    """

    def lines(found, value):
        seen = set()

        def tracer(frame, event, arg):
            if frame.f_code.co_filename != found.file:
                return None
            if event == "line":
                seen.add(frame.f_lineno)
            return tracer

        found.recorder.start({})
        before = sys.gettrace()
        with found.in_place():
            sys.settrace(tracer)
            try:
                found.names["f"](value)
                assert sys.gettrace() is tracer
            finally:
                sys.settrace(before)
        return seen

    plain, twin = program(tmp_path, source, twin=False), program(tmp_path, source)
    for value in (0, 1, 2, 3):
        assert lines(twin, value) == lines(plain, value)


def test_a_function_keeps_what_can_be_asked_of_its_code(tmp_path):
    found = program(
        tmp_path,
        """
        def f(x, /, y=1, *args, k: int = 2, **more):
            "What it does."
            return g() if x > y else k
        def g():
            return (1 if f else 2)
        """,
    )
    for code, twin in found.file_twins.twins.items():
        for name in ("argcount", "posonlyargcount", "kwonlyargcount", "flags", "name", "qualname"):
            assert getattr(code, f"co_{name}") == getattr(twin, f"co_{name}")
        for name in ("varnames", "freevars", "filename", "firstlineno", "cellvars"):
            assert getattr(code, f"co_{name}") == getattr(twin, f"co_{name}")


def test_the_recorder_is_put_into_inner_functions_too(tmp_path):
    found = program(
        tmp_path,
        "def f(x):\n    return [(lambda z: z or 1)(y) for y in range(2) if y > x]\n",
    )
    (twin,) = found.file_twins.twins.values()

    def constants(code):
        for item in code.co_consts:
            yield from constants(item) if isinstance(item, types.CodeType) else [item]

    def functions(code):
        inner = [item for item in code.co_consts if isinstance(item, types.CodeType)]
        return 1 + sum(map(functions, inner))

    placed_in = list(constants(with_recorder(twin, found.recorder)))
    assert not any(isinstance(item, str) and "torchexport" in item for item in placed_in)
    # Python 3.11 makes a function of the comprehension too.
    assert sum(item is found.recorder for item in placed_in) == functions(twin) >= 2
    assert not any(item is found.recorder for item in constants(twin))


def test_nothing_is_told_when_nobody_listens(tmp_path):
    found = program(tmp_path, PROGRAMS["tensors"])
    found.does(2)
    told = len(found.recorder.path.events)
    with found.in_place():
        found.names["f"](3)
    assert len(found.recorder.path.events) == told > 0
    assert torch.is_grad_enabled()
