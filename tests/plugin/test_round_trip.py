"""Saved here, loaded where the model's source does not exist: what a user sees, and what settings change."""

from __future__ import annotations

import json
import re

import pytest
import torch
from slow import slow

from pytest_torchexport.results.verdict import Verdict

REPORT = "--torchexport-report=json:out.json"

CUSTOM = """
import team_ops

class Doubles(nn.Module):
    def forward(self, x):
        return torch.ops.team_ops.double(x) + 1

@pytest.mark.torchexport('trace', 'export')
def test_net(): Doubles()(torch.randn(2, 3))
"""


@pytest.fixture
def verdicts(pytester):
    """The verdicts that a run wrote, by target."""

    def read():
        items = json.loads((pytester.path / "out.json").read_text())["items"]
        found = [Verdict.from_dict(data) for item in items for data in item["verdicts"]]
        return {verdict.target: verdict for verdict in found}

    return read


def words(verdict):
    return "\n".join([verdict.reason, *verdict.details, str(verdict.where)])


# -- what serving imports --------------------------------------------------------------------------


@pytest.fixture
def custom(suite, library):
    """A suite on an operator of its own."""

    def write(name, **ini):
        library(name)
        suite(CUSTOM.replace("team_ops", name), fakes=False, **ini)

    return write


def test_the_setting_is_written_as_in_the_configuration_file(custom, run, pytester):
    custom("team_ops_toml")
    (pytester.path / "tox.ini").unlink()
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\n")
    said = '*set torchexport_runtime_imports = ["team_ops_toml"]'
    run().stdout.fnmatch_lines([said.replace("[", "[[]")])


@pytest.mark.parametrize("flags", [(), ("--torchexport-isolate",)], ids=["", "isolated"])
def test_an_operator_that_only_the_test_imports_is_named_with_the_setting(
    custom, run, verdicts, flags
):
    name = "team_ops_isolated" if flags else "team_ops"
    custom(name)
    result = run(REPORT, *flags)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines([f"imports: *2 items*set torchexport_runtime_imports = {name}"])
    found = verdicts()
    assert found.keys() == {"trace", "export"}
    for verdict in found.values():
        assert verdict.failure == "LoadFailed"
        said = words(verdict)
        assert f"{name}::double" in said
        assert re.search(rf"{name}::double is registered at .*{name}\.py:\d+", said)
        assert f"add {name} to torchexport_runtime_imports" in said
        assert verdict.imports == (name,)
        assert f"not importable there: {name}" in said


def test_what_serving_imports_is_imported_there_too(custom, run, verdicts):
    custom("team_ops_served", torchexport_runtime_imports="team_ops_served")
    run(REPORT).assert_outcomes(passed=2)
    assert all("round trip" in verdict.seconds for verdict in verdicts().values())


def test_a_runtime_import_that_does_not_exist_is_told(custom, run, verdicts):
    custom("team_ops_missing", torchexport_runtime_imports="team_ops_of_nobody")
    run(REPORT).assert_outcomes(failed=2)
    for verdict in verdicts().values():
        assert verdict.failure == "LoadFailed"
        assert "No module named 'team_ops_of_nobody'" in words(verdict)


# -- other devices ---------------------------------------------------------------------------------

DEVICES = """
class Constant(nn.Module):
    def forward(self, x):
        y = x * 2
        return y + torch.arange(3, device=x.device)

class Moves(nn.Module):
    def forward(self, x):
        return (x * 2).to('cpu') + 1

class Follows(nn.Module):
    def forward(self, x):
        return x + torch.zeros_like(x)

@pytest.mark.torchexport(TARGETS, devices='cpu')
def test_net(): NAME()(torch.randn(2, 3))
"""
WITHOUT_A_GPU = pytest.mark.skipif(
    torch.cuda.is_available(), reason="this machine has a GPU: it is loaded there"
)


