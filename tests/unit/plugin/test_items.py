"""plugin/items.py: settings are read once, and a wrong value is a usage error that names its place."""

from __future__ import annotations

import math

import pytest

from pytest_torchexport.config.settings import TABLE, Settings
from pytest_torchexport.plugin.items import read_configuration


@pytest.fixture
def config_of(pytester):
    """Settings as pytest reads them from an ini file and a command line."""

    def make(*arguments, **ini):
        lines = "\n".join(f"torchexport_{name} = {value}" for name, value in ini.items())
        pytester.makeini(f"[pytest]\n{lines}\n")
        return read_configuration(pytester.parseconfig(*arguments))

    return make


def test_defaults_are_those_of_the_contract(config_of):
    found = config_of()
    assert found.settings == Settings()
    assert found.settings.targets == ("trace", "script", "export", "onnx")
    assert not found.targets_named
    assert found.active == ()


# A setting, its text in the ini file and on the command line, and what each means.
LEGAL = [
    ("max_examples", "7", "9", 7, 9),
    ("report", "json:a.json", "json:b.json", (("json", "a.json"),), (("json", "b.json"),)),
    ("strict", "true", None, True, True),
    ("time_limit", "2.5", "3", 2.5, 3.0),
    ("mode", "train", "as-is", "train", "as-is"),
    ("follow", "models my.layers", "my.ops,boxes", ("models", "my.layers"), ("my.ops", "boxes")),
    ("memory_limit", "auto", "512", None, 512),
    ("max_slowdown", "1.5", "inf", 1.5, math.inf),
    ("cache", ".kept", "none", ".kept", ""),
    ("ship", "none", "dist", "", "dist"),
    ("shard", "1/2", "2/2", "1/2", "2/2"),
]


@pytest.mark.parametrize(("name", "ini", "flag", "of_ini", "of_flag"), LEGAL)
def test_the_command_line_wins_over_the_ini_file(config_of, name, ini, flag, of_ini, of_flag):
    assert getattr(config_of(**{name: ini}).settings, name) == of_ini
    option = f"--torchexport-{name.replace('_', '-')}"
    argument = option if flag is None else f"{option}={flag}"
    # Some flags narrow or go before markers too: they have a field of their own.
    found = config_of(argument, **{name: ini})
    read = found.exact_max_examples if name == "max_examples" else getattr(found.settings, name)
    assert read == of_flag
    assert len(found.active) == 1


def test_flags_for_targets_and_devices_narrow(config_of):
    found = config_of(
        "--torchexport-targets=trace,onnx",
        "--torchexport-targets=script",
        "--torchexport-devices=cuda:1",
        targets="trace script",
        devices="cpu",
        max_examples="7",
    )
    assert found.settings.targets == ("trace", "script")
    assert found.targets_named
    assert found.settings.devices == ("cpu",)
    assert found.only_targets == ("trace", "onnx", "script")
    assert found.only_devices == ("cuda:1",)
    # What is set, for the header.
    assert found.active == ("targets=trace,onnx,script", "devices=cuda:1", "max-examples=7")
    assert config_of("--torchexport-targets=none").only_targets == ()


