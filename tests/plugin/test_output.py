"""The output that a person reads: failures, the header, the table, -q and -v."""

from __future__ import annotations

import json

import pytest

LIAR = """
@pytest.mark.torchexport('liar', 'mirror')
def test_net(x): Net()(x)
"""


def test_the_short_summary_has_the_first_line_alone_in_ci_too(suite, run, text_of, monkeypatch):
    """pytest shortens no text there, and repeats all of one that is a str."""
    suite(LIAR)
    monkeypatch.setenv("CI", "1")
    text = text_of(run("-rA"))
    _, _, short = text.partition("short test summary info")
    assert "FAILED test_it.py::test_net[liar-cpu] - OutputsDiffer: output: 2 of 2" in short
    assert "subject" not in short
    assert "subject  Net on liar-cpu" in text
    (line,) = [each for each in run("--tb=line").outlines if "OutputsDiffer" in each][:1]
    assert line.endswith("OutputsDiffer: output: 2 of 2 elements of float32[1, 2] differ")


def test_a_report_has_at_most_15_lines_and_all_of_them_with_v(suite, run):
    suite(
        "class Many(nn.Module):\n"
        "    def forward(self, x):\n"
        "        if x.sum() > 0:\n"
        "            return x.exp().sin() + 1, x.cos().log1p(), -x, x.tan()\n"
        "        return x - 1, x - 2, x - 3, x - 4\n"
        "@pytest.mark.torchexport('trace')\n"
        "def test_net(): Many()(torch.ones(2, 3))\n"
    )

    def report(*flags):
        lines = run("-p", "no:cacheprovider", *flags).outlines
        start = next(n for n, line in enumerate(lines) if line.startswith("BranchFrozen: "))
        end = next(n for n, line in enumerate(lines) if line.startswith("  rerun "))
        return lines[start : end + 1]

    short, whole = report(), report("-v")
    assert len(short) == 15 < len(whole)
    assert short[-2].startswith(f"  more     {len(whole) + 1 - len(short)} lines with -v: details")
    assert [line for line in short[:-2] if line not in whole] == []


ALIKE = """
@pytest.mark.torchexport('mirror', 'liar', shapes={'z': 'batch 3'})
def test_spec(): Net()(torch.zeros(2, 3))

@pytest.mark.torchexport('mirror', 'liar')
@pytest.mark.parametrize('limit', [2, 3])
def test_body(limit):
    Net()(torch.zeros(2, 3))
    print('said at', limit)
    assert torch.rand(()) > limit, 'too small'

@pytest.fixture
def broken(): raise KeyError('not there')

@pytest.mark.torchexport('mirror', 'liar')
def test_fixture(broken): pass

@pytest.mark.torchexport('mirror', 'liar')
def test_nothing(): pass
"""


def test_a_failure_that_no_target_is_to_blame_for_is_printed_once(suite, run, text_of, pytester):
    suite(ALIKE)
    result = run("--torchexport-report=json:report.json", "--junitxml=report.xml")
    result.assert_outcomes(failed=8, errors=2)
    text = text_of(result)
    for once in ("  reason   shapes: 'z' is", "said at 2", "said at 3", ">   def broken"):
        assert text.count(once) == 1, once
    assert text.count("  rerun ") == 2  # those of test_spec and test_nothing
    assert text.count("as on mirror-cpu, above") == text.count("-- the same on --") == 5
    assert text.count("\nliar-cpu\n") == 5
    assert text.count("\nFAILED test_it.py::test_spec[") == 2
    reported = json.loads((pytester.path / "report.json").read_text())["items"]
    assert len(reported) == 10
    assert (pytester.path / "report.xml").read_text().count("too small") >= 4


@pytest.mark.parametrize("flags", [(), ("-q",), ("-v",)], ids=" ".join)
def test_with_durations_the_slowest_items_name_their_longest_stage(suite, run, flags):
    suite("@pytest.mark.torchexport('mirror')\ndef test_net(): Net()(torch.ones(1, 3))\n")
    (line,) = [each for each in run("--durations=1", *flags).outlines if "slowest: " in each]
    assert line.startswith("slowest: test_it.py::test_net[mirror-cpu] ")
    assert not [each for each in run(*flags).outlines if "slowest: " in each]
