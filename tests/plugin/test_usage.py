"""What a suite sees that does not use the plugin, and its help."""

from __future__ import annotations


def test_the_help_lists_every_setting(suite, run, text_of):
    suite("def test_plain(): pass\n", fakes=False)
    text = text_of(run("--help"))
    from pytest_torchexport.config.settings import TABLE

    for row in TABLE:
        assert row.ini in text
        assert row.option in text
    assert "torchexport(" in text_of(run("--markers"))


def test_an_unrelated_suite_sees_nothing(suite, run):
    suite("def test_plain(): pass\n", fakes=False, torchexport_max_examples=None)
    result = run("-v", "--strict-markers")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*= torchexport =*")
    result.stdout.no_fnmatch_line("torchexport:*")
