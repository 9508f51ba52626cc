"""targets/formats/sizes.py: suspicions on models that narrow a dim, and none on healthy look-alikes."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import pytest
import sympy
import torch
from specs import spec_of
from torch import nn
from torch.export import Dim
from torch.utils._sympy import functions

from pytest_torchexport.inputs.spec import InputSpec
from pytest_torchexport.outcomes.torch_state import quiet
from pytest_torchexport.targets.base import DirectArtifact
from pytest_torchexport.targets.export import TARGET as EXPORT
from pytest_torchexport.targets.formats import shape_env, size_conditions, size_expressions
from pytest_torchexport.targets.formats.size_facts import SizeFacts
from pytest_torchexport.targets.formats.sizes import Suspicion, suspicions

needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("onnxscript") is None, reason="needs the extra [onnx]"
)


class Branch(nn.Module):
    def forward(self, x):
        if x.shape[0] > 4:  # narrows
            return x * 2
        return x + 1


class Number(nn.Module):
    def forward(self, x):
        rows = int(x.shape[0])  # freezes
        return sum((x[i] for i in range(rows)), torch.zeros(()))


class Even(nn.Module):
    def forward(self, x):
        if x.shape[0] % 2 == 0:  # even
            return x * 2
        return x


class Area(nn.Module):
    def forward(self, x):
        return x if x.shape[0] * x.shape[1] > 100 else -x  # area


class Rounded(nn.Module):
    def forward(self, x):
        return x if math.ceil(x.shape[0] / 4) > 300 else -x  # rounded


class Sum(nn.Module):
    def forward(self, x, y):
        return x + y


class Join(nn.Module):
    def forward(self, x, y):
        return torch.cat([x, y])


class Nested(nn.Module):
    def forward(self, batch, pair):
        if batch["mask"].shape[0] > 3:
            return batch["mask"] + pair[0]
        return batch["mask"] * pair[0]


class Mlp(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


class Cnn(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


class Encoder(nn.TransformerEncoder):
    def __init__(self):
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        super().__init__(layer, 1, enable_nested_tensor=False)


def audited(
    target: Any, module: nn.Module, *args: Any, given: dict[str, Any] | None = None, **options: Any
) -> tuple[Suspicion, ...]:
    module = module.eval()
    spec = spec_of(module.forward, *args, **options)
    with quiet("cpu"), torch.no_grad():
        artifact = target.export(module, spec.example, spec, **(given or {}))
    return artifact.facts.suspicions(spec, spec.example)


def onnx() -> Any:
    from pytest_torchexport.targets.onnx import TARGET

    return TARGET


def legacy() -> Any:
    from pytest_torchexport.targets.onnx_legacy import TARGET

    return TARGET


def certain(found: tuple[Suspicion, ...]) -> list[Suspicion]:
    """Those that are not torch's own lower bound of 2."""
    return [item for item in found if not item.is_torchs_minimum]


def line(item: Suspicion) -> str:
    """The source in ``where``, which must be a line of this file."""
    assert item.where.file.endswith("test_sizes.py"), item
    return item.where.text


# -- one program, one suspicion ----------------------------------------------------------------------


def test_a_branch_on_a_size_narrows_the_range_and_names_the_line():
    options = {"shapes": {"x": "batch 8"}, "dims": {"batch": (1, 16)}}
    first, lowest = audited(EXPORT, Branch(), torch.ones(4, 8), **options)
    assert (first.dim, first.path, first.axis) == ("batch", "x", 0)
    assert (first.declared, first.actual) == ("declared 1..16", "2..4")
    assert first.why == f"{size_conditions.GUARD}: batch <= 4"
    assert line(first).startswith("if x.shape[0] > 4:")
    assert first.sizes[0] == {"batch": 5}
    assert {"batch": 16} in first.sizes
    assert (lowest.actual, lowest.sizes, lowest.where) == ("2 or more", ({"batch": 1},), None)


def test_strict_capture_names_the_line_as_well():
    first, _ = audited(EXPORT, Branch(), torch.ones(4, 8), given={"strict": True})
    assert (first.path, first.axis, first.actual) == ("x", 0, "2..4")
    assert line(first).startswith("if x.shape[0] > 4:")


@pytest.mark.parametrize(
    ("declared", "nearest", "last"),
    [
        ([2, 4, 9], 9, 9),
        (range(2, 9, 2), 6, 8),
        ((0, 5), 5, 5),
        ((1, 100_000), 5, 100_000),
    ],
)
def test_only_sizes_that_are_declared_are_suspected(declared, nearest, last):
    options = {"shapes": {"x": "batch 8"}, "dims": {"batch": declared}}
    (found,) = certain(audited(EXPORT, Branch(), torch.ones(4, 8), **options))
    assert found.actual == "2..4"
    assert found.sizes[0] == {"batch": nearest}
    assert {"batch": last} in found.sizes
    legal = spec_of(Branch().forward, torch.ones(4, 8), **options).dims["batch"].sizes
    assert all(size["batch"] in legal for size in found.sizes)


