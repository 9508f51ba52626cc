"""config/options.py: every argument of the marker, right and wrong."""

# ruff: noqa: ARG005  # the parameters are what a spec reads of a function

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from pytest_torchexport.config.options import NAMES, Options, parse_options
from pytest_torchexport.results import failures
from pytest_torchexport.results.failures import ExportRefused, OutputsDiffer, SpecError


def refused(*targets, **arguments):
    with pytest.raises(SpecError) as caught:
        parse_options(targets, arguments)
    return str(caught.value)


def test_nothing_given_is_nothing_set():
    assert parse_options((), {}) == Options()
    assert parse_options((), dict.fromkeys(NAMES)) == Options()


def test_every_argument_is_taken():
    options = parse_options(
        ("trace", "onnx"),
        {
            "shapes": {"x": "batch 3", "y": "..."},
            "dims": {"batch": (1, 4)},
            "values": {"x": (-1.0, 1.0), "n": [1, 2], "z": st.floats(0, 1)},
            "map": lambda x: {"x": x},
            "filter": lambda x: True,
            "devices": "cpu",
            "checks": "parity",
            "rtol": 0,
            "atol": 1e-3,
            "max_examples": 7,
            "mode": "train",
            "export_options": {"onnx": {"opset_version": 20}},
            "xfail": {"script": ExportRefused, "onnx-cuda": (OutputsDiffer, "issue 7")},
        },
    )
    assert options.targets == ("trace", "onnx")
    assert options.shapes["y"] is None
    assert [axis.text for axis in options.shapes["x"]] == ["batch", "3"]
    assert options.dims == {"batch": range(1, 5)}
    assert options.values["x"] == (-1.0, 1.0)
    assert options.devices == ("cpu",)
    assert options.checks == ("parity",)
    assert (options.rtol, options.atol) == (0.0, 1e-3)
    assert options.max_examples == 7
    assert options.mode == "train"
    assert options.xfail == {
        "script": (ExportRefused, ""),
        "onnx-cuda": (OutputsDiffer, "issue 7"),
    }


@pytest.mark.parametrize(
    ("wrong", "suggested"),
    [("shape", "shapes"), ("dim", "dims"), ("rtoll", "rtol"), ("zzz", None)],
)
def test_an_unknown_argument_names_the_legal_ones_and_the_nearest(wrong, suggested):
    message = refused(**{wrong: 1})
    assert f"unknown argument {wrong!r}; legal: shapes, dims" in message
    assert all(name in message for name in NAMES)
    assert ("Did you mean" in message) == (suggested is not None)
    assert suggested is None or f"Did you mean {suggested!r}?" in message


def test_targets_are_positional():
    message = refused(targets=["trace"])
    assert "unknown argument 'targets'" in message
    assert "torchexport('export', 'onnx')" in message


@pytest.mark.parametrize(
    ("targets", "parts"),
    [
        (("onx",), ["targets:", "'onx' is not a target", "legal: trace, script, export, onnx"]),
        (("onx",), ["Did you mean 'onnx'?"]),
        (("trace", 3), ["targets:", "3 is not a target", "legal: trace"]),
        ((["trace"],), ["['trace'] is not a target"]),
        (("",), ["targets:", "no target given", "legal: trace"]),
        (("trace", "none"), ["'none' is not a target"]),
        ((None,), ["None is not a target"]),
    ],
)
def test_wrong_targets(targets, parts):
    message = refused(*targets)
    for part in parts:
        assert part in message


def test_a_bare_function_as_target_is_refused():
    # What a decorator without parentheses but with arguments would do.
    assert "is not a target" in refused(lambda: None)