# Wrong values of every setting, and what the message must hold.
WRONG_INI = [
    ("targets", "onx", ["torchexport_targets", "'onx' is not a target", "mean 'onnx'?"]),
    ("targets", "", ["torchexport_targets", "no target given"]),
    ("devices", "gpu", ["torchexport_devices", "'gpu' is not a device", "cpu, cuda, cuda:N"]),
    ("max_examples", "0", ["torchexport_max_examples", "whole number of at least 1"]),
    ("min_branch_coverage", "101", ["torchexport_min_branch_coverage", "from 0 to 100"]),
    ("min_branch_coverage", "nan", ["torchexport_min_branch_coverage", "from 0 to 100"]),
    ("follow", "my-models", ["torchexport_follow", "'my-models' is not the name"]),
    ("strict", "perhaps", ["torchexport_strict", "Legal: true, false"]),
    ("self_test", "perhaps", ["torchexport_self_test", "Legal: true, false"]),
    ("report", "html", ["torchexport_report", "'html' is not FORMAT:PATH"]),
    ("report", "json:", ["torchexport_report", "'json:' is not FORMAT:PATH"]),
    ("report", "json:x html:x", ["torchexport_report", "two reports have the path 'x'"]),
    ("report", "jsn:x", ["torchexport_report", "legal formats: ", "mean 'json'?"]),
    ("known", "add", ["'add' is not a verb for known failures; legal: check, create, tighten"]),
    ("known", "creat", ["torchexport_known", "mean 'create'?"]),
    ("known", "create", ["--torchexport-known=create", "--torchexport-known-reason='...'"]),
    ("known_reason", "", ["torchexport_known_reason", "it is empty"]),
    ("shard", "5/4", ["torchexport_shard", "'5/4' is not legal", "K/N, for example 2/4"]),
    ("shard", "2", ["torchexport_shard", "'2' is not legal"]),
    ("ship", "", ["torchexport_ship", "it is empty"]),
    ("time_limit", "0", ["torchexport_time_limit", "positive number of seconds"]),
    ("time_limit", "inf", ["torchexport_time_limit", "positive number of seconds"]),
    ("time_limit", "soon", ["torchexport_time_limit", "positive number of seconds"]),
    ("isolate", "perhaps", ["torchexport_isolate", "Legal: true, false"]),
    ("memory_limit", "0", ["torchexport_memory_limit", "whole number of at least 1"]),
    ("memory_limit", "2GB", ["torchexport_memory_limit", "a whole number of megabytes, or auto"]),
    (
        "max_size_ratio",
        "-1",
        ["torchexport_max_size_ratio", "'-1' is not legal. Legal: a positive number"],
    ),
    (
        "max_slowdown",
        "nan",
        ["torchexport_max_slowdown", "'nan' is not legal. Legal: a positive number"],
    ),
    ("max_slowdown", "2x", ["torchexport_max_slowdown", "0 does not measure"]),
    ("cache", "", ["torchexport_cache", "it is empty"]),
    ("serve_on", "gpu", ["torchexport_serve_on", "cpu, cuda, cuda:N, cpp", "mean 'cuda'?"]),
    ("serve_on", "c++", ["'c++' is not a device; legal: cpu, cuda, cuda:N, cpp", "mean 'cpp'?"]),
    ("threads", "0", ["torchexport_threads", "whole number of at least 1"]),
    (
        "threads",
        "1025",
        ["torchexport_threads", "'1025' is not a whole number of at least 1 and at most 1024"],
    ),
    ("mode", "evall", ["torchexport_mode", "legal: eval, train, as-is", "mean 'eval'?"]),
    ("after_export", "to_fp16", ["torchexport_after_export", "neither a function nor 'package"]),
    ("runtime_imports", "my-ops", ["torchexport_runtime_imports", "'my-ops' is not the name"]),
]


@pytest.mark.parametrize(("name", "value", "parts"), WRONG_INI)
def test_a_wrong_ini_value_is_a_usage_error_with_what_is_legal(config_of, name, value, parts):
    with pytest.raises(pytest.UsageError) as caught:
        config_of(**{name: value})
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("flag", "part"),
    [
        ("--torchexport-targets=onx", "--torchexport-targets: 'onx' is not a target"),
        ("--torchexport-targets=", "--torchexport-targets: no target given"),
        ("--torchexport-max-examples=0", "--torchexport-max-examples: '0' is not a whole number"),
    ],
)
def test_a_wrong_flag_is_a_usage_error_with_what_is_legal(config_of, flag, part):
    with pytest.raises(pytest.UsageError) as caught:
        config_of(flag)
    assert part in str(caught.value)


def test_every_setting_has_a_wrong_value_above():
    assert {row.name for row in TABLE} == {name for name, _, _ in WRONG_INI}
