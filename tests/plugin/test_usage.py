"""Wrong settings: a message that says what is legal, exit code 4, and never a traceback."""

from __future__ import annotations

from wrong_settings import WRONG_INI


def test_wrong_settings_are_usage_errors(suite, run, text_of):
    for name, value, parts in WRONG_INI[::9]:  # each of them: unit/plugin/test_items.py
        suite("def test_plain(): pass\n", fakes=False, **{f"torchexport_{name}": value})
        result = run()
        text = text_of(result)
        assert result.ret == 4, (name, value, text)
        for part in parts:
            assert part in text, (name, value, text)
        assert "Traceback" not in text
        assert "INTERNALERROR" not in text


def test_the_help_lists_every_setting(suite, run, text_of):
    suite("def test_plain(): pass\n", fakes=False)
    text = text_of(run("--help"))
    from pytest_torchexport.config.settings import TABLE

    for row in TABLE:
        assert row.ini in text
        assert row.option in text
    assert "torchexport(" in text_of(run("--markers"))


def test_an_unrelated_suite_sees_nothing(suite, run):
    suite(
        "import unittest\n"
        "def test_plain(): pass\n"
        "class TestCase(unittest.TestCase):\n"
        "    def test_method(self): pass\n",
        fakes=False,
        torchexport_max_examples=None,
    )
    result = run("-v", "--strict-markers")
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*= torchexport =*")
    result.stdout.no_fnmatch_line("torchexport:*")
