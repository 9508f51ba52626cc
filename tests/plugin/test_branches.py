"""Branches as a user meets them: the report, the list, the gate, the files."""

from __future__ import annotations

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


def test_too_little_branch_coverage_fails_by_flag_and_by_ini(suite, run):
    suite(GATED, torchexport_min_branch_coverage="80")
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*branch coverage is 75.0 %, torchexport_min_branch_coverage asks for 80 %*",
            "*if x.cos().mean() > 1.5: True unreached*",
        ]
    )
    run("--torchexport-min-branch-coverage", "75").assert_outcomes(passed=1)
