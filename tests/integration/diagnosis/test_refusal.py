"""diagnosis/refusal.py: what an exporter refuses is named with its line, in programs that it really refuses."""

from __future__ import annotations

import pytest
import torch
from specs import spec_of
from torch.export import Dim
from upstream_examples import example

from pytest_torchexport import targets
from pytest_torchexport.diagnosis.refusal import (
    CAUSES,
    REMEDIES,
    SIZE,
    STATIC,
    explained,
    undecided,
)
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.messages import condense
from pytest_torchexport.outcomes.torch_state import quiet, suppress_output
from pytest_torchexport.targets.upstream import rows

ROWS = [
    pytest.param(row, id=f"{row.targets[0]}-{row.cause[:40].replace(' ', '-')}")
    for row in rows("refusals")
    if not row.unchecked
]


@pytest.mark.filterwarnings("ignore:torch.quantize")
@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_the_table_is_what_its_example_is_refused_for(row, tmp_path):
    (target, *_) = row.targets
    if reason := targets.get(target).unavailable("cpu"):
        pytest.skip(reason)
    module, call = example(row.example, tmp_path)
    spec = spec_of(module.forward, *call, shapes={})
    # Each exporter has classes of its own.
    with quiet("cpu"), suppress_output(), pytest.raises(Exception) as caught:
        targets.get(target).export(module, Call(call), spec)
    found = explained(caught.value, target, module)
    assert found.causes, condense(caught.value)
    (cause,) = found.causes
    own, _, _ = row.remedy.partition("{")
    assert cause.remedy.startswith(own), (cause, condense(caught.value))
    assert (found.owner, cause.kind) == (row.owner, row.kind)
    if target != "onnx_legacy" and row.line:
        assert cause.where is not None


# -- what torch.export could not decide ------------------------------------------------------------

TWO = "x = x if x.sum() > 0 else (-x if x.max() > 1 else x + 1)"
# What asks for a value, in programs that end by returning x: the kind, the text, the program.
BY_VALUE = [
    ("if", "x.sum() > 0", "if x.sum() > 0:\n    return -x"),
    (
        "if",
        "x.sum() > 0 and x.max() > 1",
        "if (\n    x.sum() > 0  # a sum\n    and x.max() > 1\n):\n    return -x",
    ),
    ("if", "int(x.sum() > 0)", "x = [torch.relu, torch.neg][int(x.sum() > 0)](x)"),
    ("while", "x.norm() > 1", "while x.norm() > 1:\n    x = x / 2"),
    ("for", "range(int(x.sum()))", "for i in range(int(x.sum())):\n    x = x + i"),
    ("assert", "x.sum() > 0", "assert x.sum() > 0, 'positive'"),
    ("number", "int(row.sum())", "n = [int(row.sum()) for row in [x[0], x[1]]]\nx = x * n[0]"),
    (None, "", "x = x @ torch.zeros(7, 7)"),
    # torch does not say which of two conditions on one line it means.
    ("if", TWO, TWO),
]
BY_SIZE = [
    ("guard", "x.shape[0] > 4", SIZE, "if x.shape[0] > 4:\n    return -x"),
    ("frozen size", "int(x.shape[0])", STATIC, "x = sum(x[i] for i in range(int(x.shape[0])))"),
    (
        "frozen size",
        "the operations of forward take rows only as 6",
        'declare it fixed: 6 in place of "rows" in shapes',
        "x = x.view(6, 4)",
    ),
]


def forward_of(body, folder):
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    module, _ = example(f"def forward(self, x):\n{lines}    return x\n", folder)
    return module


def refused(body, folder, **options):
    """Return the cause of the refusal of a program, if any."""
    torch.compiler.reset()
    with quiet("cpu"), suppress_output(), pytest.raises(Exception) as caught:
        torch.export.export(forward_of(body, folder), (torch.rand(6, 4),), **options)
    return next(iter(undecided(caught.value).causes), None)


@pytest.mark.parametrize(
    ("kind", "text", "body", "strict"),
    # Strict capture says it in words of its own, and knows other things.
    [*((*row, False) for row in BY_VALUE), (*BY_VALUE[0], True)],
    ids=lambda item: str(item)[:20].replace(" ", "-"),
)
def test_what_asks_for_a_value_is_named_with_its_line_and_remedy(
    kind, text, body, strict, tmp_path
):
    cause = refused(body, tmp_path, strict=strict)
    if kind is None:  # it is not about control flow
        assert cause is None
        return
    assert cause.kind == "data-dependent value"
    assert cause.text == CAUSES[kind].format(text=text)
    assert cause.remedy == REMEDIES[kind]
    assert cause.where.file.startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "text", "remedy", "body"), BY_SIZE, ids=lambda item: item[:20].replace(" ", "-")
)
def test_what_narrows_a_size_is_named_with_its_remedy(kind, text, remedy, body, tmp_path):
    cause = refused(body, tmp_path, dynamic_shapes=({0: Dim("rows", min=2, max=16)},))
    assert cause.kind == kind
    assert cause.text.startswith(text)
    assert cause.remedy.startswith(remedy)


TAKEN = [
    "return torch.cond(x.sum() > 0, lambda v: v * 2, lambda v: -v, (x,))",
    "for i in range(8):\n    x = torch.where(i < x.sum(), x + 1, x)",
    "n = x.sum().long().item()\ntorch._check(n >= 0)\nreturn torch.zeros(n, 3)",
    "y = x[x >= 0]\ntorch._check(y.shape[0] > 2)\nif y.shape[0] > 2:\n    return y.sum()",
]


@pytest.mark.parametrize("body", TAKEN, ids=lambda item: item[:20].replace(" ", "-"))
def test_torch_export_takes_what_is_advised(body, tmp_path):
    module, x = forward_of(body, tmp_path), torch.rand(4, 4)
    with quiet("cpu"), suppress_output():
        program = torch.export.export(module, (x,))
    torch.testing.assert_close(program.module()(x), module(x))