def test_a_range_within_what_the_program_takes_is_not_suspected():
    options = {"shapes": {"x": "batch 8"}, "dims": {"batch": (2, 4)}}
    assert audited(EXPORT, Branch(), torch.ones(4, 8), **options) == ()


def test_dim_auto_that_turned_static_is_said_with_its_line():
    shapes = {"x": {0: Dim.AUTO}}
    (found,) = certain(audited(EXPORT, Number(), torch.ones(4, 8), dynamic_shapes=shapes))
    assert (found.actual, found.why) == ("4 only", size_conditions.AUTO)
    assert line(found).startswith("rows = int(x.shape[0])")
    assert found.sizes[:2] == ({"x_0": 5}, {"x_0": 3})
    assert {"x_0": 8} in found.sizes
    assert {"x_0": 1} in found.sizes


def test_a_guard_that_is_no_range_is_shown_in_the_names_of_the_dims():
    found = certain(audited(EXPORT, Even(), torch.ones(4, 8)))
    assert [item.actual for item in found] == ["Mod(batch, 2) == 0"]
    assert line(found[0]).startswith("if x.shape[0] % 2 == 0:")
    assert all(size["batch"] % 2 for size in found[0].sizes)


def test_a_guard_with_a_rounded_quotient_is_told_to_the_exact_size():
    options = {"shapes": {"x": "batch 8"}, "dims": {"batch": (1, 2**62)}}
    first, lowest = audited(EXPORT, Rounded(), torch.ones(2048, 8), **options)
    assert line(first).startswith("return x if math.ceil")
    assert first.actual == "1201 or more"
    assert first.sizes[0] == {"batch": 1200}
    assert (lowest.sizes, lowest.taken) == (({"batch": 1},), ({"batch": 2}, {"batch": 3}))


def test_a_guard_on_two_dims_is_tried_where_both_are_moved():
    options = {"shapes": {"x": "rows cols"}, "dims": {"rows": (2, 20), "cols": (2, 20)}}
    found = certain(audited(EXPORT, Area(), torch.ones(6, 8), **options))
    assert [item.actual for item in found] == ["cols*rows <= 100"]
    assert line(found[0]).startswith("return x if")
    assert {"rows": 20, "cols": 20} in found[0].sizes


def test_two_dims_that_became_one_are_suspected_although_eager_may_refuse_too():
    options = {"shapes": {"x": "batch 8", "y": "rows 8"}}
    found = certain(audited(EXPORT, Sum(), torch.ones(4, 8), torch.ones(4, 8), **options))
    assert [(item.dim, item.actual, item.why) for item in found] == [
        ("batch", "equal to 'rows'", f"{size_conditions.TIED}: batch == rows")
    ]
    at = [{"batch": 4, "rows": 4, **size} for size in found[0].sizes]
    assert all(size["batch"] != size["rows"] for size in at)


def test_dims_that_stay_apart_are_not_suspected():
    options = {"shapes": {"x": "batch 8", "y": "rows 8"}}
    assert certain(audited(EXPORT, Join(), torch.ones(4, 8), torch.ones(5, 8), **options)) == []


def test_a_nested_input_is_named_by_its_path():
    found = certain(audited(EXPORT, Nested(), {"mask": torch.ones(3, 2)}, (torch.ones(3, 2), None)))
    assert [(item.path, item.axis, item.actual) for item in found] == [("batch['mask']", 0, "2..3")]


def test_where_the_users_example_is_not_the_exporters_its_own_size_is_tried():
    spec = spec_of(Number().forward, torch.ones(1, 8), dynamic_shapes={"x": {0: Dim.AUTO}})
    exported = spec_of(Number().forward, torch.ones(2, 8)).example
    (found,) = EXPORT.export(Number(), exported, spec).facts.suspicions(spec, exported)
    assert (found.actual, found.sizes) == ("2 only", ({"x_0": 1},))


