"""The files of a failure below pytest's rootdir."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

BODY = """
class Scaled(nn.Module):
    def forward(self, x): return x * float(x.max())

@pytest.mark.torchexport('trace', checks=['parity'], max_examples=5)
@pytest.mark.parametrize('name', ['plain', 'a/b c', 'ü' * 200], ids=str)
def test_net(name): Scaled()(torch.ones(2, 3))
"""
ONE = BODY.replace(", 'a/b c', 'ü' * 200", "")


def directories(pytester):
    kept = pytester.path / ".torchexport"
    return sorted(path for path in kept.iterdir() if path.is_dir()) if kept.is_dir() else []


def test_each_failure_has_its_files(suite, run, pytester, text_of):
    suite(BODY, fakes=False)
    result = run()
    result.assert_outcomes(failed=3)
    found = directories(pytester)
    assert len(found) == 3
    for directory in found:
        assert {
            "reproduce.py",
            "issue.md",
            "verdict.json",
            "graph.txt",
            "call.npz",
            "eager.npz",
            "artifact.npz",
        } < {path.name for path in directory.iterdir()}
        assert f"script   .torchexport/{directory.name}/reproduce.py" in text_of(result)
        texts = [
            path.read_text()
            for path in directory.iterdir()
            if path.suffix in (".py", ".md", ".txt", ".json")
        ]
        assert not any(str(pytester.path) in text for text in texts)
    assert (pytester.path / ".torchexport" / ".gitignore").read_text() == "*\n"
    script = [sys.executable, "-P", str(found[0] / "reproduce.py")]
    shown = subprocess.run(script, capture_output=True, text=True, cwd="/", check=False)
    assert shown.returncode == 1, shown.stderr
    assert "The failure is there." in shown.stdout


def test_the_next_run_replaces_them(suite, run, pytester):
    suite(ONE, fakes=False)
    run()
    (before,) = directories(pytester)
    (before / "of the last run").write_text("")
    run()
    assert directories(pytester) == [before]
    assert not (before / "of the last run").exists()
    suite(ONE.replace("float(x.max())", "x.max()"), fakes=False)
    run().assert_outcomes(passed=1)
    assert directories(pytester) == []


def test_zero_megabytes_write_nothing(suite, run, pytester, text_of):
    suite(ONE, fakes=False)
    result = run("--torchexport-reproducer-limit", "0")
    result.assert_outcomes(failed=1)
    assert not (pytester.path / ".torchexport").exists()
    assert "script " not in text_of(result)


def test_an_artifact_that_is_too_large_is_left_out_with_a_note(suite, run, pytester, text_of):
    large = ONE.replace(
        "forward(self, x):",
        "__init__(self): super().__init__(); self.w = nn.Parameter(torch.ones(2**19))\n    def forward(self, x):",
    )
    suite(large, fakes=False, torchexport_reproducer_limit="1")
    result = run()
    assert (
        "not kept of this failure: the artifact: it takes 2 MB, more than torchexport_reproducer_limit = 1"
        in text_of(result)
    )
    (directory,) = directories(pytester)
    assert sorted(path.name for path in directory.iterdir()) == [
        "graph.txt",
        "issue.md",
        "verdict.json",
    ]


@pytest.mark.skipif(os.name != "posix", reason="a file in the place of a directory")
def test_a_directory_that_cannot_be_written_is_a_note(suite, run, pytester, text_of):
    suite(ONE, fakes=False)
    (pytester.path / ".torchexport").write_text("a file")
    result = run()
    result.assert_outcomes(failed=1)
    assert "subject  Scaled on trace-cpu: outputs differ from eager" in text_of(result)
    assert "not kept of this failure: any file in" in text_of(result)


def test_with_xdist_each_worker_writes_its_own(suite, run_apart, pytester):
    suite(BODY, fakes=False)
    run_apart("-n", "2").assert_outcomes(failed=3)
    assert len(directories(pytester)) == 3
    assert not [
        path for path in (pytester.path / ".torchexport").iterdir() if path.name.startswith(".half")
    ]