@pytest.fixture
def served(suite):
    """A suite of one model that is to be served on a GPU."""

    def write(name, *targets):
        body = DEVICES.replace("TARGETS", ", ".join(map(repr, targets))).replace("NAME", name)
        suite(body, fakes=False, torchexport_serve_on="cuda")

    return write


@WITHOUT_A_GPU
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Constant", "return y + torch.arange(3, device=x.device)"),
        ("Moves", "return (x * 2).to('cpu') + 1"),
    ],
)
def test_a_trace_that_is_tied_to_its_device_fails_with_the_line(
    served, run, verdicts, text_of, name, line
):
    served(name, "trace")
    result = run(REPORT)
    result.assert_outcomes(failed=1)
    verdict = verdicts()["trace"]
    assert verdict.failure == "RoundTripDiffers"
    assert "it will not run on cuda" in verdict.reason
    assert verdict.where.text.endswith(line)
    assert re.match(r"test_it\.py:\d+  ", str(verdict.where))
    assert "remedy: make it from an input" in words(verdict)
    assert "  remedy   make it from an input" in text_of(result)


@WITHOUT_A_GPU
def test_what_follows_its_inputs_passes_and_says_what_was_not_checked(
    served, run, verdicts, text_of
):
    served("Follows", "trace", "script", "export", "onnx")
    result = run(REPORT)
    result.assert_outcomes(passed=4)
    for verdict in verdicts().values():
        assert any("not loaded on cuda" in said for said in verdict.ineffective)
    assert "not loaded on cuda, where it is to be served" in text_of(result)
    strict = run(REPORT, "--torchexport-strict")
    strict.assert_outcomes(failed=4)
    assert {verdict.failure for verdict in verdicts().values()} == {"Ineffective"}


# -- what goes wrong on the way --------------------------------------------------------------------

HALF = """
from pytest_torchexport.targets.base import DirectArtifact

def save(self, directory):
    (directory / "model.pt").write_bytes(b"half")
    raise OSError(28, "No space left on device")

DirectArtifact.save = save
"""
TWO = """
@pytest.mark.torchexport('trace')
def test_net(): nn.Linear(3, 2)(torch.randn(2, 3))

@pytest.mark.torchexport('onnx')
def test_after(): nn.Linear(3, 2)(torch.randn(2, 3))
"""


@slow
def test_a_disk_that_is_full_is_told_and_the_run_goes_on(suite, run_apart, pytester, text_of):
    suite(TWO, fakes=False)
    pytester.makeconftest(HALF)
    result = run_apart()
    result.assert_outcomes(failed=1, passed=1)
    text = text_of(result)
    assert "Ineffective: on this machine the disk is full: OSError: [Errno 28]" in text
    assert "next step: TMPDIR must name a directory that has space" in text
    assert "please report it" not in text


OWN = """
from typing import Tuple

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.full((3,), 2.0)

    def __deepcopy__(self, memo):
        return type(self)().train(self.training)

    @torch.jit.export
    def __getstate__(self) -> Tuple[torch.Tensor, bool]:
        return self.scale * 1.5, self.training

    @torch.jit.export
    def __setstate__(self, state: Tuple[torch.Tensor, bool]) -> None:
        self.scale = state[0]
        self.training = state[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale

@pytest.mark.torchexport('script')
def test_net(): Own()(torch.randn(2, 3))
"""


def test_the_report_and_the_terminal_say_where_the_file_is(suite, run, pytester, verdicts, text_of):
    suite(OWN, fakes=False)
    result = run(REPORT)
    result.assert_outcomes(failed=1)
    verdict = verdicts()["script"]
    assert verdict.failure == "RoundTripDiffers"
    assert verdict.kept == ".torchexport/test_it.py-test_net-script-cpu/model.pt"
    assert f"kept     {verdict.kept}" in text_of(result)
    loaded = torch.jit.load(pytester.path / verdict.kept)
    assert torch.equal(loaded(torch.ones(3)), torch.full((3,), 3.0))
    run(REPORT, "-k", "nothing")
    assert (pytester.path / verdict.kept).is_file()
