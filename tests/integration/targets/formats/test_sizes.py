"""targets/formats/sizes.py: suspicions on models that narrow a dim, and none on healthy look-alikes."""

from __future__ import annotations

from typing import Any

import pytest
import sympy
import torch
from specs import spec_of
from torch import nn
from torch.export import Dim

from pytest_torchexport import targets
from pytest_torchexport.outcomes.torch_state import quiet
from pytest_torchexport.targets.formats import sizes
from pytest_torchexport.targets.formats.sizes import SizeFacts, Suspicion, suspicions


class Above(nn.Module):
    def forward(self, x):
        if x.shape[0] > 4:
            return x * 2
        return x + 1


class Number(nn.Module):
    def forward(self, x):
        rows = int(x.shape[0])
        return sum((x[i] for i in range(rows)), torch.zeros(()))


class Area(nn.Module):
    def forward(self, x):
        return x if x.shape[0] * x.shape[1] > 100 else -x


class Sum(nn.Module):
    def forward(self, x, y):
        return x + y


X = torch.ones(4, 8)
AUTO = {"dynamic_shapes": {"x": {0: Dim.AUTO}}}
BOTH = {"shapes": {"x": "batch 8", "y": "rows 8"}}
AREA = {"shapes": {"x": "rows cols"}, "dims": {"rows": (2, 20), "cols": (2, 20)}}


def audited(target: str, module: nn.Module, *args: Any, **options: Any) -> tuple[Suspicion, ...]:
    if target.startswith("onnx"):
        pytest.importorskip("onnxscript")
    module = module.eval()
    spec = spec_of(module.forward, *args, **options)
    with quiet("cpu"), torch.no_grad():
        artifact = targets.get(target).export(module, spec.example, spec)
    return artifact.facts.suspicions(spec, spec.example)


# The program, its call, what has to hold, why, the user's line, and a call that breaks it.
NARROWING = [
    (Above, (X,), {}, "batch <= 4", "GUARD", "if x.shape[0] > 4:", {"batch": 5}),
    (Number, (X,), AUTO, "x_0 == 4", "AUTO", "rows = int(x.shape[0])", {"x_0": 5}),
    (Area, (torch.ones(6, 8),), AREA, "cols*rows <= 100", "GUARD", "return x if", {"rows": 20}),
    (Sum, (X, X), BOTH, "rows == batch", "TIED", "", {}),
]


@pytest.mark.parametrize(
    ("target", "module", "args", "options", "text", "why", "line", "call"),
    [*(("export", *row) for row in NARROWING), *(("onnx", *row) for row in NARROWING[:2])],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_what_narrows_a_dim_is_named_with_its_line_and_calls(
    target, module, args, options, text, why, line, call
):
    found = [
        item for item in audited(target, module(), *args, **options) if not item.is_torchs_minimum
    ]
    assert found
    texts = {item.text for item in found}
    assert not text or text in texts or why == "TIED", found
    if target == "export":
        assert getattr(sizes, why) in {item.why for item in found}
    if line:
        # The ONNX exporter puts assertions in the place of guards, which know no line.
        lines = {item.where.text[: len(line)] for item in found if item.where}
        assert lines == {line} or (target == "onnx" and not lines)
    assert any(set(call.items()) <= set(tried.items()) for item in found for tried in item.sizes)


def test_where_the_users_example_is_not_the_exporters_its_own_size_is_tried():
    spec = spec_of(Number().forward, torch.ones(1, 8), dynamic_shapes={"x": {0: Dim.AUTO}})
    exported = spec_of(Number().forward, torch.ones(2, 8)).example
    (found,) = (
        targets.get("export").export(Number(), exported, spec).facts.suspicions(spec, exported)
    )
    assert (found.text, found.sizes) == ("x_0 == 2", ({"x_0": 1},))


# -- what has nothing to say -------------------------------------------------------------------------


SPEC = spec_of(Above().forward, X)
S0 = sympy.Symbol("s0", integer=True)


def test_expressions_that_cannot_be_told_are_left_out():
    of_data = sympy.Eq(S0, sympy.Symbol("u0"))
    facts = SizeFacts(axes=((S0, 8),), guards=((of_data, None), ("not an expression", None)))
    assert all(item.is_torchs_minimum for item in suspicions(SPEC, facts))


@pytest.mark.parametrize(("broken", "minimum"), [(1, True), (6, False)])
def test_a_guard_of_several_sizes_that_fails_only_at_0_or_1_is_torchs_minimum(broken, minimum):
    """6 is 3 * 2 as well; torch adds such a guard for the strides of a tensor."""
    x = torch.ones(3, 5)
    spec = spec_of(Sum().forward, x, x, shapes={"x": "a b", "y": "a b"})
    a, b = sympy.symbols("s0 s1", integer=True)
    facts = SizeFacts(axes=((a, b), (a, b)), guards=((sympy.Ne(a * b, broken), None),))
    (found,) = suspicions(spec, facts)
    assert found.is_torchs_minimum == minimum


@pytest.mark.parametrize(
    "facts",
    [
        SizeFacts(axes=((4, 8), (4, 8))),
        SizeFacts(sources={"s0": "L['x'].stride()[0]", "s1": "L['x'].size()[9]"}),
        SizeFacts(axes=7),  # type: ignore[arg-type]
    ],
)
def test_facts_that_do_not_fit_the_call_say_nothing(facts):
    assert suspicions(SPEC, facts) == ()


def test_what_is_no_program_has_no_facts():
    assert SizeFacts.captured(object()) == SizeFacts()


def test_another_process_has_the_static_axes_and_the_ranges():
    facts = SizeFacts(axes=((S0, 8), None), ranges={S0: (3, 4)})
    plain = SizeFacts.from_plain(facts.as_plain())
    assert plain.axes == ((sympy.Symbol("s0"), 8), None)
    assert plain.ranges == {sympy.Symbol("s0"): (3, 4)}
    code = "__import__('os')"  # is never evaluated
    facts = SizeFacts.from_plain({"axes": [], "ranges": {code: [2, None]}})
    assert facts.ranges == {sympy.Symbol(code): (2, None)}
