"""plugin/ini_and_flags.py: settings are read once, and a wrong value is a usage error that names its place."""

from __future__ import annotations

import pytest
from wrong_settings import WRONG_INI

from pytest_torchexport.config.settings import TABLE, Settings
from pytest_torchexport.config.validate import nearest
from pytest_torchexport.plugin import ini_and_flags


@pytest.fixture
def config_of(pytester):
    """Settings as pytest reads them from an ini file and a command line."""

    def make(*arguments, **ini):
        lines = "\n".join(f"torchexport_{name} = {value}" for name, value in ini.items())
        pytester.makeini(f"[pytest]\n{lines}\n")
        return ini_and_flags.read(pytester.parseconfig(*arguments))

    return make


def test_defaults_are_those_of_the_contract(config_of):
    found = config_of()
    assert found.settings == Settings()
    assert found.settings.targets == ("trace", "script", "export", "onnx")
    assert not found.targets_named
    assert found.active == ()


def test_an_ini_file_is_read(config_of):
    found = config_of(
        targets="trace onnx",
        devices="cpu cuda:1",
        max_examples="7",
        strict="true",
        report="json:a.json",
        time_limit="2.5",
        mode="train",
        runtime_imports="my.ops other",
        explore_calls="70",
        min_branch_coverage="62.5",
        follow="models my.layers",
    )
    assert found.settings.targets == ("trace", "onnx")
    assert found.targets_named
    assert found.settings.devices == ("cpu", "cuda:1")
    assert found.settings.max_examples == 7
    assert found.settings.strict
    assert found.settings.report == (("json", "a.json"),)
    assert found.settings.time_limit == 2.5
    assert found.settings.mode == "train"
    assert found.settings.runtime_imports == ("my.ops", "other")
    assert found.settings.explore_calls == 70
    assert found.settings.min_branch_coverage == 62.5
    assert found.settings.follow == ("models", "my.layers")


def test_targets_that_the_ini_names_are_named_even_if_they_are_the_default(config_of):
    assert config_of(targets="trace script export onnx").targets_named


def test_flags_are_read(config_of):
    found = config_of(
        "--torchexport-targets=trace,onnx",
        "--torchexport-devices=cpu",
        "--torchexport-max-examples=3",
        "--torchexport-strict",
        "--torchexport-report=json:x/y.json",
    )
    assert found.only_targets == ("trace", "onnx")
    assert found.only_devices == ("cpu",)
    assert found.exact_max_examples == 3
    assert found.settings.strict
    assert found.settings.report == (("json", "x/y.json"),)
    assert found.settings.targets == ("trace", "script", "export", "onnx")


def test_flags_may_be_repeated(config_of):
    found = config_of("--torchexport-targets=trace", "--torchexport-targets=onnx,trace")
    assert found.only_targets == ("trace", "onnx")
    assert config_of("--torchexport-targets=none").only_targets == ()


def test_the_flag_for_imports_takes_commas_and_wins_over_the_ini(config_of):
    found = config_of("--torchexport-runtime-imports=my.ops,boxes", runtime_imports="other")
    assert found.settings.runtime_imports == ("my.ops", "boxes")


def test_the_flag_for_reports_wins_over_the_ini(config_of):
    found = config_of("--torchexport-report=json:flag.json", report="json:ini.json")
    assert found.settings.report == (("json", "flag.json"),)


def test_flags_for_branches_win_over_the_ini(config_of):
    found = config_of(
        "--torchexport-explore-calls=1000",
        "--torchexport-min-branch-coverage=0",
        explore_calls="5",
        min_branch_coverage="90",
    )
    assert found.settings.explore_calls == 1000
    assert found.settings.min_branch_coverage == 0.0


def test_what_is_set_is_listed_for_the_header(config_of):
    found = config_of("--torchexport-targets=trace", max_examples="7")
    assert found.active == ("targets=trace", "max-examples=7")


@pytest.mark.parametrize(("name", "value", "parts"), WRONG_INI)
def test_a_wrong_ini_value_is_a_usage_error_with_what_is_legal(config_of, name, value, parts):
    with pytest.raises(pytest.UsageError) as caught:
        config_of(**{name: value})
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("flag", "parts"),
    [
        ("--torchexport-targets=onx", ["--torchexport-targets", "mean 'onnx'?"]),
        ("--torchexport-targets=", ["--torchexport-targets", "no target given"]),
        ("--torchexport-devices=tpu", ["--torchexport-devices", "'tpu' is not a device"]),
        ("--torchexport-max-examples=0", ["--torchexport-max-examples", "at least 1"]),
        ("--torchexport-explore-calls=-1", ["--torchexport-explore-calls", "at least 1"]),
        ("--torchexport-min-branch-coverage=200", ["min-branch-coverage", "from 0 to 100"]),
        ("--torchexport-report=x.json", ["--torchexport-report", "is not FORMAT:PATH"]),
    ],
)
def test_a_wrong_flag_is_a_usage_error_with_what_is_legal(config_of, flag, parts):
    with pytest.raises(pytest.UsageError) as caught:
        config_of(flag)
    for part in parts:
        assert part in str(caught.value)


def test_every_setting_has_a_wrong_value_above():
    assert {row.name for row in TABLE} == {name for name, _, _ in WRONG_INI}


def test_every_setting_says_what_it_is_and_what_is_legal():
    for row in TABLE:
        assert row.help.endswith(".")
        assert row.legal
        assert row.ini == f"torchexport_{row.name}"
        assert row.option.startswith("--torchexport-")
        assert "_" not in row.option


def test_the_nearest_name_is_offered_only_where_one_is_near():
    assert nearest("onx", ["onnx", "trace"]) == " Did you mean 'onnx'?"
    assert nearest("zzz", ["onnx"]) == ""
    assert nearest(3, ["onnx"]) == ""
    assert nearest("x", []) == ""
