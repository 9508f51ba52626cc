"""config/options.py: every argument of the marker, right and wrong."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from pytest_torchexport.config import names as known_names
from pytest_torchexport.config.named_dims import Expr
from pytest_torchexport.config.options import NAMES, Options, parse_options
from pytest_torchexport.results.failures import ExportRefused, OutputsDiffer, SpecError


def refused(*targets, **arguments):
    with pytest.raises(SpecError) as caught:
        parse_options(targets, arguments)
    return str(caught.value)


def test_nothing_given_is_nothing_set():
    assert parse_options((), {}) == Options()
    assert parse_options((), dict.fromkeys(NAMES)) == Options()


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [
        ("shapes", {"x": "batch 3", "y": "..."}, {"x": (Expr("batch"), Expr("3")), "y": None}),
        ("dims", {"batch": (1, 4)}, {"batch": range(1, 5)}),
        ("values", {"x": (-1.0, 1.0), "n": [1, 2]}, {"x": (-1.0, 1.0), "n": [1, 2]}),
        ("values", {"z": st.just(0)}, {"z": st.just(0)}),
        ("map", dict, dict),
        ("filter", bool, bool),
        ("devices", "cpu", ("cpu",)),
        ("checks", "parity", ("parity",)),
        ("max_examples", 7, 7),
        ("mode", "train", "train"),
        ("export_options", {"onnx": {"opset_version": 20}}, {"onnx": {"opset_version": 20}}),
        ("xfail", {"script": ExportRefused}, {"script": (ExportRefused, "")}),
        ("xfail", {"onnx-cuda": (OutputsDiffer, "#7")}, {"onnx-cuda": (OutputsDiffer, "#7")}),
    ],
)
def test_an_argument_is_taken(name, given, taken):
    options = parse_options(("trace", "onnx"), {"rtol": 0, "atol": 1e-3, name: given})
    assert (options.targets, options.rtol, options.atol) == (("trace", "onnx"), 0.0, 1e-3)
    assert str(getattr(options, name)) == str(taken)


def test_any_option_is_taken_for_a_target_of_others(monkeypatch):
    monkeypatch.setattr(known_names, "_registered", {"mine": object()})
    given = {"mine": {"opset": 13}}
    assert parse_options((), {"export_options": given}).export_options == given


def test_an_unknown_argument_is_like_none_of_the_legal_ones():
    assert "Did you mean" not in refused(zzz=1)


@pytest.mark.parametrize(
    ("targets", "part"),
    [
        (("onx",), "targets: 'onx' is not a target; legal: trace, script, export, onnx"),
        (("trace", 3), "targets: 3 is not a target"),
        (("",), "targets: no target given; legal: trace"),
    ],
)
def test_wrong_targets(targets, part):
    assert part in refused(*targets)


WRONG = [
    ({"dim": 1}, ["unknown argument 'dim'; legal: shapes", *NAMES, "Did you mean 'dims'?"]),
    ({"targets": ["trace"]}, ["unknown argument 'targets'", "torchexport('export', 'onnx')"]),
    ({"shapes": "batch 3"}, ["shapes:", "is not a dict like {'x': 'batch 3 height width'}"]),
    ({"shapes": {"x": 3}}, ["shapes: 'x':", "a shape is a string like"]),
    ({"shapes": {"x": "b ..."}}, ["shapes: 'x':", "'...' must stand alone"]),
    ({"dims": [("batch", 4)]}, ["dims:", "is not a dict like {'batch': (1, 16)}"]),
    ({"dims": {"x": {0: (2, 12)}}}, ["dims:", "takes the names of dims", "dynamic_shapes={'x': "]),
    ({"dims": {"batch": 4}}, ["dims:", "'batch'", "4 is not (low, high), a range, or a list"]),
    ({"dims": {"class": (1, 2)}}, ["dims:", "'class' is not the name of a dim"]),
    ({"values": (0, 1)}, ["values:", "is not a dict like {'x': (-1.0, 1.0)}"]),
    ({"values": {"x": "abc"}}, ["values: 'x':", "a list to choose from", "nan, inf, zero, denorm"]),
    ({"values": {"x": "NaN"}}, ["values: 'x': 'NaN'", "Did you mean 'nan'?"]),
    ({"values": {"x": ("nan", 0.0, 1.0)}}, ["values: 'x':", "after low and high"]),
    ({"values": {"x": (1, 0, "limits")}}, ["values: 'x':", "low 1 is not at most high 0"]),
    ({"values": {"x": (float("nan"), 1)}}, ["values: 'x':", "low nan"]),
    ({"values": {"x": []}}, ["values: 'x':", "list to choose from is empty"]),
    ({"map": 3}, ["map:", "3 is not a function of forward's arguments by name"]),
    ({"filter": "x > 0"}, ["filter:", "is not a function"]),
    ({"devices": "gpu"}, ["devices:", "'gpu' is not a device; legal: cpu, cuda, cuda:N"]),
    ({"devices": ["cdua"]}, ["devices:", "Did you mean 'cuda'?"]),
    ({"devices": []}, ["devices:", "no device given"]),
    ({"checks": "parityy"}, ["checks:", "'parityy' is not a check", "Did you mean 'parity'?"]),
    ({"checks": []}, ["checks:", "no check given; legal:"]),
    ({"rtol": 1e-3}, ["rtol and atol: give both or neither"]),
    ({"rtol": -1, "atol": 0}, ["rtol:", "-1 is not a finite number of at least 0"]),
    ({"rtol": float("inf"), "atol": 0}, ["rtol:", "inf is not a finite number"]),
    ({"max_examples": 0}, ["max_examples:", "0 is not a whole number of at least 1"]),
    ({"mode": "evaluate"}, ["mode:", "legal: eval, train, as-is", "Did you mean 'eval'?"]),
    ({"export_options": {"onx": {}}}, ["export_options:", "'onx' is not a target", "'onnx'?"]),
    ({"export_options": {"onnx": 20}}, ["export_options:", "'onnx'", "{'opset_version': 20}"]),
    (
        {"export_options": {"onnx": {"opset": 13}}},
        ["'onnx': 'opset' is not a keyword argument of its", "Did you mean 'opset_version'?"],
    ),
    ({"export_options": {"trace": {"stricct": True}}}, ["'trace':", "Did you mean 'strict'?"]),
    ({"export_options": {"script": {"check_trace": True}}}, ["'script':", "legal: optimize, exa"]),
    ({"export_options": {"export": {"dynamo": True}}}, ["'export':", "legal: strict, preserve_"]),
    ({"export_options": {"export": {"dynamic_shapes": {}}}}, ["give dynamic_shapes= beside"]),
    ({"export_options": {"onnx": {"dynamic_axes": {}}}}, ["say which axes vary by shapes={"]),
    ({"export_options": {"onnx": {"dynamo": False}}}, ["'onnx_legacy' is dynamo=False"]),
    ({"export_options": {"onnx": {"do_constant_folding": True}}}, ["that of the target 'onnx_le"]),
    ({"export_options": {"onnx_legacy": {"input_names": ["x"]}}}, ["the target 'onnx' takes"]),
    ({"export_options": {"onnx_legacy": {"dynamic_axes": {}}}}, ["say which axes vary by shapes"]),
    ({"xfail": ExportRefused}, ["xfail:", "is not a dict like {'script': ExportRefused}"]),
    ({"xfail": {"scrpt": ExportRefused}}, ["xfail:", "'scrpt' is not a target", "'script'?"]),
    ({"xfail": {"onnx-tpu": ExportRefused}}, ["xfail:", "'tpu' is not a device"]),
    ({"xfail": {"onnx": "known"}}, ["xfail: 'onnx':", "is not a failure class", "OutputsDiffer"]),
    ({"xfail": {"onnx": ValueError}}, ["xfail: 'onnx':", "legal: ", "SpecError"]),
    ({"dynamic_shapes": {"x": None}, "dims": {"b": (1, 2)}}, ["dynamic_shapes:", "instead of"]),
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


def test_closer_options_win_argument_by_argument():
    outer = parse_options(("trace",), {"mode": "train", "values": {"x": (0, 1)}})
    inner = parse_options((), {"mode": "eval", "max_examples": 3})
    merged = inner.over(outer)
    assert merged.targets == ("trace",)
    assert merged.mode == "eval"
    assert merged.max_examples == 3
    assert merged.values == {"x": (0, 1)}


def test_shapes_put_aside_outer_dynamic_shapes_and_the_other_way_round():
    named = parse_options((), {"shapes": {"x": "b"}, "dims": {"b": (1, 2)}})
    torchs = parse_options((), {"dynamic_shapes": {"x": {0: "b"}}})
    assert named.over(torchs).dynamic_shapes is None
    both = torchs.over(named)
    assert both.dynamic_shapes == {"x": {0: "b"}}
    assert both.shapes is None
    assert both.dims is None
