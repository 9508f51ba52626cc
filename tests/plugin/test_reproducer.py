"""The files of a failure below pytest's rootdir."""

from __future__ import annotations

import pytest

BODY = """
class Scaled(nn.Module):
    def forward(self, x): return x * float(x.max())

@pytest.mark.torchexport('trace', checks=['parity'], max_examples=5)
@pytest.mark.parametrize('name', ['plain', 'a/b c' + 'ü' * 200], ids=str)
def test_net(name): Scaled()(torch.ones(2, 3))
"""
ONE = BODY.replace(", 'a/b c' + 'ü' * 200", "")


def directories(pytester):
    kept = pytester.path / ".torchexport"
    return sorted(path for path in kept.iterdir() if path.is_dir()) if kept.is_dir() else []


def test_each_failure_has_its_files(suite, run, pytester, text_of):
    suite(BODY, fakes=False)
    result = run("-v")
    result.assert_outcomes(failed=2)
    found = directories(pytester)
    assert len(found) == 2
    for directory in found:
        assert {
            "reproduce.py",
            "verdict.json",
            "graph.txt",
            "call.pt",
        } < {path.name for path in directory.iterdir()}
        assert f"script   .torchexport/{directory.name}/reproduce.py" in text_of(result)
        texts = [
            path.read_text()
            for path in directory.iterdir()
            if path.suffix in (".py", ".md", ".txt", ".json")
        ]
        assert not any(str(pytester.path) in text for text in texts)
    assert (pytester.path / ".torchexport" / ".gitignore").read_text() == "*\n"


def test_a_replay_runs_the_tests_of_stored_failures_and_changes_no_files(
    suite, run, pytester, text_of
):
    said = "torchexport: {} of 2 stored failures are in this selection"
    suite(BODY, fakes=False)
    run().assert_outcomes(failed=2)
    before = directories(pytester)
    result = run("--torchexport-replay")
    result.assert_outcomes(failed=2)
    assert said.format(2) in text_of(result)
    assert directories(pytester) == before
    assert said.format(1) in text_of(run("--torchexport-replay", ".torchexport", "-k", "plain"))
    assert said.format(0) in text_of(run("-k", "other", "--torchexport-replay"))
    one = str(before[0].relative_to(pytester.path))
    for changed, outcome in (("x + float(x.max())", "failed"), ("x * x.max()", "passed")):
        suite(BODY.replace("x * float(x.max())", changed), fakes=False)
        run("--torchexport-replay", one).assert_outcomes(**{outcome: 1}, deselected=1)


def test_a_path_that_cannot_be_replayed_is_a_usage_error(suite, run, pytester):
    suite("def test_one(): pass", fakes=False)
    (pytester.path / "torn").mkdir()
    (pytester.path / "torn" / "verdict.json").write_text("{")
    for path, said in (
        ("gone", "no verdict.json lies in gone. Legal: .torchexport, or the directory of one"),
        ("test_it.py", "no verdict.json lies in test_it.py"),
        ("torn", "Next step: run the test again"),
    ):
        result = run("--torchexport-replay", path)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*--torchexport-replay: *{said}*"])


def test_a_directory_that_cannot_be_written_is_a_note(suite, run, pytester, text_of):
    suite(ONE, fakes=False)
    (pytester.path / ".torchexport").write_text("a file")
    result = run("-v")
    result.assert_outcomes(failed=1)
    assert "subject  Scaled on trace-cpu: outputs differ from eager" in text_of(result)
    assert "not kept of this failure: any file in" in text_of(result)


def test_an_expected_failure_is_neither_diagnosed_nor_kept(suite, run, pytester, verdicts):
    expecting = ONE.replace(
        "max_examples=5", "max_examples=5, xfail={'trace': pytest_torchexport.OutputsDiffer}"
    )
    suite(f"import pytest_torchexport\n{expecting}", fakes=False)
    for flags, causes, outcome in (
        ((), [], "xfailed"),
        (("--runxfail",), ["baked value"], "failed"),
    ):
        run("--torchexport-report=json:out.json", *flags).assert_outcomes(**{outcome: 1})
        ((verdict,),) = verdicts().values()
        assert verdict.failure == "OutputsDiffer"
        assert [cause.kind for cause in verdict.diagnosis.causes] == causes
        assert len(directories(pytester)) == len(causes)