@pytest.mark.parametrize(
    ("module", "args", "options"),
    [
        (Mlp, [(4, 8)], {}),
        (Mlp, [(4, 8)], {"shapes": {"input": "batch 8"}, "dims": {"batch": (1, 16)}}),
        (Cnn, [(2, 3, 16, 16)], {"shapes": {"input": "batch 3 h w"}, "dims": {"h": (8, 32)}}),
        (Attention, [(2, 5, 8)], {"shapes": {"x": "batch time 8"}}),
        (Encoder, [(2, 5, 8)], {"shapes": {"src": "batch time 8"}}),
        (Sum, [(2, 6), (2, 6)], {"shapes": {"x": "batch 2*time", "y": "batch 2*time"}}),
        (Join, [(5, 3), (4, 3)], {"shapes": {"x": "n+1 3", "y": "n 3"}}),
        (Sum, [(3,), (3,)], {"shapes": {"x": "...", "y": "..."}}),
    ],
)
@pytest.mark.parametrize(
    "target",
    [
        lambda: EXPORT,
        pytest.param(onnx, marks=needs_onnx),
        pytest.param(legacy, marks=needs_onnx),
    ],
)
def test_healthy_modules_are_not_suspected_beyond_torchs_lower_bound(target, module, args, options):
    found = audited(target(), module(), *map(torch.randn, args), **options)
    assert certain(found) == []
    assert all(size <= 1 for item in found for call in item.sizes for size in call.values())


# -- ONNX --------------------------------------------------------------------------------------------


@needs_onnx
@pytest.mark.parametrize(
    "options", [{}, {"dynamic_shapes": {"x": {0: Dim.DYNAMIC}}}], ids=["named", "given"]
)
def test_onnx_names_the_range_that_the_file_drops(options):
    (found,) = certain(audited(onnx(), Branch(), torch.ones(4, 8), **options))
    assert (found.declared, found.actual) == ("assumed 1..8", "2..4")
    assert found.why.startswith(size_conditions.DROPPED)
    assert line(found).startswith("if x.shape[0] > 4:")


@needs_onnx
def test_onnx_names_guards_that_are_no_range():
    (found,) = certain(audited(onnx(), Even(), torch.ones(4, 8)))
    assert found.actual == "Mod(batch, 2) == 0"
    assert found.why.startswith(size_conditions.DROPPED)


@needs_onnx
def test_an_axis_that_onnx_made_static_is_named_with_the_line_that_did_it():
    (found,) = certain(audited(onnx(), Number(), torch.ones(4, 8)))
    assert (found.actual, found.why) == ("4 only", size_conditions.STATIC)
    assert line(found).startswith("rows = int(x.shape[0])")


@needs_onnx
def test_onnx_claims_a_dynamic_axis_for_a_program_of_one_size():
    shapes = {"x": {0: Dim.AUTO}}
    (found,) = certain(audited(onnx(), Number(), torch.ones(4, 8), dynamic_shapes=shapes))
    assert (found.actual, found.why) == ("4 only", size_conditions.AUTO)
    assert line(found).startswith("rows = int(x.shape[0])")


@needs_onnx
def test_onnx_unifies_two_dims():
    options = {"shapes": {"x": "batch 8", "y": "rows 8"}}
    (found,) = certain(audited(onnx(), Sum(), torch.ones(4, 8), torch.ones(4, 8), **options))
    assert (found.dim, found.actual) == ("batch", "equal to 'rows'")


@needs_onnx
def test_the_legacy_exporter_keeps_the_axes_it_is_given():
    assert audited(legacy(), Branch(), torch.ones(4, 8)) == ()


@needs_onnx
def test_a_static_axis_of_a_legacy_file_is_named():
    spec = spec_of(Branch().forward, torch.ones(4, 8))
    fixed = spec_of(Branch().forward, torch.ones(4, 8), shapes={"x": "..."})
    with quiet("cpu"), torch.no_grad():
        artifact = legacy().export(Branch(), fixed.example, fixed)
    (found,) = artifact.facts.suspicions(spec, spec.example)
    assert (found.dim, found.actual, found.why) == ("batch", "4 only", size_conditions.STATIC)


@needs_onnx
def test_torch_export_is_itself_again_after_an_onnx_export():
    before = torch.export.export
    audited(onnx(), Branch(), torch.ones(4, 8))
    assert torch.export.export is before
    with pytest.raises(RuntimeError, match="inside"), shape_env.captures():
        raise RuntimeError("inside")
    assert torch.export.export is before


# -- what has nothing to say -------------------------------------------------------------------------


def test_an_artifact_without_metadata_says_nothing():
    artifact = DirectArtifact(
        program=None, module=None, run=abs, write=lambda _: None, filename="model"
    )
    spec = spec_of(Branch().forward, torch.ones(4, 8))
    assert artifact.facts.suspicions(spec, spec.example) == ()


def spec_and_symbol() -> tuple[InputSpec, Any]:
    return spec_of(Branch().forward, torch.ones(4, 8)), sympy.Symbol("s0", integer=True)


@pytest.mark.parametrize(
    "guard",
    [
        lambda s: sympy.Eq(sympy.sin(s), 0),  # a function that we do not know
        lambda s: sympy.Eq(s, sympy.Symbol("u0")),  # a size that depends on data
        lambda s: sympy.Eq(4 ** (s * 1000), 1),  # astronomically large
        lambda s: sympy.Eq(sympy.Mod(8, s - 1), 0) & sympy.Eq(sympy.exp(s), 1),
        lambda _: "not an expression",
    ],
)
def test_expressions_that_cannot_be_told_are_left_out(guard):
    spec, symbol = spec_and_symbol()
    facts = SizeFacts(axes=((symbol, 8),), guards=((guard(symbol), ""),))
    assert suspicions(spec, facts) == ()


