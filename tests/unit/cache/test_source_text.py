"""cache/source_text.py: the modules and variables that a text names, and what it leaves open."""

from __future__ import annotations

import pytest

from pytest_torchexport.cache.digest import NoDigest
from pytest_torchexport.cache.source_text import parsed


def source(text):
    return parsed(text.encode(), "net.py", "pack.net")


@pytest.mark.parametrize(
    "text",
    [
        "import importlib\nimportlib.import_module('sizes')",
        "from importlib import import_module as load\nload('sizes')",
        "__import__('sizes')",
        "import pytest\npytest.importorskip('sizes')",
        "import runpy\nrunpy.run_module('sizes')",
        "import pkgutil\npkgutil.resolve_name('sizes:SIZE')",
        "exec('import sizes')",
        "import sys\nsys.modules['sizes']",
        "import sys\nsys.modules.get('sizes')",
        "from sys import modules as loaded\nloaded['sizes']",
    ],
)
def test_an_import_by_a_text_is_followed(text):
    assert {"sizes", "sizes.SIZE"} & set(source(text).imports)


def test_a_relative_name_is_that_of_the_package():
    text = "from importlib import import_module\nimport_module('.sizes', __package__)"
    assert "pack.sizes" in source(text).imports


@pytest.mark.parametrize(
    "text",
    [
        "importlib.import_module(name)",
        "from importlib import import_module as load\nload(name)",
        "load = importlib.import_module\nload('sizes')",
        "import importlib as il\nf = il.import_module",
        "import importlib\ngetattr(importlib, name)",
        "import importlib\nvars(importlib)",
        "import importlib\nimportlib.__dict__",
        "import_module('.sizes', package)",
        "runpy.run_path('sizes.py')",
        "importlib.util.spec_from_file_location('sizes', path)",
        "from importlib.machinery import SourceFileLoader as Loader\nLoader('a', path)",
        "finder.find_spec(name).loader.load_module(name)",
        "sys.meta_path.insert(0, finder)",
        "sys.modules[name]",
        "sys.modules.get(name)",
        "import sys as system\nsystem.modules[name]",
        "from sys import modules\nmodules[name]",
        "exec(text)",
        "exec(f'{name} = 1')",
        "run = exec\nrun('1')",
        "import builtins\nbuiltins.exec(text)",
        "from builtins import exec as run\nrun(text)",
        "getattr(__builtins__, 'exec')(text)",
        "compile(text, 'net.py', 'exec')",
        "eval(text)",
    ],
)
def test_what_only_the_program_knows_has_no_digest(text):
    with pytest.raises(NoDigest, match=r"net.py:\d, which"):
        source(text)


@pytest.mark.parametrize(
    "text",
    [
        "net.eval()",
        "self.load_module(name)",
        "def eval(net): pass\neval(net)",
        "def load_module(name): pass\nload_module(name)",
        "def run(net, eval=True):\n    if eval: net.eval()",
        "from training import eval\neval(net)",
        "torch.compile(net)\nre.compile(text)",
        "from torch import compile\ncompile(net)",
        "eval('1 + 1')",
        "import importlib.metadata\nimportlib.metadata.version('torch')",
        "import importlib\nimportlib.reload(sizes)",
        "sys.modules[__name__]",
        "sys.modules[name] = module",
        "x.modules[0]",
        "modules = {}\nmodules[name]",
        "modules.get(name)",
    ],
)
def test_what_only_looks_like_it_has_a_digest(text):
    assert source(text).variables == ()


@pytest.mark.parametrize(
    "text",
    [
        "os.environ['CACHED']",
        "from os import environ as E\nE.get('CACHED')",
        "from os import getenv as get\nget('CACHED')",
        "if 'CACHED' in os.environ: pass",
    ],
)
def test_a_variable_that_is_named_is_read(text):
    assert source(text).variables == ("CACHED",)


@pytest.mark.parametrize(
    "text",
    [
        "os.environ[name]",
        "f(os.environ)",
        "environ = os.environ\nenviron['CACHED']",
        "os.environb[b'CACHED']",
        "os.path.expandvars('$CACHED')",
        "import os\ngetattr(os, 'environ')['CACHED']",
        "import os\nf(os)",
    ],
)
def test_a_variable_that_is_computed_may_be_any(text):
    assert source(text).variables is None


@pytest.mark.parametrize(
    ("text", "registers"),
    [
        ("lib = torch.library.Library('a', 'DEF')", True),
        ("@torch.library.custom_op('a::b', mutates_args=())\ndef b(x): pass", True),
        ("from torch.library import custom_op\ncustom_op('a::b')", True),
        ("torch.onnx.register_custom_op_symbolic('a::b', b, 17)", True),
        ("torch.ops.a.b(x)", False),
    ],
)
def test_a_file_that_gives_torch_functions_of_operators_is_found(text, registers):
    assert source(text).registers is registers
