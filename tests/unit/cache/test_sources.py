"""cache/sources.py: the files that code leads to, imported or not, and what makes them uncertain."""

from __future__ import annotations

import sys

import pytest

from pytest_torchexport.cache.sources import NoKey, closure, variables


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Write files into a directory on ``sys.path``."""
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
    return sorted(closure(modules, []))


def test_imports_are_followed_before_they_have_run(project):
    project(
        cached_net="import cached_layers\ndef late():\n    from cached_late import inner\n",
        cached_layers="from cached_sizes import SIZE\nimport torch, os.path",
        cached_sizes="SIZE = 1",
        cached_late="",
        cached_other="",
    )
    assert led_to("cached_net") == ["cached_late", "cached_layers", "cached_net", "cached_sizes"]
    assert "cached_net" not in sys.modules


def test_packages_and_relative_imports_are_followed(project):
    root = project(
        cached_models__net="from . import blocks\nfrom .heads import Head",
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


@pytest.mark.parametrize(
    "text",
    [
        "from importlib import import_module\nimport_module('.cached_sizes', __package__)",
        "import pytest\npytest.importorskip('cached_sizes')",
        "import sys\nsys.modules.get('cached_sizes')",
    ],
)
def test_an_import_by_a_text_is_followed(project, text):
    project(cached_net__deep=text, cached_sizes="", cached_net__cached_sizes="")
    wanted = "cached_net.cached_sizes" if "'.cached" in text else "cached_sizes"
    assert wanted in led_to("cached_net.deep")


@pytest.mark.parametrize(
    "text",
    [
        "importlib.import_module(name)",
        "from importlib import import_module as load\nload('sizes')",
        "runpy.run_path('sizes.py')",
        "from importlib.machinery import SourceFileLoader as Loader\nLoader('a', path)",
        "sys.modules.get(name)",
        "exec(text)",
        "os.path.expandvars('$CACHED')",
        "getattr(__builtins__, 'exec')(text)",
    ],
)
def test_what_only_the_program_knows_has_no_key(project, text):
    project(cached_net=text)
    with pytest.raises(NoKey, match=r"cached_net.py:\d, which"):
        led_to("cached_net")


@pytest.mark.parametrize(
    "text",
    [
        "net.eval()",
        "def run(net, eval=True):\n    net.exec(1)",
        "torch.compile(net)\nre.compile(text)",
        "sys.modules[__name__]",
    ],
)
def test_what_only_looks_like_it_has_a_key(project, text):
    project(cached_net=text)
    assert led_to("cached_net") == ["cached_net"]


def test_a_file_that_cannot_be_read_has_no_key(project):
    project(cached_net="def (")
    with pytest.raises(NoKey, match=r"cached_net.py, which cannot be read"):
        led_to("cached_net")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("os.environ['CACHED']", ["CACHED"]),
        ("from os import environ\nenviron.get('CACHED')", ["CACHED"]),
        ("if 'CACHED' in os.environ: pass", ["CACHED"]),
        ("pass", []),
        ("os.environ[name]", None),
    ],
)
def test_variables_that_a_file_reads_count(project, monkeypatch, text, read):
    project(cached_net=text)
    (source,) = closure(["cached_net"], []).values()
    assert source.variables == (None if read is None else set(read))
    monkeypatch.setenv("CACHED", "1")
    assert (("CACHED", "1") in variables([source])) is (read != [])
    monkeypatch.delenv("CACHED")
    assert ("CACHED", "1") not in variables([source])


@pytest.mark.parametrize(
    ("text", "registers"),
    [
        ("@torch.library.custom_op('a::b', mutates_args=())\ndef b(x): pass", True),
        ("torch.ops.a.b(x)", False),
    ],
)
def test_a_file_that_gives_torch_functions_of_operators_is_found(project, text, registers):
    project(cached_net=text)
    assert closure(["cached_net"], [])["cached_net"].registers is registers