@pytest.mark.parametrize(("broken", "minimum"), [(1, True), (2, True), (6, False)])
def test_a_guard_of_several_sizes_that_fails_only_at_0_or_1_is_torchs_minimum(broken, minimum):
    """6 is 2 * 3 as well; torch adds such a guard for the strides of a tensor."""
    spec = spec_of(
        Sum().forward, torch.ones(4, 5), torch.ones(4, 5), shapes={"x": "a b", "y": "a b"}
    )
    a, b = sympy.symbols("s0 s1", integer=True)
    facts = SizeFacts(axes=((a, b), (a, b)), guards=((sympy.Ne(a * b, broken), None),))
    (found,) = suspicions(spec, facts)
    assert found.is_torchs_minimum == minimum


def test_a_guard_that_divides_by_zero_somewhere_is_told_elsewhere():
    spec, symbol = spec_and_symbol()
    facts = SizeFacts(axes=((symbol, 8),), guards=((sympy.Ne(sympy.Mod(7, symbol - 1), 1), ""),))
    (found,) = suspicions(spec, facts)
    assert all(7 % (size["batch"] - 1) == 1 for size in found.sizes)


@pytest.mark.parametrize(
    "facts",
    [
        SizeFacts(),
        SizeFacts(axes=()),
        SizeFacts(axes=((4, 8), (4, 8))),
        SizeFacts(axes=((4, 8, 1),)),
        SizeFacts(axes=(None,)),
        SizeFacts(sources={"s0": "L['other'].size()[0]"}, guards=((False, ""),)),
        SizeFacts(sources={"s0": "L['x'].stride()[0]", "s1": "L['x'].size()[9]"}),
        SizeFacts(axes=7),  # type: ignore[arg-type]
    ],
)
def test_facts_that_do_not_fit_the_call_say_nothing(facts):
    spec, _ = spec_and_symbol()
    assert suspicions(spec, facts) == ()


@pytest.mark.parametrize("program", [None, object(), 7])
def test_what_is_no_program_has_no_facts(program):
    assert shape_env.captured_sizes(program) == SizeFacts()


def test_evaluation_is_exact():
    s, t = sympy.symbols("s t", integer=True)
    assert size_expressions.evaluate(s * t - 3, {s: 4, t: 5}) == 17
    assert size_expressions.evaluate(sympy.Eq(s / 2, sympy.Rational(3, 2)), {s: 3}) is True
    assert size_expressions.evaluate(sympy.Max(s, t) >= 5, {s: 4, t: 5}) is True
    quotient = functions.IntTrueDiv(s, t)
    assert size_expressions.evaluate(functions.CeilToInt(quotient), {s: 9, t: 4}) == 3
    assert size_expressions.evaluate(functions.TruncToInt(functions.ToFloat(s) * 0.5), {s: 5}) == 2
    with pytest.raises(size_expressions.UnknownExpression):
        size_expressions.evaluate(sympy.sin(s), {s: 1})


# -- torch's private parts: these fail where torch changes them --------------------------------------


def exported(module: nn.Module, *args: torch.Tensor, **shapes: Any) -> Any:
    return torch.export.export(module.eval(), args, dynamic_shapes=shapes)


@pytest.mark.parametrize("dim", [Dim("batch"), Dim.DYNAMIC], ids=["named", "DYNAMIC"])
def test_torch_still_tells_the_line_of_a_refusal(dim):
    with pytest.raises(Exception, match=r"(?i)constraints violated|conflicts") as caught:
        exported(Number(), torch.ones(4, 8), x={0: dim})
    assert "rows = int(x.shape[0])" in str(shape_env.refused_at(caught.value))


@needs_onnx
def test_torch_still_tells_what_the_onnx_exporter_asserts():
    spec = spec_of(Even().forward, torch.ones(4, 8))
    with quiet("cpu"), torch.no_grad():
        artifact = onnx().export(Even().eval(), spec.example, spec)
    guards = [guard for guard, _ in artifact.facts.captured.kept.guards]
    # torch 2.9 adds one that ties the size to a symbol of its own.
    (guard,) = [guard for guard in guards if len(guard.free_symbols) == 1]
    (symbol,) = guard.free_symbols
    assert [size_expressions.evaluate(guard, {symbol: size}) for size in (4, 5)] == [True, False]


def test_another_exception_has_no_line_of_a_size():
    with pytest.raises(ValueError, match="anything") as caught:
        raise ValueError("anything")
    assert shape_env.refused_at(caught.value) is None
