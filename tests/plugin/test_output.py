"""The output that a person reads: failures, the header, the table, -q and -v."""

from __future__ import annotations

import json
import re

import pytest
from slow import slow

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


def test_a_report_has_at_most_12_lines_and_all_of_them_with_v(suite, run):
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
    assert len(short) == 12 < len(whole)
    assert short[-2].startswith("  more     11 lines with -v: differs, details, branch")
    # Lines of more than 120 columns are two here.
    unbroken = " ".join(" ".join(whole).split())
    assert [line for line in short[:-2] if " ".join(line.split()) not in unbroken] == []
    assert max(map(len, short[:-1])) <= 120 < max(map(len, whole))
    labels = [line.split()[0] for line in short[1:]]
    assert labels[:4] == ["subject", "cause", "remedy", "where"]


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
    for test in ("spec", "body[mirror-cpu-2]", "body[mirror-cpu-3]", "fixture", "nothing"):
        name = test if "[" in test else f"{test}[mirror-cpu]"
        assert text.count(f"  same     as on test_it.py::test_{name}, above\n") == 1, test
    assert text.count("\nFAILED test_it.py::test_spec[") == 2
    reported = json.loads((pytester.path / "report.json").read_text())["items"]
    assert len(reported) == 10
    assert (pytester.path / "report.xml").read_text().count("too small") >= 4


FROZEN = """
class Halves(nn.Module):
    def forward(self, x): return x.reshape(int(x.shape[0]), -1).mul(len(x))
@pytest.mark.torchexport('trace')
def test_net(): Halves()(torch.ones(2, 3))
@pytest.mark.torchexport('trace')
def test_sequence(): nn.Sequential(nn.ReLU(), Halves())(torch.ones(2, 3))
@pytest.mark.torchexport('trace')
def test_other(): Other()(torch.ones(2, 3))
class Other(nn.Module):
    def forward(self, x): return x * len(x)
"""


def told(result):
    """The lines below each heading of a failed item, by its name."""
    text = (
        "\n".join(result.outlines)
        .partition("= short test summary")[0]
        .partition("\n====== torchexport")[0]
    )
    _, *parts = re.split(r"^_{3,} (test_\S+) _{3,}$", text, flags=re.MULTILINE)
    return {
        name: body.strip().splitlines() for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


def test_the_items_of_one_cause_have_one_block_across_tests(suite, run):
    suite(FROZEN)
    found = told(run("-q"))
    first, second = found["test_net[trace-cpu]"], found["test_sequence[trace-cpu]"]
    assert first[0].startswith("ArtifactRaised: batch is frozen at 2: def forward(self, x): ")
    assert any(line.startswith("  remedy ") for line in first)
    assert second[:2] == [first[0], "  same     as on test_it.py::test_net[trace-cpu], above"]
    assert (
        second[-1] == '  rerun    pytest "test_it.py::test_sequence[trace-cpu]" --hypothesis-seed=1'
    )
    assert len(second) <= 4
    assert len(found["test_other[trace-cpu]"]) > 8  # another line
    assert all(len(lines) > 8 for lines in told(run("-v")).values())  # in full


@slow
def test_with_xdist_the_controller_finds_the_items_of_one_cause(suite, run_apart):
    suite(FROZEN)
    lengths = sorted(len(lines) for lines in told(run_apart("-q", "-n", "2")).values())
    assert lengths[0] <= 5  # with that of xdist
    assert lengths[1] > 8


@pytest.mark.parametrize("flags", [(), ("-q",), ("-v",)], ids=" ".join)
def test_with_durations_the_slowest_items_name_their_longest_stage(suite, run, flags):
    suite("@pytest.mark.torchexport('mirror')\ndef test_net(): Net()(torch.ones(1, 3))\n")
    (line,) = [each for each in run("--durations=1", *flags).outlines if "slowest: " in each]
    assert line.startswith("slowest: test_it.py::test_net[mirror-cpu] ")
    assert not [each for each in run(*flags).outlines if "slowest: " in each]


def test_the_result_of_a_self_test_is_printed_with_q_too(suite, run, text_of):
    suite("@pytest.mark.torchexport('mirror')\ndef test_net(): Net()(torch.ones(1, 3))\n")
    for flags in (("-q",), ()):
        assert "\nself-test: " in text_of(run("--torchexport-self-test", *flags))


def test_a_green_run_has_at_most_a_line_of_what_was_not_covered(suite, run, text_of):
    suite("@pytest.mark.torchexport('trace')\ndef test_net(): nn.Linear(3, 2)(torch.ones(1, 3))\n")
    (line,) = [line for line in run().outlines if line.startswith("not covered: ")]
    assert line == "not covered: sizes or values in 1 of 1 item: which ones, with -v"
    assert text_of(run("-v")).count("\nnot covered: ") > 1
