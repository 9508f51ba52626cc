"""commands/given_subject.py: what a command line names is imported and made, or the reason is told."""

from __future__ import annotations

import sys

import pytest
import torch

from pytest_torchexport.commands.given_subject import is_made, loaded, made, parse_init
from pytest_torchexport.commands.shell import CommandError

SOURCE = """
import torch
from .part import SIZE

class Net(torch.nn.Linear):
    def __init__(self, hidden, bias=True):
        super().__init__(SIZE, hidden, bias)
        assert hidden > 0, "no rows"

class Outer:
    Inner = torch.nn.Identity

def make(): return Net(2)
def number(): return 3
def function(x): return x + 1
instance = Net(3)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package in the current directory, of which nothing stays imported."""
    folder = tmp_path / "own_package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "part.py").write_text("SIZE = 4\n")
    (folder / "net.py").write_text(SOURCE)
    (folder / "broken.py").write_text("x = 1\nx / 0\n")
    (folder / "lacks.py").write_text("import not_there.at_all\n")
    (folder / "ends.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "json.py").write_text("class Net: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_package")]:
        del sys.modules[name]


@pytest.mark.parametrize("place", ["own_package.net", "own_package/net.py"])
def test_a_module_and_a_file_are_imported_with_their_package(package, place):
    cls, module, name = loaded(f"{place}:Net")
    assert (module, name) == ("own_package.net", "Net")
    assert made(cls, {"hidden": 2}, "Net").weight.shape == (2, 4)
    assert loaded(f"{place}:Outer.Inner")[0] is torch.nn.Identity


def test_a_class_and_a_factory_make_the_subject(package):
    kinds = {
        name: is_made(loaded(f"own_package.net:{name}")[0], init=False)
        for name in ("Net", "make", "function", "instance")
    }
    assert kinds == {"Net": True, "make": True, "function": False, "instance": False}
    assert is_made(loaded("own_package.net:function")[0], init=True)
    assert not is_made(torch.relu, init=False)
    assert isinstance(made(loaded("own_package.net:make")[0], {}, "make"), torch.nn.Linear)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("own_package.net", "names no class; legal: package.module:Net"),
        (":Net", "names no class"),
        ("own_package.nat:Net", "there is no module 'own_package.nat' here"),
        ("nowhere.net:Net", "there is no module 'nowhere' here"),
        ("own_package.net:Nett", "has no 'Nett'. Did you mean 'Net'?"),
        ("own_package.net:Outer.Iner", "has no 'Outer.Iner'"),
        ("own_package/nat.py:Net", "own_package/nat.py: no such file"),
        ("own_package.broken:Net", r"ZeroDivisionError: division by zero \(.*broken.py:2  x / 0\)"),
        ("own_package.lacks:Net", "needs the module 'not_there', which is not installed"),
        ("own_package.ends:Net", "ends the process when it is imported"),
        ("json.py:Net", "Python already has another module json"),
    ],
)
def test_what_cannot_be_imported_is_told(package, text, why):
    with pytest.raises(CommandError, match=why):
        loaded(text)


@pytest.mark.parametrize(
    ("name", "init", "why"),
    [
        (
            "Net",
            {},
            r'Net\(hidden, bias=True\) needs arguments: hidden; give them with --init "hid',
        ),
        ("Net", {"hidden": 2, "depth": 3}, "takes no argument 'depth'"),
        ("Net", {"hidden": -1}, r"Net\(\) raised RuntimeError: "),
        ("Net", {"hidden": 0}, r"AssertionError: no rows \(.*net.py:8  assert hidden > 0"),
        ("number", {}, r"number\(\) returned int, which cannot be called"),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_what_cannot_be_made_is_told(package, name, init, why):
    make, _, _ = loaded(f"own_package.net:{name}")
    with pytest.raises(CommandError, match=why):
        made(make, init, name)


def test_arguments_have_names_and_plain_values():
    assert parse_init("hidden=8, act='relu', sizes=[1, 2]") == {
        "hidden": 8,
        "act": "relu",
        "sizes": [1, 2],
    }
    assert parse_init("") == {}
    for text in ("8", "hidden=", "hidden=f()", "hidden=8)+(1", "**{'a': 1}, b"):
        with pytest.raises(CommandError, match="is not a list of arguments"):
            parse_init(text)
