"""--torchexport-cache: an unchanged test is not checked again, and the summary says so."""

from __future__ import annotations

REPORT = "--torchexport-report=json:out.json"
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


def test_an_unchanged_model_is_judged_once(suite, run, pytester, verdicts):
    suite(SUITE, fakes=False, torchexport_cache="kept/verdicts", torchexport_max_examples=2)
    pytester.makepyfile(model=MODEL.format(1))
    result = run(REPORT)
    (first,) = verdicts()["test_net[trace-cpu]"]
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["unchanged: 0 of 1 passes (torchexport_cache); 1 new or changed since, *seed torch*"]
    )
    result = run("-v", REPORT)
    (second,) = verdicts()["test_net[trace-cpu]"]
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "unchanged: 1 of 1 passes, the oldest of 20??-??-?? (torchexport_cache)",
            "*cache * unchanged since 20??-??-??: not checked again",
        ]
    )
    assert second.calls == first.calls
    assert second.unchanged_since
    assert run("-q").outlines[-2].startswith("unchanged: 1 of 1 passes")
    assert not any(line.startswith("unchanged") for line in run("-qq").outlines)
    pytester.makepyfile(model=MODEL.format(2))
    result = run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["unchanged: 0 of 1 *"])
