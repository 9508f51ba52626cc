"""cache/sources.py: the files that code leads to, imported or not, and what makes them uncertain."""

from __future__ import annotations

import sys

import pytest

from pytest_torchexport.cache.digest import NoDigest
from pytest_torchexport.cache.sources import closure


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Write files into a directory on ``sys.path``, and return the names that a module leads to."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(**files):
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return tmp_path

    yield write
    for name in [name for name in sys.modules if name.startswith("cached_")]:
        del sys.modules[name]


def led_to(*modules):
    return [name for name, _ in closure(modules, []).files]


def test_imports_are_followed_before_they_have_run(project):
    project(
        cached_net="import cached_layers\ndef late():\n    from cached_late import inner\n",
        cached_layers="from cached_sizes import SIZE\nimport torch, os.path",
        cached_sizes="SIZE = 1",
        cached_late="",
        cached_other="",
    )
    assert led_to("cached_net") == ["cached_late", "cached_layers", "cached_net", "cached_sizes"]


def test_packages_and_relative_imports_are_followed(project):
    root = project(
        cached_models__net="from . import blocks\nfrom .heads import Head\nfrom .. import nothing",
        cached_models__blocks="",
        cached_models__heads="from cached_models.blocks import x",
        cached_models__unused="",
    )
    (root / "cached_models/__init__.py").write_text("")
    assert led_to("cached_models.net") == [
        "cached_models",
        "cached_models.blocks",
        "cached_models.heads",
        "cached_models.net",
    ]
    assert led_to("cached_models.unused") == ["cached_models", "cached_models.unused"]


def test_a_change_of_a_file_behind_an_import_changes_its_digest(project):
    project(cached_net="import cached_sizes", cached_sizes="SIZE = 1")
    before = closure(["cached_net"], [])
    assert closure(["cached_net"], []) == before
    project(cached_sizes="SIZE = 2")
    assert closure(["cached_net"], []) != before


def test_files_are_roots_too(project):
    root = project(test_cached="import cached_net", conftest="", cached_net="")
    names = [name for name, _ in closure([], [root / "test_cached.py", root / "conftest.py"]).files]
    assert names == ["0/test_cached.py", "1/conftest.py", "cached_net"]


@pytest.mark.parametrize("call", ["importlib.import_module('{}')", "pytest.importorskip('{}')"])
def test_an_import_by_a_text_is_followed(project, call):
    project(cached_net=call.format("cached_sizes"), cached_sizes="")
    assert led_to("cached_net") == ["cached_net", "cached_sizes"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import_module(name)", "cached_net.py:2, which imports by a computed name"),
        ("__import__('a' + 'b')", "imports by a computed name"),
        ("exec(text)", r"cached_net.py:2, which runs a text \(exec\)"),
        ("def (", "cached_net.py, which cannot be read"),
    ],
)
def test_what_cannot_be_followed_has_no_digest(project, text, said):
    project(cached_net=f"\n{text}")
    with pytest.raises(NoDigest, match=said):
        led_to("cached_net")


def test_eval_of_a_module_is_no_text_that_runs(project):
    project(cached_net="net.eval()\nnet.exec(1)")
    assert led_to("cached_net") == ["cached_net"]


@pytest.mark.parametrize(
    "text",
    [
        "os.environ['CACHED']",
        "os.environ.get('CACHED', '1')",
        "os.getenv('CACHED')",
        "from os import environ\nenviron.get('CACHED')",
        "if 'CACHED' in os.environ: pass",
        "os.environ[name]",
        "f(os.environ)",
    ],
)
def test_variables_that_a_file_reads_count(project, monkeypatch, text):
    project(cached_net=text)
    monkeypatch.setenv("CACHED", "1")
    before = closure(["cached_net"], [])
    monkeypatch.setenv("CACHED", "2")
    assert closure(["cached_net"], []) != before
    monkeypatch.delenv("CACHED")
    assert closure(["cached_net"], []) != before


def test_other_variables_do_not_count(project, monkeypatch):
    project(cached_net="os.environ['CACHED']")
    before = closure(["cached_net"], [])
    monkeypatch.setenv("CACHED_TOO", "1")
    assert closure(["cached_net"], []) == before
