"""Run the plugin on small suites: in this process, where torch is loaded already, and with fake targets if the
exporter is not the point of the test."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from pathlib import Path

import pytest

import pytest_torchexport
from pytest_torchexport.config import names
from pytest_torchexport.results import reports
from pytest_torchexport.results.verdict import Verdict

FAKES = Path(__file__).with_name("fake_targets.py").read_text(encoding="utf-8")


@pytest.fixture(scope="session", autouse=True)
def _everything_is_loaded():
    """A run in this process forgets what it imported, and torch cannot be imported twice."""
    import torch

    for info in pkgutil.walk_packages(pytest_torchexport.__path__, "pytest_torchexport."):
        if not info.name.endswith(".server"):
            importlib.import_module(info.name)
    for target in ("trace", "script", "export", "onnx"):
        pytest_torchexport.check_export(
            torch.nn.Linear(3, 2), (torch.randn(2, 3),), target=target, max_examples=1
        )


@pytest.fixture
def suite(pytester):
    """Write ``test_it.py`` beside the fake targets."""

    def write(body, *, fakes=True, **ini):
        if fakes:
            pytester.makeconftest(FAKES)
        ini = {"torchexport_max_examples": 5} | ini
        lines = "\n".join(f"{name} = {value}" for name, value in ini.items() if value is not None)
        pytester.makeini(f"[pytest]\n{lines}\n")
        head = "import pytest, torch\nfrom torch import nn\n"
        head += "from conftest import Net\n" if fakes else ""
        pytester.makepyfile(test_it=head + body)

    return write


OPERATOR = """
import torch

@torch.library.custom_op("NAME::double", mutates_args=())
def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2

@double.register_fake
def _(x):
    return torch.empty_like(x)
"""


@pytest.fixture
def library(pytester):
    """A module of the user's that registers an operator of its name. Each test's has a name of its own: torch knows
    an operator once per process.
    """

    def write(name):
        (pytester.path / f"{name}.py").write_text(OPERATOR.replace("NAME", name))
        pytester.syspathinsert()

    return write


@pytest.fixture
def run(pytester, monkeypatch):
    """Run it here with a fixed seed. What a conftest registers ends with the test."""

    def here(*arguments, **options):
        monkeypatch.setattr(names, "_registered", {})
        monkeypatch.setattr(reports, "FORMATS", dict(reports.FORMATS))
        return pytester.runpytest_inprocess(
            "-W", "default", "-p", "no:jaxtyping", "--hypothesis-seed=1", *arguments, **options
        )

    return here


@pytest.fixture
def run_apart(pytester):
    """Run it in a process of its own."""

    def apart(*arguments, timeout=120):
        return pytester.runpytest_subprocess(
            "-p", "no:jaxtyping", "--hypothesis-seed=1", *arguments, timeout=timeout
        )

    return apart


@pytest.fixture
def text_of():
    """All output of a run as one text."""

    def text(result):
        return re.sub(r"[ \t]+\n", "\n", "\n".join(result.outlines + result.errlines))

    return text


@pytest.fixture
def verdicts(pytester):
    """The verdicts of a run with ``--torchexport-report=json:out.json``, by item (``test_net[trace-cpu]``)."""

    def read():
        items = json.loads((pytester.path / "out.json").read_text())["items"]
        return {
            item["nodeid"].partition("::")[2]: [
                Verdict.from_dict(each) for each in item["verdicts"]
            ]
            for item in items
        }

    return read
