"""What a suite sees that does not use the plugin, and its help."""

from __future__ import annotations

import pytest

from pytest_torchexport.plugin import items


def test_the_help_has_a_line_for_each_setting_and_is_short(suite, run, text_of, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    suite("def test_plain(): pass\n", fakes=False)
    text = text_of(run("--help"))
    from pytest_torchexport.config.settings import TABLE

    for row in TABLE:
        assert f"\n  {row.ini} (" in text
        assert row.option in text
        assert f" {row.short}\n" in text
    without = run("--help", "-p", "no:torchexport", "-o", "addopts=")
    assert text.count("\n") - text_of(without).count("\n") <= 90
    assert "torchexport(" in text_of(run("--markers"))


def test_an_unrelated_suite_sees_nothing(suite, run):
    suite("def test_plain(): pass\n", fakes=False, torchexport_max_examples=None)
    result = run("-v", "--strict-markers")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*= torchexport =*")
    result.stdout.no_fnmatch_line("torchexport:*")


WITHOUT_TORCH = """
import sys
from importlib.machinery import PathFinder

class WithoutTorch(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == "torch" else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutTorch
"""


def test_a_marked_test_without_torch_says_what_to_install(pytester):
    pytester.makeconftest(WITHOUT_TORCH)
    pytester.makepyfile(
        test_plain="def test_plain(): pass",
        test_net="import pytest\n@pytest.mark.torchexport\ndef test_net(): pass",
    )
    result = pytester.runpytest_subprocess("test_net.py", "-p", "no:jaxtyping")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    said = "test_net.py::test_net: torch is not installed: pip install 'pytest-torchexport[torch]'"
    result.stdout.fnmatch_lines([said.replace("[", "[[]")])
    result.stdout.no_fnmatch_line("*Traceback*")
    pytester.runpytest_subprocess("test_plain.py", "-p", "no:jaxtyping").assert_outcomes(passed=1)


def test_an_older_torch_than_is_declared_is_named(suite, run, monkeypatch):
    monkeypatch.setattr(items.metadata, "version", lambda _: "2.8.1+cpu")
    items.torch_missing.cache_clear()
    suite("@pytest.mark.torchexport\ndef test_net(): pass", fakes=False)
    said = "torch 2.8.1+cpu is too old: pip install 'pytest-torchexport[[]torch]'"
    run().stdout.fnmatch_lines([f"*{said}"])
    run("--torchexport-survey").stderr.fnmatch_lines([f"ERROR: {said}"])
    items.torch_missing.cache_clear()


def test_an_interpreter_that_is_not_there_ends_the_run(suite, run):
    suite("def test_plain(): pass", fakes=False)
    result = run("--torchexport-serve-on=envs/none/bin/python")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: torchexport_serve_on: there is no file 'envs/none/bin/python'*"]
    )
