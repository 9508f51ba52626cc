"""explore/twins.py: which functions are the user's, which have a twin, and what others see of it."""

from __future__ import annotations

import importlib
import sys
import textwrap

import hypothesis
import iniconfig
import pytest
import torch
from programs import program
from torch import nn

from pytest_torchexport.explore.twins import (
    constants_of,
    functions_of,
    mentions,
    owner_of,
    twins_of,
)
from pytest_torchexport.outcomes.subject import Subject

# -- which functions are found ---------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write files of a package ``shipped``, import it, and give its module."""
    folder = tmp_path / "shipped"
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(**files):
        folder.mkdir()
        for name, text in {"__init__": "", **files}.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        return importlib.import_module("shipped.net")

    yield make
    for name in [name for name in sys.modules if name.partition(".")[0] == "shipped"]:
        del sys.modules[name]


def names(thing, packages=()):
    """The names of the functions that are found, sorted."""
    subject = Subject.of(thing)
    found, complete = functions_of(subject, owner_of(subject, packages))
    assert complete
    assert len({id(function) for function in found}) == len(found)
    return sorted(function.__qualname__.rpartition(".<locals>.")[2] for function in found)


FORMS = {
    "a function of another module": ("parts.helper(x)", "from shipped import parts"),
    "a module by its dotted name": ("shipped.parts.helper(x)", "import shipped.parts"),
    "a lambda": ("table['f'](x)", "def helper(x): return x\ntable = {'f': lambda x: helper(x)}"),
    "a partial": (
        "part(x)",
        "import functools\ndef helper(x, y): return x\npart = functools.partial(helper, y=1)",
    ),
    "a decorated function": (
        "outer(x)",
        """
import functools
def keep(f):
    @functools.wraps(f)
    def inner(x): return f(x)
    return inner
@keep
def outer(x): return helper(x)
def helper(x): return x
""",
    ),
    "a method of an object": (
        "thing.go(x)",
        "def helper(x): return x\nclass Thing:\n    def go(self, x): return helper(x)\nthing = Thing()",
    ),
    "a property": (
        "Thing(x).size",
        "def helper(x): return x\nclass Thing:\n    def __init__(self, x): self.x = x\n    @property\n    def size(self): return helper(self.x)",
    ),
    "a default argument": (
        "outer(x)",
        "def helper(x): return x\ndef outer(x, f=helper): return f(x)",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_helper_is_found_however_it_is_reached(package, form):
    call, text = FORMS[form]
    net = package(
        net=f"import torch\n{text}\nclass Net(torch.nn.Module):\n    def forward(self, x): return {call}\n"
        "def unrelated(x): return x\n",
        parts="def helper(x): return x\ndef other(x): return x\n",
    )
    found = names(net.Net())
    assert "Net.forward" in found
    assert "helper" in found
    assert "unrelated" not in found
    assert "other" not in found


def test_methods_that_nothing_mentions_are_left_out(package):
    net = package(
        net="""
        import torch
        class Inner(torch.nn.Module):
            def forward(self, x): return self._step(x)
            def _step(self, x): return x
            def export(self, x): return x
        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = Inner()
                self.hidden = [Inner]
            def forward(self, x): return self.inner(x)
            def report(self): return self.inner
        """
    )
    found = names(net.Net())
    assert {"Inner.forward", "Inner._step", "Net.forward"} <= set(found)
    assert not {"Inner.export", "Net.report"} & set(found)


def test_no_code_of_the_users_runs():
    class Shy(dict):
        def values(self):
            raise AssertionError

        def __getattr__(self, name):
            raise AssertionError(name)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.shy = Shy(a=lambda x: x)

        @property
        def dangerous(self):
            raise AssertionError

        def forward(self, x):
            return self.shy["a"](x) if self.dangerous else x

    assert {"<lambda>", "Net.forward", "Net.dangerous"} <= {
        name.rpartition("__init__.")[2] for name in names(Net())
    }


def test_what_holds_itself_and_what_is_not_assigned_yet_harm_nothing():
    def never():
        if torch.rand(1) > 2:
            late = 1
        return lambda x: late + x

    endless = []
    endless.append(endless)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.endless, self.own, self.late = endless, [self], never()

        def forward(self, x):
            return self.late(x)

    assert {"Net.forward", "<lambda>"} <= {name.rpartition("never.")[2] for name in names(Net())}


def test_owned_are_the_files_of_the_user_of_a_package_and_of_a_modules_parts(monkeypatch):
    class Wrapped(nn.Module):
        def forward(self, x):
            return x

    monkeypatch.setattr(Wrapped, "__module__", "iniconfig")
    parts = Subject.of(nn.Sequential(nn.Linear(1, 1), Wrapped()))
    for owns in (owner_of(parts), owner_of(parts, ("hypothesis",))):
        assert owns(__file__)
        assert owns(iniconfig.__file__)
        for file in (torch.__file__, pytest.__file__, "<string>", nn.modules.linear.__file__):
            assert not owns(file)
    assert owns(hypothesis.__file__)
    assert not owner_of(parts)(hypothesis.__file__)


GRAD, THREADS = "torch.is_grad_enabled", "torch.get_num_threads"


class MentionsInside(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: x * torch.get_num_threads(), self.other, (x,))

    def other(self, x):
        return x if torch.is_grad_enabled() else -x


def test_a_mention_is_found_with_its_line_in_every_function_also_an_inner_one():
    found = {
        name: line.text for name, line in mentions(Subject.of(MentionsInside()), (GRAD, THREADS))
    }
    assert "lambda x: x * torch.get_num_threads()" in found[THREADS]
    assert found[GRAD] == "return x if torch.is_grad_enabled() else -x"


# -- what is not rewritten -----------------------------------------------------------------------------------


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
    "a number of another type": ("x > 1", "x > True"),
    "another inner number": ("[lambda: 5]", "[lambda: 6]"),
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


def test_constants_are_those_of_the_code_and_of_what_it_names():
    inner = 7

    def function(x, n=5, *, m=6):
        return x + n + m + inner + LIMIT + 3

    found = list(constants_of(function))
    assert {3, 5, 6, 7, LIMIT} <= set(found)


LIMIT = 137