WRONG = [
    ({"shapes": "batch 3"}, ["shapes:", "is not a dict like {'x': 'batch 3 height width'}"]),
    ({"shapes": {0: "batch"}}, ["shapes:", "is not a dict"]),
    ({"shapes": {"x": 3}}, ["shapes: 'x':", "a shape is a string like"]),
    ({"shapes": {"x": ["batch", 3]}}, ["shapes: 'x':", "a shape is a string like"]),
    ({"shapes": {"x": "batch 3."}}, ["shapes: 'x':", "'3.' is not a size, a dim's name"]),
    ({"shapes": {"x": "b ..."}}, ["shapes: 'x':", "'...' must stand alone"]),
    ({"dims": [("batch", 4)]}, ["dims:", "is not a dict like {'batch': (1, 16)}"]),
    ({"dims": {"x": {0: (2, 12)}}}, ["dims:", "takes the names of dims", "dynamic_shapes={'x': "]),
    ({"dims": {"batch": 4}}, ["dims:", "'batch'", "4 is not (low, high), a range, or a list"]),
    ({"dims": {"batch": (4, 1)}}, ["dims:", "low 4 is above high 1"]),
    ({"dims": {"batch": (0.5, 1)}}, ["dims:", "'batch'"]),
    ({"dims": {"2x": (1, 2)}}, ["dims:", "'2x' is not the name of a dim"]),
    ({"dims": {"batch": []}}, ["dims:", "holds no size at all"]),
    ({"values": (0, 1)}, ["values:", "is not a dict like {'x': (-1.0, 1.0)}"]),
    ({"values": {"x": 1}}, ["values: 'x':", "(low, high), a list to choose from, a Hyp"]),
    ({"values": {"x": "abc"}}, ["values: 'x':", "a list to choose from", "nan, inf, zero, denorm"]),
    ({"values": {"x": "NaN"}}, ["values: 'x': 'NaN'", "Did you mean 'nan'?"]),
    ({"values": {"x": ("nan", 0.0, 1.0)}}, ["values: 'x':", "after low and high"]),
    ({"values": {"x": (0.0, "nan")}}, ["values: 'x':", "after low and high"]),
    ({"values": {"x": ()}}, ["values: 'x':", "is not (low, high)"]),
    ({"values": {"x": (1, 0, "limits")}}, ["values: 'x':", "low 1 is not at most high 0"]),
    ({"values": {"x": (1, 0)}}, ["values: 'x':", "low 1 is not at most high 0"]),
    ({"values": {"x": (float("nan"), 1)}}, ["values: 'x':", "low nan"]),
    ({"values": {"x": (True, False)}}, ["values: 'x':"]),
    ({"values": {"x": (1, 2, 3)}}, ["values: 'x':"]),
    ({"values": {"x": []}}, ["values: 'x':", "list to choose from is empty"]),
    ({"map": 3}, ["map:", "3 is not a function of forward's arguments by name"]),
    ({"filter": "x > 0"}, ["filter:", "is not a function"]),
    ({"devices": "gpu"}, ["devices:", "'gpu' is not a device; legal: cpu, cuda, cuda:N"]),
    ({"devices": ["cdua"]}, ["devices:", "Did you mean 'cuda'?"]),
    ({"devices": "cuda:x"}, ["devices:", "'cuda:x' is not a device"]),
    ({"devices": "cuda:"}, ["devices:", "'cuda:' is not a device"]),
    ({"devices": "cpu:0"}, ["devices:", "'cpu:0' is not a device; legal: cpu, cuda, cuda:N"]),
    ({"devices": []}, ["devices:", "no device given"]),
    ({"devices": 3}, ["devices:", "legal: cpu, cuda, cuda:N"]),
    ({"checks": "parityy"}, ["checks:", "'parityy' is not a check", "Did you mean 'parity'?"]),
    ({"checks": []}, ["checks:", "no check given; legal:"]),
    ({"checks": [3]}, ["checks:", "3 is not a check"]),
    ({"checks": 3}, ["checks:", "legal:"]),
    ({"rtol": 1e-3}, ["rtol and atol: give both or neither"]),
    ({"atol": 1e-3}, ["rtol and atol: give both or neither"]),
    ({"rtol": -1, "atol": 0}, ["rtol:", "-1 is not a finite number of at least 0"]),
    ({"rtol": 0, "atol": float("nan")}, ["atol:", "nan is not a finite number"]),
    ({"rtol": float("inf"), "atol": 0}, ["rtol:", "inf is not a finite number"]),
    ({"rtol": "1e-3", "atol": 0}, ["rtol:", "'1e-3' is not a finite number"]),
    ({"rtol": True, "atol": 0}, ["rtol:", "True is not"]),
    ({"max_examples": 0}, ["max_examples:", "0 is not a whole number of at least 1"]),
    ({"max_examples": -5}, ["max_examples:", "whole number of at least 1"]),
    ({"max_examples": 1.5}, ["max_examples:", "whole number of at least 1"]),
    ({"max_examples": True}, ["max_examples:", "whole number of at least 1"]),
    ({"max_examples": "many"}, ["max_examples:", "whole number of at least 1"]),
    ({"max_examples": "\u00b2"}, ["max_examples:", "whole number of at least 1"]),
    ({"mode": "evaluate"}, ["mode:", "legal: eval, train, as-is", "Did you mean 'eval'?"]),
    ({"mode": True}, ["mode:", "legal: eval, train, as-is"]),
    ({"mode": ["eval"]}, ["mode:", "legal: eval, train, as-is"]),
    ({"export_options": {"onx": {}}}, ["export_options:", "'onx' is not a target", "'onnx'?"]),
    ({"export_options": {"onnx": 20}}, ["export_options:", "'onnx'", "{'opset_version': 20}"]),
    ({"export_options": [1]}, ["export_options:", "is not a dict like"]),
    ({"xfail": ExportRefused}, ["xfail:", "is not a dict like {'script': ExportRefused}"]),
    ({"xfail": {"scrpt": ExportRefused}}, ["xfail:", "does not start with a target", "'script'?"]),
    ({"xfail": {"onnx-tpu": ExportRefused}}, ["xfail:", "'tpu' is not a device"]),
    ({"xfail": {"onnx-": ExportRefused}}, ["xfail:"]),
    ({"xfail": {"onnx": "known"}}, ["xfail: 'onnx':", "is not a failure class", "OutputsDiffer"]),
    ({"xfail": {"onnx": ValueError}}, ["xfail: 'onnx':", "legal: ", "SpecError"]),
    ({"xfail": {"onnx": OutputsDiffer("x")}}, ["xfail: 'onnx':", "is not a failure class"]),
    ({"xfail": {"onnx": (OutputsDiffer, 3)}}, ["xfail: 'onnx':"]),
    ({"xfail": {"onnx": (OutputsDiffer,)}}, ["xfail: 'onnx':"]),
    ({"dynamic_shapes": {"x": None}, "dims": {"b": (1, 2)}}, ["dynamic_shapes:", "instead of"]),
    ({"dynamic_shapes": {"x": None}, "shapes": {"x": "b"}}, ["dynamic_shapes:", "instead of"]),
    (
        {"shapes": {"x": "batch 3"}, "dims": {"bacth": (1, 2)}},
        ["dims:", "'bacth' occurs in no shape", "dims in shapes: batch", "Did you mean 'batch'?"],
    ),
]


