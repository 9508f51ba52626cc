"""--torchexport-ship: each artifact that passed lies in a directory of its own, beside what was judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_torchexport.results import manifest

SUITE = """
class Net(nn.Module):
    def forward(self, x):
        return x + BRANCH

@pytest.mark.torchexport('trace')
def test_net():
    Net()(torch.ones(2, 3))
    nn.ReLU()(torch.ones(2, 3))

@pytest.mark.torchexport('trace')
def test_fixture(torchexport):
    torchexport.check(Net(), torch.ones(2, 3))
    torchexport.check(Net(), torch.ones(4, 3))
"""


def test_a_place_where_nothing_can_be_written_is_told_before_the_run(suite, run, pytester):
    suite(SUITE, fakes=False)
    (pytester.path / "file").write_text("")
    for flag in ("--torchexport-ship=file", "--torchexport-ship=file/below"):
        result = run(flag)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["ERROR: torchexport_ship: 'file*"])


def test_what_passed_is_shipped_and_what_did_not_is_removed(suite, run, pytester):
    def shipped():
        folder = pytester.path / "ship"
        found = {
            mark.parent.relative_to(folder).as_posix(): mark for mark in folder.rglob(manifest.NAME)
        }
        for mark in found.values():
            judged = manifest.read(mark.read_text())
            assert judged.files == manifest.files_in(Path(mark.parent))
        return sorted(found)

    flags = ("--torchexport-ship=ship", "--torchexport-max-examples=2")
    suite(SUITE.replace("BRANCH", "1"), fakes=False)
    run(*flags).assert_outcomes(passed=2)
    names = ("test_fixture-trace-cpu/Net", "test_fixture-trace-cpu/Net-2")
    names += ("test_net-trace-cpu/Net", "test_net-trace-cpu/ReLU")
    assert shipped() == [f"test_it.py-{name}" for name in names]
    suite(SUITE.replace("BRANCH", "(1 if x.sum() > 0 else 2)"), fakes=False)
    run(*flags).assert_outcomes(failed=2)
    assert shipped() == ["test_it.py-test_net-trace-cpu/ReLU"]
