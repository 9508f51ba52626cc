"""diagnosis/reproducer/exports.py: sources that say what the targets do."""

import pytest
import torch

from pytest_torchexport.diagnosis.reproducer.exports import Exported, text_of_export
from pytest_torchexport.diagnosis.reproducer.values import Inexpressible
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.grad_mode import GradMode

X = torch.ones(2, 3)
CALL, NET = Call((X,)), torch.nn.ReLU()
DIM = torch.export.Dim("batch", min=2, max=9)


def added(x, *more, factor=2.0, **named):
    return x * factor


def text(target, call=CALL, function=NET, shapes=None, **options):
    source = "net" if isinstance(function, torch.nn.Module) else "place.added"
    given = Exported(
        function=function,
        source=source,
        owner="",
        example=call,
        shapes=shapes,
        axes=[{0: "batch"}],
        options=options,
        mode=GradMode.NO_GRAD,
    )
    return text_of_export(target, given)


def test_dims_are_named_before_the_export():
    shapes = {"x": {0: DIM, 1: 2 * DIM + 1}, "y": [None, {0: torch.export.Dim.DYNAMIC}]}
    made = text("export", shapes=shapes).make
    assert made.startswith('batch = torch.export.Dim("batch", min=2, max=9)\n')
    spelled = "{'x': {0: batch, 1: 2*batch + 1}, 'y': [None, {0: torch.export.Dim.DYNAMIC}]}"
    assert f"dynamic_shapes={spelled}" in made
    scope = {"torch": torch, "args": (), "kwargs": {}}
    exec(made.partition("args, kwargs = ")[0] + f"shapes = {spelled}", scope)
    assert repr(scope["shapes"]) == repr(shapes)


def test_options_of_the_user_are_given():
    assert ", strict=True" in text("export", strict=True).make
    assert ", check_trace=False, strict=True" in text("trace", strict=True).make
    with pytest.raises(Inexpressible, match="custom_translation_table"):
        text("onnx", custom_translation_table={1: object()})


def test_a_call_with_other_things_than_tensors_is_traced_through_its_tensors():
    made = text("trace", Call((X, 2), {"mask": X + 1}))
    assert 'args, kwargs = (tensors[0], 2), {"mask": tensors[1]}' in made.definitions
    assert "torch.jit.trace(Flat(net), tensors, check_trace=False, strict=False)" in made.make


def test_a_function_is_wrapped_under_its_own_signature():
    made = text("export", function=added)
    assert "def forward(self, x, *more, factor=2.0, **named):" in made.definitions
    assert "return place.added(x, *more, factor=factor, **named)" in made.definitions
    assert "    Wrapped(), args, kwargs" in made.make
    scope = {"torch": torch, "added": added}
    exec(made.definitions.replace("place.added", "added"), scope)
    assert torch.equal(scope["Wrapped"]()(X, factor=3.0), X * 3)


def test_a_target_of_somebody_else_has_no_source():
    with pytest.raises(Inexpressible, match="the target mirror has no source"):
        text("mirror")