@pytest.mark.parametrize(("arguments", "parts"), WRONG, ids=lambda value: str(value)[:50])
def test_a_wrong_argument_is_named_with_what_is_legal(arguments, parts):
    message = refused(**arguments)
    for part in parts:
        assert part in message, message


def test_every_argument_has_a_wrong_row_above():
    covered = {name for arguments, _ in WRONG for name in arguments}
    assert covered == set(NAMES)


def test_devices_and_checks_take_one_name_or_several():
    assert parse_options((), {"devices": ["cpu", "cuda:1", "cpu"]}).devices == ("cpu", "cuda:1")
    assert parse_options((), {"checks": ["round_trip", "parity"]}).checks == (
        "round_trip",
        "parity",
    )


def test_every_failure_class_can_be_expected():
    for name in failures.__all__:
        cls = getattr(failures, name)
        if isinstance(cls, type):
            options = parse_options((), {"xfail": {"onnx-cuda:1": cls}})
            assert options.xfail == {"onnx-cuda:1": (cls, "")}


def test_closer_options_win_argument_by_argument():
    outer = parse_options(("trace",), {"mode": "train", "values": {"x": (0, 1)}})
    inner = parse_options((), {"mode": "eval", "max_examples": 3})
    merged = inner.over(outer)
    assert merged.targets == ("trace",)
    assert merged.mode == "eval"
    assert merged.max_examples == 3
    assert merged.values == {"x": (0, 1)}


def test_dicts_replace_and_do_not_merge():
    outer = parse_options((), {"values": {"x": (0, 1), "y": (0, 1)}})
    inner = parse_options((), {"values": {"x": (2, 3)}})
    assert inner.over(outer).values == {"x": (2, 3)}


def test_over_nothing_is_itself_and_nothing_over_options_is_the_options():
    options = parse_options(("onnx",), {"mode": "train"})
    assert options.over(Options()) == options
    assert Options().over(options) == options


def test_zero_tolerance_is_given_and_not_silence():
    inner = parse_options((), {"rtol": 0, "atol": 0})
    outer = parse_options((), {"rtol": 1, "atol": 1})
    assert (inner.over(outer).rtol, inner.over(outer).atol) == (0.0, 0.0)


def test_shapes_put_aside_outer_dynamic_shapes_and_the_other_way_round():
    named = parse_options((), {"shapes": {"x": "b"}, "dims": {"b": (1, 2)}})
    torchs = parse_options((), {"dynamic_shapes": {"x": {0: "b"}}})
    assert named.over(torchs).dynamic_shapes is None
    both = torchs.over(named)
    assert both.dynamic_shapes == {"x": {0: "b"}}
    assert both.shapes is None
    assert both.dims is None


def test_a_name_of_a_dim_that_python_keeps_for_itself_is_refused_where_it_is_given():
    # It could never occur in a shape.
    assert "'class' is not the name of a dim" in refused(dims={"class": (1, 2)})


def test_what_is_given_is_not_kept_by_reference():
    given = [1, 2]
    options = parse_options((), {"values": {"n": given}})
    given.append(3)
    assert options.values["n"] == [1, 2]
