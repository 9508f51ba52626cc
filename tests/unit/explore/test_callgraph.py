"""explore/callgraph.py: the user's functions that may run under a subject's forward."""

from __future__ import annotations

import functools
import importlib
import sys
import textwrap

import hypothesis
import iniconfig
import pytest
import torch
from torch import nn

from pytest_torchexport.explore.twins import (
    functions_of,
    home_of,
    mentions,
    owner_of,
)
from pytest_torchexport.outcomes.subject import Subject


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
    "a function of the file": ("helper(x)", "def helper(x): return x"),
    "a function of a function": (
        "outer(x)",
        "def outer(x): return helper(x)\ndef helper(x): return x",
    ),
    "a function of another module": ("parts.helper(x)", "from shipped import parts"),
    "an imported function": ("helper(x)", "from shipped.parts import helper"),
    "a module by its dotted name": ("shipped.parts.helper(x)", "import shipped.parts"),
    "a lambda": ("table['f'](x)", "def helper(x): return x\ntable = {'f': lambda x: helper(x)}"),
    "a list of functions": (
        "[f(x) for f in steps][0]",
        "def helper(x): return x\nsteps = [helper]",
    ),
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
    "an object that is called": (
        "thing(x)",
        "def helper(x): return x\nclass Thing:\n    def __call__(self, x): return helper(x)\nthing = Thing()",
    ),
    "a method of a base": (
        "Thing().go(x)",
        "def helper(x): return x\nclass Base:\n    def go(self, x): return helper(x)\nclass Thing(Base): pass",
    ),
    "a static method": (
        "Thing.go(x)",
        "def helper(x): return x\nclass Thing:\n    @staticmethod\n    def go(x): return helper(x)",
    ),
    "a class method": (
        "Thing.go(x)",
        "def helper(x): return x\nclass Thing:\n    @classmethod\n    def go(cls, x): return helper(x)",
    ),
    "a property": (
        "Thing(x).size",
        "def helper(x): return x\nclass Thing:\n    def __init__(self, x): self.x = x\n    @property\n    def size(self): return helper(self.x)",
    ),
    "a default argument": (
        "outer(x)",
        "def helper(x): return x\ndef outer(x, f=helper): return f(x)",
    ),
    "a comprehension": ("[helper(x) for i in range(1)][0]", "def helper(x): return x"),
    "an inner function": (
        "outer(x)",
        "def helper(x): return x\ndef outer(x):\n    def inner(y): return helper(y)\n    return inner(x)",
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


def test_hooks_and_parametrizations_are_found():
    def hook(module, args):
        return args

    class Double(nn.Module):
        def forward(self, w):
            return w * 2

    layer = nn.Linear(2, 2)
    layer.register_forward_pre_hook(hook)
    nn.utils.parametrize.register_parametrization(layer, "weight", Double())
    assert {"hook", "Double.forward"} <= set(names(layer))


def test_a_function_and_a_bound_method_are_subjects_too():
    class Other(nn.Module):
        def encode(self, x):
            return inner(x)

    def inner(x):
        return x

    assert "inner" in names(functools.partial(lambda x, _: inner(x), _=1))
    assert {"Other.encode", "inner"} <= set(names(Other().encode))


def test_library_code_is_left_alone():
    assert names(nn.TransformerEncoderLayer(4, 2, 8)) == []


def test_what_forward_generates_and_dataclasses_do_is_no_code_of_the_users(package):
    net = package(
        net="""
        import dataclasses, torch
        @dataclasses.dataclass
        class Config:
            size: int = 3
            def half(self): return self.size // 2
        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.config = Config()
            def forward(self, x):
                return x if self.config == Config() else x * self.config.half()
        """
    )
    assert set(names(net.Net())) == {"Net.forward", "Config.half"}


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

        def inner(x):
            return late + x

        return inner

    endless = []
    endless.append(endless)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.endless, self.own, self.late = endless, [self], never()

        def forward(self, x):
            return self.late(x)

    assert {"Net.forward", "inner"} <= set(names(Net()))


def test_the_package_of_the_subject_is_owned_and_others_are_not():
    subject = Subject.of(nn.Linear(1, 1))
    assert home_of(subject) == ""
    owns = owner_of(subject, ("hypothesis",))
    assert owns(__file__)
    assert owns(hypothesis.__file__)
    assert not owns(torch.__file__)
    assert not owns(pytest.__file__)
    assert not owns("<string>")


def test_the_files_of_a_modules_parts_are_owned_but_those_of_torch(monkeypatch):
    class Wrapped(nn.Module):
        def forward(self, x):
            return x

    monkeypatch.setattr(Wrapped, "__module__", "iniconfig")
    owns = owner_of(Subject.of(nn.Sequential(nn.Linear(1, 1), Wrapped())))
    assert owns(iniconfig.__file__)
    assert not owns(sys.modules[nn.Linear.__module__].__file__)
    assert not owns(hypothesis.__file__)


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


def test_other_names_are_no_mention():
    assert list(mentions(Subject.of(MentionsInside()), ("torch.is_inference_mode_enabled",))) == []
    assert list(mentions(Subject.of(nn.Linear(2, 2)), (GRAD, THREADS))) == []
