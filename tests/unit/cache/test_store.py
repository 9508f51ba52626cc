"""cache/store.py: a check runs unless all that its verdict depends on is as it was."""

from __future__ import annotations

import dataclasses
import importlib
import os
import pkgutil
import sqlite3
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path

import pytest
import torch

from pytest_torchexport.cache.store import get, noticed, put, unless_unchanged
from pytest_torchexport.config.options import Options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.config.settings import Settings
from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.results.verdict import Verdict

CALL = Call((torch.ones(2, 3),))


class Case:
    """Checks that are counted, in a project of one model file, one test file and one directory."""

    def __init__(self, root):
        self.root = root
        self.status = "passed"
        self.ran = 0
        self.reads = None
        self.plan = Plan(
            target="trace",
            device="cpu",
            root=root,
            nodeid="test_net.py::test_net",
            settings=Settings(cache="kept"),
        )

    def write(self, name, text):
        (self.root / f"{name}.py").write_text(text)

    def net(self):
        sys.modules.pop("kept_net", None)
        importlib.invalidate_caches()
        sys.path.insert(0, str(self.root))
        try:
            module = importlib.import_module("kept_net")
        finally:
            sys.path.remove(str(self.root))
        torch.manual_seed(0)
        self.reads = module.read
        return module.Net()

    def check(self):
        self.ran += 1
        return Verdict(subject="Net", target="trace", device="cpu", status=self.status)

    def runs(self, net=None, calls=(CALL,), **fields):
        """Return whether the check ran."""
        before = self.ran
        plan = dataclasses.replace(self.plan, **fields)
        self.verdict = unless_unchanged(self.check, net or self.net(), calls, plan)
        assert bool(self.verdict.unchanged_since) == (self.ran == before)
        return self.ran > before


NET = """
import torch, kept_sizes
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, kept_sizes.SIZE)
    def forward(self, x):
        return self.linear(x)
def read(path):
    with open(path) as file:
        return file.read()
"""


@pytest.fixture
def case(tmp_path, monkeypatch):
    project = Case(tmp_path)
    project.write("kept_net", NET)
    project.write("kept_sizes", "SIZE = 2")
    project.write("test_net", "from kept_net import Net")
    monkeypatch.syspath_prepend(tmp_path)
    yield project
    for name in [name for name in sys.modules if name.startswith("kept_")]:
        del sys.modules[name]


def test_an_unchanged_check_runs_once(case):
    assert case.runs()
    assert not case.runs()
    assert list(case.verdict.seconds) == ["cache"]
    assert not case.runs(seed=7)
    case.write("kept_net", f"{NET}# more")
    case.status = "skipped"
    assert case.runs()
    assert case.runs()


def edit(name, text):
    return lambda case: case.write(name, text)


