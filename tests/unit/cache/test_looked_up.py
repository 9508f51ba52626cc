"""cache/looked_up.py: what code may look up in modules, by name or by text."""

from __future__ import annotations

import sys
import types

import pytest

from pytest_torchexport.cache.looked_up import imported_by, names_of

sizes = types.ModuleType("sizes")


def plain(x):
    return x * sizes.SIZE


def by_text(x):
    return x * getattr(sizes, "SIZE")  # noqa: B009


def inside(x):
    def inner():
        return x * vars(sizes)["size".upper()]

    return inner


def by_dict(x, name):
    return x * sizes.__dict__[name]


def of_an_attribute(x, name):
    return x * getattr(x.sizes, name)


@pytest.mark.parametrize(
    ("function", "modules"),
    [
        (plain, set()),
        (by_text, {"sizes"}),
        (inside, {"sizes"}),
        (by_dict, {"sizes"}),
        (of_an_attribute, {"x", "sizes"}),
    ],
)
def test_a_module_whose_attributes_are_looked_up_by_a_text_is_found(function, modules):
    assert names_of(function.__code__).modules == modules


def test_texts_that_may_be_names_are_names():
    assert {"SIZE", "sizes"} <= names_of(by_text.__code__).named
    assert "no name" not in names_of((lambda: "no name").__code__).named


def own():
    return globals()


def of_the_module():
    return sys.modules[__name__]


@pytest.mark.parametrize(
    ("function", "found"), [(own, True), (of_the_module, True), (plain, False)]
)
def test_a_function_that_may_look_up_any_of_its_globals_is_found(function, found):
    assert names_of(function.__code__).any_own is found


def absolute():
    import kept_pack.sizes  # noqa: F401


def relative():
    from .sizes import SIZE  # noqa: F401


def by_its_text():
    return sys.modules["kept_pack.sizes"]


@pytest.mark.parametrize("function", [absolute, relative, by_its_text])
def test_a_loaded_module_that_a_function_imports_is_found(monkeypatch, function):
    module = types.ModuleType("kept_pack.sizes")
    module.__file__ = "/models/kept_pack/sizes.py"
    monkeypatch.setitem(sys.modules, "kept_pack.sizes", module)
    names = names_of(function.__code__)
    assert imported_by(names, {"__package__": "kept_pack"}) == [module]
    assert imported_by(names_of(plain.__code__), {"__package__": "kept_pack.inner"}) == [module]
    assert imported_by(names_of(own.__code__), {"__package__": "kept_pack"}) == []
