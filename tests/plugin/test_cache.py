"""--torchexport-cache: an unchanged test is not checked again, and the summary says so."""

from __future__ import annotations

import json

import pytest

SUITE = """
from model import Net

@pytest.mark.torchexport('trace', checks=('parity',))
def test_net():
    torch.manual_seed(0)
    Net()(torch.ones(2, 3))
"""
MODEL = """
import torch

class Net(torch.nn.Module):
    def forward(self, x):
        return x + {0}
"""


def test_an_unchanged_model_is_judged_once(suite, run, pytester):
    suite(SUITE, fakes=False, torchexport_cache="kept/verdicts", torchexport_max_examples=2)
    pytester.makepyfile(model=MODEL.format(1))
    result = run("--torchexport-report=json:first.json")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["unchanged: 0 of 1 passes (torchexport_cache); 1 new or changed since, *seed torch*"]
    )
    result = run("-v", "--torchexport-report=json:second.json")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "unchanged: 1 of 1 passes, the oldest of 20??-??-?? (torchexport_cache)",
            "*cache * unchanged since 20??-??-??: not checked again",
        ]
    )
    first, second = (
        json.loads((pytester.path / name).read_text())["items"][0]["verdicts"][0]
        for name in ("first.json", "second.json")
    )
    assert second["calls"] == first["calls"]
    assert second["unchanged_since"]
    assert run("-q").outlines[-2].startswith("unchanged: 1 of 1 passes")
    assert not any(line.startswith("unchanged") for line in run("-qq").outlines)
    pytester.makepyfile(model=MODEL.format(2))
    result = run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["unchanged: 0 of 1 *"])


ARTIFACT = """
from model import Net

@pytest.mark.torchexport('trace', checks=('parity',))
def test_file(torchexport):
    torchexport.check_artifact(Net(), Net(), torch.ones(2, 3))
"""
ANEW = "with torchexport_max_slowdown, artifacts are made each time"
GIVEN = "what check_artifact is given is checked each time"


@pytest.mark.parametrize(
    ("body", "flags", "reason"),
    [(ARTIFACT, (), GIVEN), (SUITE, ("--torchexport-max-slowdown=inf",), ANEW)],
)
def test_a_verdict_that_is_never_kept_says_why(suite, run, pytester, body, flags, reason):
    suite(body, fakes=False, torchexport_cache="verdicts", torchexport_max_examples=2)
    pytester.makepyfile(model=MODEL.format(1))
    for _ in range(2):
        result = run("-v", *flags)
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines(
            [
                f"unchanged: 0 of 1 passes (torchexport_cache); 1 never kept: {reason}",
                f"*cache * not kept: {reason}",
            ]
        )


def test_a_change_of_a_plugin_that_pytest_loads_checks_again(suite, run, pytester):
    suite(SUITE, fakes=False, torchexport_cache="kept/verdicts", torchexport_max_examples=2)
    pytester.makepyfile(model=MODEL.format(1))
    pytester.syspathinsert()
    for level, unchanged in ((1, 0), (1, 1), (2, 0)):
        pytester.makepyfile(kept_plugin=f"LEVEL = {level}")
        result = run("-p", "kept_plugin")
        result.stdout.fnmatch_lines([f"unchanged: {unchanged} of 1 *"])