CHANGES = {
    "what it imports": edit("kept_sizes", "SIZE = 2  # of the output"),
    "a conftest": edit("conftest", "import kept_net"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_a_file_runs_it_again(case, what):
    assert case.runs()
    CHANGES[what](case)
    assert case.runs()
    assert not case.runs()


USES = {
    "another's": "",
    "its own": "kept_package.deep",
    "over lines": "(kept_package. # a comment\n    deep)",
    "computed": "getattr(kept_package, 'de' + 'ep')",
}


@pytest.mark.parametrize("use", USES)
def test_a_module_of_a_package_counts_for_those_that_use_it(case, use):
    counts = bool(USES[use])
    (case.root / "kept_package").mkdir()
    case.write("kept_package/__init__", "")
    case.write("kept_package/wide", "SIZE = 2")
    case.write("kept_package/deep", "SIZE = 3")
    used = f"import kept_package\ndef late():\n    return {USES[use]}.SIZE"
    case.write("kept_net", f"{NET}from kept_package import wide\n{used if counts else ''}")
    assert case.runs()
    importlib.import_module("kept_package.deep")  # as another test does
    assert case.runs() == counts
    case.write("kept_package/deep", "SIZE = 4")
    assert case.runs() == counts


@pytest.mark.parametrize(
    "fields",
    [
        {"target": "script"},
        {"why_isolated": "its artifact crashed"},
        {"nodeid": "test_net.py::test_net[2]"},
        {"options": Options(dims={"batch": range(1, 3)})},
        {"settings": Settings(cache="kept", time_limit=7.0)},
    ],
    ids=["target", "isolation", "item", "dims", "time limit"],
)
def test_another_option_or_setting_runs_it_again(case, fields):
    assert case.runs()
    assert case.runs(**fields)


def test_other_weights_and_calls_run_it_again(case):
    assert case.runs()
    net = case.net()
    with torch.no_grad():
        net.linear.weight[0, 0] += 1
    assert case.runs(net)
    assert case.runs(calls=[Call((torch.zeros(2, 3),))])
    assert case.runs(calls=[CALL, CALL])


def test_other_surroundings_run_it_again(case, monkeypatch):
    assert case.runs()
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert case.runs()
    torch.set_default_dtype(torch.float64)
    try:
        assert case.runs()
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_a_global_of_the_models_file_holds_runs_it_again(case):
    case.write("kept_net", f"{NET}import kept_sizes\nTABLE = [1]")
    net = case.net()
    assert case.runs(net)
    assert not case.runs(net)
    sys.modules["kept_net"].TABLE.append(2)  # as a file said that it read
    assert case.runs(net)
    sys.modules["kept_sizes"].SIZE = 3
    assert case.runs(net)
    sys.modules["kept_net"].TABLE = (row for row in ())
    assert case.runs(net)
    assert "cannot pickle 'generator'" in case.verdict.not_kept


def test_a_verdict_on_code_that_reads_a_file_is_not_kept(case, tmp_path):
    (tmp_path / "table.txt").write_text("1")
    check = case.check

    def reading():
        case.reads(tmp_path / "table.txt")
        return check()

    case.check = reading
    assert case.runs()
    assert case.runs()
    assert "table.txt" in case.verdict.not_kept


KEY, OTHER = "ab" * 32, "cd" * 32


def verdict(**fields):
    return Verdict(subject="Net", target="trace", device="cpu", status="passed", **fields)


def test_a_verdict_comes_back_with_its_day(tmp_path):
    assert get(tmp_path, KEY) is None
    put(tmp_path, KEY, verdict(max_error=float("nan"), reached={"batch": (1, 2)}))
    found = get(tmp_path, KEY)
    assert found.reached == {"batch": (1, 2)}
    assert len(found.unchanged_since.split("-")) == 3
    assert get(tmp_path, OTHER) is None
    assert (tmp_path / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize("text", ['{"subject', "[1]", "[" * 100_000])
def test_a_damaged_file_is_no_verdict_and_is_replaced(tmp_path, text):
    put(tmp_path, KEY, verdict())
    next(tmp_path.glob("??/*.json")).write_text(text)
    assert get(tmp_path, KEY) is None
    put(tmp_path, KEY, verdict())
    assert get(tmp_path, KEY) is not None


def in_a_thread(read):
    thread = threading.Thread(target=read)
    thread.start()
    thread.join()


READS = {
    "a file": lambda path: path.read_text(),
    "a directory": lambda path: list(path.parent.iterdir()),
    "a database": lambda path: sqlite3.connect(path).close(),
    "a command": lambda path: os.system(f"test -f {path}"),
    "in a thread": lambda path: in_a_thread(path.read_text),
}


@pytest.mark.parametrize("what", READS)
def test_what_the_users_code_reads_is_noticed(tmp_path, what):
    path = tmp_path / "table.txt"
    path.write_text("1")
    with noticed() as seen:
        READS[what](path)
    assert seen
    before = list(seen)
    READS[what](path)
    assert seen == before


OF_INSTALLERS = {
    "the names of installed packages": lambda: metadata.entry_points(group="torch_dynamo_backends"),
    "the modules of a package": lambda: list(pkgutil.iter_modules(torch.__path__)),
    "all modules": lambda: list(pkgutil.iter_modules()),
    "a version": lambda: metadata.version("torch"),
    "a file of an installed package": lambda: (
        Path(torch.__file__).with_name("py.typed").read_bytes()
    ),
    "its directory": lambda: list(Path(torch.__file__).parent.iterdir()),
}


@pytest.mark.parametrize("what", OF_INSTALLERS)
def test_what_an_installer_wrote_is_in_the_key(what):
    with noticed() as seen:
        OF_INSTALLERS[what]()
    assert not seen


def test_a_command_of_an_installed_package_is_noticed():
    with noticed() as seen:
        subprocess.run([sys.executable, torch.__file__, "--version"], check=False)
    assert seen
