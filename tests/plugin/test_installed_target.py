"""The recipe "add a target": the example of the documentation, installed as another package."""

from __future__ import annotations

import site
import sys
import venv
from pathlib import Path

import pytest
from slow import slow

SNIPPETS = Path(__file__).parents[2] / "docs" / "snippets" / "own_target"
ENTRY_POINTS = """[pytest_torchexport.targets]
frozen = their_package.frozen:TARGET
arrays = their_package.arrays:TARGET
unknown = their_package.arrays:UNKNOWN
"""
# A format of their own: the weights of a linear layer, served by numpy.
ARRAYS = """
import numpy as np
from pytest_torchexport.targets import DirectArtifact, TargetTraits

class Arrays:
    def __init__(self, library):
        self.traits = TargetTraits(
            library=library, loader="their_package.served:FILE", suffixes=(".npz",), takes=self.takes
        )

    def takes(self, path):
        return "" if "weight" in np.load(path) else "it has no weight"

    def unavailable(self, device):
        return None

    def export(self, module, example, spec, *, times=1.0, name="model"):
        weights = {name: each.detach().numpy() for name, each in module.named_parameters()}
        return DirectArtifact(
            program=weights, module=None, run=module, filename=f"{name}.npz",
            write=lambda path: np.savez(path, **weights),
        )

TARGET, UNKNOWN = Arrays("numpy"), Arrays("no_such_runtime")
"""
SERVED = """
import sys
import numpy as np
from pytest_torchexport.targets.formats.facts import ProgramFacts

class FILE:
    def load(path, device, times=1.0):
        assert "torch" not in sys.modules
        weights = np.load(path)
        return lambda x: (x @ weights["weight"].T + weights["bias"]) * np.float32(times)

    def read(path, loaded):
        return ProgramFacts()
"""
OF_ARRAYS = """
import pathlib, numpy, pytest, torch
from torch import nn

@pytest.mark.torchexport("arrays")
def test_it():
    nn.Linear(3, 2)(torch.randn(4, 3))

@pytest.mark.torchexport("arrays", export_options={"arrays": {"times": 2.0, "name": "twice"}})
def test_asked():
    nn.Linear(3, 2)(torch.randn(4, 3))

@pytest.mark.torchexport("arrays", "trace")
def test_file(torchexport):
    model = nn.Linear(3, 2)
    numpy.savez("model.npz", **{n: p.detach().numpy() for n, p in model.named_parameters()})
    torchexport.check_artifact("model.npz", model, torch.randn(4, 3))

@pytest.mark.torchexport("arrays")
def test_other_file(torchexport):
    numpy.savez("other.npz", other=numpy.ones(3))
    torchexport.check_artifact("other.npz", nn.Linear(3, 2), torch.randn(4, 3))

@pytest.mark.torchexport("unknown")
def test_unknown():
    nn.Linear(3, 2)(torch.randn(4, 3))
"""


@pytest.fixture
def python(tmp_path):
    """An interpreter that has what this one has, and their package.

    Also if it is isolated, as that of the clean process is.
    """
    venv.create(tmp_path / "venv", symlinks=True)
    (packages,) = (tmp_path / "venv").glob("lib/*/site-packages")
    ours = [path for path in sys.path if path in site.getsitepackages()]
    lines = [f"import site; site.addsitedir({path!r})" for path in ours]
    (packages / "ours.pth").write_text("\n".join(lines))
    package = packages / "their_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "frozen.py").write_text((SNIPPETS / "frozen.py").read_text(encoding="utf-8"))
    (package / "arrays.py").write_text(ARRAYS)
    (package / "served.py").write_text(SERVED)
    info = packages / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return tmp_path / "venv" / "bin" / "python"


def test_a_target_of_another_package_is_judged_with_its_round_trip(pytester, python):
    pytester.makepyfile(test_model=(SNIPPETS / "test_model.py").read_text(encoding="utf-8"))
    result = pytester.run(python, "-m", "pytest", "-p", "no:jaxtyping", "-v", "--hypothesis-seed=1")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*test_classifier?frozen-cpu? PASSED*"])
    result.stdout.no_fnmatch_line("*round trip not checked*")
    result.stdout.no_fnmatch_line("*registered only in this process*")


@slow
def test_a_target_of_another_library_is_served_by_it_with_its_options(pytester, python):
    pytester.makepyfile(test_arrays=OF_ARRAYS)
    result = pytester.run(
        python, "-m", "pytest", "-p", "no:jaxtyping", "-rA", "--hypothesis-seed=1"
    )
    result.assert_outcomes(passed=2, failed=2, skipped=2)
    text = result.stdout.str()
    for line in (
        "PASSED *::test_it?arrays-cpu?",
        "PASSED *::test_file?arrays-cpu?",
        "*a .npz file is judged by arrays*",
        "*other.npz: it has no weight*",
        "RoundTripDiffers: run 1 after loading",
        "ExportRefused: target 'unknown'*library 'no_such_runtime' cannot be imported; legal: torch, onnxruntime*",
    ):
        result.stdout.fnmatch_lines([line])
    assert "please report it" not in text
