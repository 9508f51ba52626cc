"""Saved here, loaded where the model's source does not exist: what a user sees, and what settings change."""

from __future__ import annotations

import re

import pytest
import torch

from pytest_torchexport.judge import runner

REPORT = "--torchexport-report=json:out.json"

CUSTOM = """
import team_ops

class Doubles(nn.Module):
    def forward(self, x):
        return torch.ops.team_ops.double(x) + 1

@pytest.mark.torchexport('trace', 'export')
def test_net(): Doubles()(torch.randn(2, 3))
"""


def words(verdict):
    return "\n".join([verdict.reason, *verdict.details, str(verdict.where)])


# -- what serving imports --------------------------------------------------------------------------


def test_an_operator_that_only_the_test_imports_is_named_with_the_setting(
    suite, library, run, verdicts
):
    library("team_ops")
    suite(CUSTOM, fakes=False)
    result = run(REPORT)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["imports: *2 items*set torchexport_runtime_imports = team_ops"])
    found = verdicts()
    assert found.keys() == {"test_net[trace-cpu]", "test_net[export-cpu]"}
    for (verdict,) in found.values():
        assert verdict.failure == "LoadFailed"
        said = words(verdict)
        assert re.search(r"team_ops::double is registered at .*team_ops\.py:\d+", said)
        assert "add team_ops to torchexport_runtime_imports" in said
        assert verdict.imports == ("team_ops",)
        assert "not importable there: team_ops" in said


# -- other devices ---------------------------------------------------------------------------------

DEVICES = """
class Constant(nn.Module):
    def forward(self, x):
        y = x * 2
        return y + torch.arange(3, device=x.device)

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
def test_a_trace_that_is_tied_to_its_device_fails_with_the_line(served, run, verdicts, text_of):
    served("Constant", "trace")
    result = run(REPORT)
    result.assert_outcomes(failed=1)
    (verdict,) = verdicts()["test_net[trace-cpu]"]
    assert verdict.failure == "RoundTripDiffers"
    assert "it will not run on cuda" in verdict.reason
    assert verdict.where.text.endswith("return y + torch.arange(3, device=x.device)")
    assert re.match(r"test_it\.py:\d+  ", str(verdict.where))
    assert "  remedy   make it from an input" in text_of(result)


@WITHOUT_A_GPU
def test_what_follows_its_inputs_passes_and_says_what_was_not_checked(
    served, run, verdicts, text_of
):
    served("Follows", "trace")
    result = run(REPORT)
    result.assert_outcomes(passed=1)
    for (verdict,) in verdicts().values():
        assert any("not loaded on cuda" in said for said in verdict.ineffective)
    assert "not loaded on cuda, where it is to be served" in text_of(result)
    strict = run(REPORT, "--torchexport-strict")
    strict.assert_outcomes(failed=1)
    assert {verdict.failure for (verdict,) in verdicts().values()} == {"Ineffective"}


@pytest.mark.parametrize(
    ("checks", "flags", "warmed"),
    [
        ("", (), ["export", "trace"]),
        (", checks=['round_trip', 'state']", (), ["export", "trace"]),
        (", checks=['state']", (), []),
        ("", ("--collect-only",), []),
        ("", ("--torchexport-cache=verdicts",), []),
        ("", ("-k", "trace"), ["trace"]),
        ("", ("-k", "plain"), []),
    ],
)
def test_the_clean_process_starts_when_tests_that_need_it_are_collected(
    suite, run, monkeypatch, checks, flags, warmed
):
    suite(
        f"@pytest.mark.torchexport('trace', 'export'{checks})\n"
        "def test_net(): pytest.skip()\n"
        "def test_plain(): pass\n",
        fakes=False,
    )
    started = []
    monkeypatch.setattr(runner, "warm_up", started.append)
    run(*flags)
    assert started == warmed
