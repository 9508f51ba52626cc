"""Branches as a user meets them: the report, the list, the gate, the files."""

from __future__ import annotations

import json

GATED = """
class Gated(nn.Module):
    def forward(self, x):
        if x.sum() > 3:
            return x * 2
        if x.cos().mean() > 1.5:
            return x * 3
        return x
@pytest.mark.torchexport('script')
def test_gated(): Gated()(torch.full((2, 3), 0.1))
"""
FROZEN = """
class Frozen(nn.Module):
    def forward(self, x):
        if x.sum() > 3:
            return x * 2
        return x
@pytest.mark.torchexport('trace')
def test_frozen(): Frozen()(torch.full((2, 3), 0.1))
"""


def text_of(result):
    return result.stdout.str()


def test_a_frozen_branch_is_told_with_its_line_and_a_call(suite, run):
    suite(FROZEN)
    result = run("-v", "--hypothesis-seed=1")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "  subject  Frozen on trace-cpu: a branch is frozen",
            "  reason   the artifact has no branch for x.sum() > 3, and eager takes True*",
            "*so outputs differ from eager",
            "*exported at this call, it agrees with eager",
            "  call     x=float32*",
            "  where    test_it.py:*  if x.sum() > 3:",
            "  branch   test_it.py:*eager took *in the search; the artifact has no branch there",
        ]
    )


def test_verbose_lists_the_outcomes_of_each_condition(suite, run):
    suite(GATED)
    result = run("-v", "--hypothesis-seed=1")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "  branches 75 % of the outcomes that inputs steer to were taken",
            "*if x.sum() > 3:    *True *x verified, False *x verified",
            "*if x.cos().mean() > 1.5:    *True unreached, False *x verified",
        ]
    )


def test_too_little_branch_coverage_fails_by_flag_and_by_ini(suite, run):
    suite(GATED)
    result = run("--torchexport-min-branch-coverage", "80")
    result.assert_outcomes(failed=1)
    assert "branch coverage is 75.0 %, torchexport_min_branch_coverage asks for 80 %" in text_of(
        result
    )
    assert "if x.cos().mean() > 1.5: True unreached" in text_of(result)
    suite(GATED, torchexport_min_branch_coverage="80")
    run().assert_outcomes(failed=1)
    run("--torchexport-min-branch-coverage", "75").assert_outcomes(passed=1)


def test_the_check_can_be_left_out(suite, run):
    suite(GATED.replace("'script'", "'script', checks=['parity']"))
    result = run("-v", "--torchexport-min-branch-coverage", "80")
    result.assert_outcomes(passed=1)
    assert "branches " not in text_of(result)


def test_json_holds_the_branches(suite, run, pytester):
    suite(FROZEN)
    run("--torchexport-report", "json:out.json")
    data = json.loads((pytester.path / "out.json").read_text())
    (verdict,) = data["items"][0]["verdicts"]
    (branch,) = verdict["branches"]
    assert branch["status"] == {"True": "diverges", "False": "verified"}
    assert branch["in_artifact"] is False
    assert verdict["branch_coverage"] == 100.0
    assert verdict["calls"]["explored"] >= 1
