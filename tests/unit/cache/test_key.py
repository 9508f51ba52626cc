"""cache/key.py: equal contents have one digest in every process, and each change gives another."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from pytest_torchexport.cache.key import (
    Digest,
    NoKey,
    closure,
    key_of,
    process,
    surroundings,
    variables,
)
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.inputs.pytrees import Call


def digest(*values):
    whole = Digest()
    for value in values:
        whole.add(value)
    return whole.digest()


def doubled(x):
    return x * 2


class Net(nn.Module):
    factor = 3

    def __init__(self, size=4):
        super().__init__()
        self.linear = nn.Linear(size, 2)
        self.names = {"cat", "dog", "horse"}
        self.act = torch.relu
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x):
        return doubled(self.act(self.linear(x))) * self.factor


def net(change=lambda _: None):
    torch.manual_seed(0)
    made = Net()
    change(made)
    return made


def scaled_weight(module):
    with torch.no_grad():
        module.linear.weight[0, 0] += 1e-6


def hooked(module, *, with_arguments):
    module.register_forward_pre_hook(doubled)
    module.register_forward_pre_hook(doubled, with_kwargs=with_arguments)


CHANGES = {
    "a weight": scaled_weight,
    "a set": lambda module: module.names.add("cow"),
    "two hooks": functools.partial(hooked, with_arguments=False),
    "two hooks, one with arguments": functools.partial(hooked, with_arguments=True),
    "a tie": lambda module: setattr(module, "more", module.linear),
    "a stride": lambda module: setattr(
        module.linear, "weight", nn.Parameter(module.linear.weight.detach().T.contiguous().T)
    ),
}


def test_equal_modules_have_one_digest_and_each_change_gives_another():
    made = [digest(net(change)) for change in CHANGES.values()]
    assert made == [digest(net(change)) for change in CHANGES.values()]
    assert len({digest(net()), *made}) == len(CHANGES) + 1


def test_what_a_test_puts_into_a_class_of_torchs_counts(monkeypatch):
    before = digest(net())
    monkeypatch.setattr(nn.Linear, "forward", lambda *args: args[0] * 3)
    assert digest(net()) != before


def of_a_text(value):
    scope = {"__name__": "of_no_file"}
    exec(f"class Made:\n    def run(self, x):\n        return x + {value}", scope)
    return scope["Made"]


class Forgetful:
    """An object of which a copy lacks an attribute: not of a global, which no check copies."""

    def __init__(self, scale):
        self.scale = scale

    def __getstate__(self):
        return {}


def wrapped_by_torch(value):
    @torch.no_grad()
    def forward(self, x):
        return x * value

    return forward


@functools.lru_cache
def remembered(path):
    return Path(path).read_text()


@pytest.mark.parametrize(
    "make",
    [
        of_a_text,
        wrapped_by_torch,
        Forgetful,
        lambda value: lambda x: x + value,
        lambda value: (torch.ops.aten.relu.default, torch.ops.aten.tanh.default)[value - 1],
        lambda value: st.integers(0, value).filter(doubled),
        lambda value: torch.zeros(value, device="meta"),
        lambda value: (("a", b"b"), (b"a", "b"))[value - 1],
    ],
)
def test_unlike_objects_have_unlike_digests(make):
    assert digest(make(1)) == digest(make(1))
    assert digest(make(1)) != digest(make(2))


class Lazily(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (threading.Lock(), "cannot pickle '_thread.lock'"),
        (torch.ones(2).to_sparse(), "a tensor that is sparse"),
        (torch.ones(2).as_subclass(Lazily), "a tensor of the class Lazily"),
        (torch.jit.script(nn.ReLU()), "a program of TorchScript"),
        (st.builds(object()), "the strategy"),
    ],
)
def test_what_no_other_process_can_compare_has_no_digest(value, said):
    with pytest.raises(NoKey, match=said):
        digest([value])


def test_what_a_function_has_read_and_remembers_has_no_digest(tmp_path):
    (tmp_path / "table.txt").write_text("1")
    remembered.cache_clear()
    assert digest(remembered) == digest(remembered)
    remembered(tmp_path / "table.txt")
    with pytest.raises(NoKey, match="what remembered has read and remembers"):
        digest(remembered)


PROCESS = """
import torch
from pytest_torchexport.cache.key import Digest
torch.manual_seed(0)
found = Digest()
found.add([{"cat", "dog", "horse"}, frozenset("abc"), torch.nn.LSTM(2, 2), torch.relu])
print(found.digest(), hash("cat"))
"""


def test_processes_agree(capsys):
    exec(PROCESS)
    made, hashed = capsys.readouterr().out.split()
    # Sets have another order there.
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    there = subprocess.run(
        [sys.executable, "-c", PROCESS],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert there[0] == made
    assert there[1] != hashed
    assert re.fullmatch("[0-9a-f]{64}", made)


# -- files -----------------------------------------------------------------------------------------


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
    root = project(
        cached_net="import cached_layers\ndef late():\n    from cached_late import inner\n",
        cached_layers="from cached_models import net\nimport torch, os.path",
        cached_late="",
        cached_other="",
        cached_models__net="from . import blocks\nfrom .heads import Head",
        cached_models__blocks="",
        cached_models__heads="from cached_models.blocks import x",
        cached_models__unused="",
    )
    (root / "cached_models/__init__.py").write_text("")
    package = [f"cached_models{name}" for name in ("", ".blocks", ".heads", ".net")]
    assert led_to("cached_net") == ["cached_late", "cached_layers", *package, "cached_net"]
    assert "cached_net" not in sys.modules
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
    ("text", "unknown"),
    [
        ("importlib.import_module(name)", "import_module"),
        ("from importlib import import_module as load\nload('sizes')", "import_module"),
        ("runpy.run_path('sizes.py')", "run_path"),
        ("from importlib.machinery import SourceFileLoader as Loader", "SourceFileLoader"),
        ("sys.modules.get(name)", "modules"),
        ("exec(text)", "exec"),
        ("os.path.expandvars('$CACHED')", "expandvars"),
        ("getattr(__builtins__, 'exec')(text)", "__builtins__"),
        ("net.eval()\ndef run(net, eval=True):\n    net.exec(1)", None),
        ("torch.compile(net)\nre.compile(text)\nsys.modules[__name__]", None),
        ("def (", r"cannot be read"),
    ],
)
def test_what_only_the_program_knows_has_no_key(project, text, unknown):
    project(cached_net=text)
    if unknown is None:
        assert led_to("cached_net") == ["cached_net"]
    else:
        with pytest.raises(NoKey, match=rf"cached_net.py.*, which .*{unknown}"):
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


def test_a_file_that_gives_torch_functions_of_operators_is_found(project):
    project(
        cached_net="@torch.library.custom_op('a::b', mutates_args=())\ndef b(x): pass",
        cached_other="torch.ops.a.b(x)",
    )
    sources = closure(["cached_net", "cached_other"], [])
    assert [sources[name].registers for name in ("cached_net", "cached_other")] == [True, False]


# -- the process -----------------------------------------------------------------------------------


RECORD = """layers/net.py,sha256=one,10
layers/__pycache__/net.cpython-311.pyc,,
../../../bin/layers,sha256=two,20
layers-1.0.dist-info/direct_url.json,sha256=three,30
"""


def test_a_package_that_is_installed_anew_under_its_version_is_another(tmp_path, monkeypatch):
    folder = tmp_path / "layers-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: layers\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)

    def installed(record):
        (folder / "RECORD").write_text(record)
        process.cache_clear()
        return surroundings("cpu")

    try:
        before = installed(RECORD)
        assert any(each.startswith("layers==1.0") for each in before)
        assert installed(RECORD.replace("one", "four")) != before
        # Not where and how it was installed.
        assert installed(RECORD.splitlines()[0]) == before
    finally:
        process.cache_clear()


def test_a_pass_with_fewer_drawn_calls_is_not_one_with_more():
    call, plan = Call((torch.ones(2, 4),)), Plan(target="trace", device="cpu")
    keys = [
        key_of(nn.ReLU(), [call], replace(plan, max_examples=most)) for most in (None, 50, 50, 10)
    ]
    assert keys[1] == keys[2]
    assert len(set(keys)) == 3
