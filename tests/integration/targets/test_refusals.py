"""targets/refusals.py: remedies for real refusals of torch, and that following them helps."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from typing import Optional, Union

import pytest
import torch
from torch import nn
from torch.export import Dim

from pytest_torchexport.outcomes.messages import condense
from pytest_torchexport.outcomes.torch_state import quiet, suppress_output
from pytest_torchexport.targets.refusals import DRAFT, REMEDIES, SCRIPT, STATIC, WHILE, remedy

needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("onnxscript") is None, reason="needs the extra [onnx]"
)


def module(function):
    """A module of which the function is ``forward``."""
    return type(function.__name__, (nn.Module,), {"forward": function})().eval()


def export(subject, *args, **options):
    with quiet("cpu"), suppress_output():
        return torch.export.export(subject, args, **options)


def script(subject):
    with quiet("cpu"), suppress_output():
        return torch.jit.script(subject)


def refusal(make, *args, **options):
    torch.compiler.reset()
    with pytest.raises(Exception) as caught:  # each torch has its own class
        make(*args, **options)
    return caught.value


def place_of(subject, words):
    """``tests/integration/targets/test_refusals.py:12``: where in the source of the subject these words stand."""
    lines, first = inspect.getsourcelines(subject)
    number = next(i for i, line in enumerate(lines, first) if words in line)
    path = Path(__file__)
    short = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{short}:{number}"


# -- branches on values ------------------------------------------------------------------------------


def if_sum(self, x):
    if x.sum() > 0:
        return x
    return -x


def if_any(self, x):
    if bool((x > 1).any()):
        return x
    return -x


def if_not(self, x):
    if not x.any():
        return x
    return -x


def if_item(self, x):
    m = x.max().item()
    if m > 3:
        return x
    return -x


def chained(self, x):
    m = x.mean()
    if 0.2 < m < 0.4:
        return x
    return -x


def parts(self, x):
    if x.sum() > 0 and (x.max() > 1 or not x.min() < 0):
        return x
    return -x


def long_condition(self, x):
    y = x + 1
    if (
        # a comment
        x.sum() > 0 and y.max() > 1
    ):
        return x
    return -x


def ternary(self, x):
    return x if x.sum() > 0 else -x


def two_ternaries(self, x):
    return x if x.sum() > 0 else (-x if x.max() > 1 else x + 1)


def elif_max(self, x):
    if x.shape[0] > 1000:
        return x
    elif x.max() > 2:  # noqa: RET505
        return x + 1
    return -x


def match_value(self, x):
    match bool(x.sum() > 0):
        case True:
            return x
        case _:
            return -x


def nonzero_rows(self, x):
    y = x[x > 0]
    if y.shape[0] > 2:
        return y.sum()
    return y.sum() * 2


def nonzero_empty(self, x):
    y = torch.nonzero(x)
    if y.numel() == 0:
        return x
    return x + 1


def comprehension(self, x):
    return torch.stack([row for row in x if row.sum() > 0])


def numbers(self, x):
    rows = [x[0], x[1]]
    sums = [int(row.sum()) for row in rows]
    return x * sums[0]


def chosen(self, x):
    return [torch.relu, torch.neg][int(x.sum() > 0)](x)


def while_norm(self, x):
    while x.norm() > 1:
        x = x / 2
    return x


def for_range(self, x):
    for i in range(int(x.sum())):
        x = x + i
    return x


def asserted(self, x):
    assert x.sum() > 0, "positive"
    return x * 2


def number(self, x):
    n = int(x.sum())
    return x * n


def rounded(self, x):
    n = round(float(x.sum()))
    return x * n


def helper(x):
    if x.sum() > 3:
        return x
    return -x


class Inner(nn.Module):
    def forward(self, x):
        if x.sum() > 3:
            return x
        return -x


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Inner()

    def forward(self, x):
        return self.inner(x) + 1


def calls_helper(self, x):
    return helper(x * 2) + 1


VALUES = [
    (if_sum, "if", "x.sum() > 0", ""),
    (if_any, "if", "bool((x > 1).any())", ""),
    (if_not, "if", "not x.any()", ""),
    (if_item, "if", "m > 3", ", to torch zuf0 > 3.0"),
    (chained, "if", "0.2 < m < 0.4", ""),
    (parts, "if", "x.sum() > 0 and (x.max() > 1 or not x.min() < 0)", ""),
    (ternary, "if", "x.sum() > 0", ""),
    (elif_max, "if", "x.max() > 2", ""),
    (match_value, "if", "bool(x.sum() > 0)", ""),
    (nonzero_rows, "if", "y.shape[0] > 2", ", to torch u0 > 2"),
    (nonzero_empty, "if", "y.numel() == 0", ", to torch Eq(2*u0, 0)"),
    (chosen, "if", "int(x.sum() > 0)", ""),
    (while_norm, "while", "x.norm() > 1", ""),
    (for_range, "for", "range(int(x.sum()))", ""),
    (asserted, "assert", "x.sum() > 0", ""),
]


@pytest.mark.parametrize(
    ("forward", "kind", "condition", "symbolic"),
    VALUES,
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_a_condition_on_values_is_named_with_its_line_and_remedy(
    forward, kind, condition, symbolic
):
    lines = remedy(refusal(export, module(forward), torch.rand(4, 4)))
    place = place_of(forward, condition)
    assert lines[0] == f"condition: {condition}{symbolic}  ({place})"
    assert lines[1] == f"remedy: {REMEDIES[kind]}"


@pytest.mark.parametrize(
    ("forward", "condition"),
    [(if_sum, "x.sum() > 0"), (if_any, "bool((x > 1).any())"), (while_norm, "x.norm() > 1")],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_strict_capture_says_it_in_other_words(forward, condition):
    lines = remedy(refusal(export, module(forward), torch.rand(4, 4), strict=True))
    assert lines[0] == f"condition: {condition}  ({place_of(forward, condition)})"


@pytest.mark.parametrize(
    ("forward", "value"), [(number, "int(x.sum())"), (rounded, "round(float(x.sum()))")]
)
def test_a_number_made_of_a_tensor_is_named(forward, value):
    lines = remedy(refusal(export, module(forward), torch.rand(4, 4)))
    assert lines[:2] == (
        f"value: {value}  ({place_of(forward, value)})",
        f"remedy: {REMEDIES['number']}",
    )


def test_a_condition_over_several_lines_is_named_whole():
    lines = remedy(refusal(export, module(long_condition), torch.rand(4, 4)))
    assert lines[0].startswith("condition: x.sum() > 0 and y.max() > 1  (")


def test_of_two_conditions_on_one_line_none_is_guessed():
    lines = remedy(refusal(export, module(two_ternaries), torch.rand(4, 4)))
    assert lines[0].startswith("condition: return x if x.sum() > 0 else (-x if")


def test_a_condition_in_a_comprehension_is_named():
    lines = remedy(refusal(export, module(comprehension), torch.rand(4, 4)))
    assert lines[0] == f"condition: row.sum() > 0  ({place_of(comprehension, 'row.sum() > 0')})"
    assert lines[1] == f"remedy: {REMEDIES['if']}"


def test_a_number_in_a_loop_over_something_else_is_a_number():
    lines = remedy(refusal(export, module(numbers), torch.rand(4, 4)))
    assert lines[0] == f"value: int(row.sum())  ({place_of(numbers, 'int(row.sum())')})"


def test_a_condition_in_a_submodule_is_named_where_it_stands():
    lines = remedy(refusal(export, Outer(), torch.rand(4, 4)))
    assert lines[0] == f"condition: x.sum() > 3  ({place_of(Inner, 'x.sum() > 3')})"


def test_a_condition_in_a_helper_function_is_named_where_it_stands():
    lines = remedy(refusal(export, module(calls_helper), torch.rand(4, 4)))
    assert lines[0] == f"condition: x.sum() > 3  ({place_of(helper, 'x.sum() > 3')})"


@pytest.mark.parametrize(
    ("ask", "instead"),
    [(torch.equal, "(a == b).all()"), (torch.allclose, "torch.isclose(a, b).all()")],
    ids=["equal", "allclose"],
)
def test_tests_that_give_a_python_bool_have_a_twin_that_gives_a_tensor(ask, instead):
    def forward(self, x):
        if ask(x[0], x[1]):
            return x
        return -x

    lines = remedy(refusal(export, module(forward), torch.rand(4, 4)))
    assert lines[0] == f"condition: ask(x[0], x[1])  ({place_of(forward, 'ask(')})"
    assert lines[1] == f"remedy: {REMEDIES['if']}"
    assert instead in lines[2]


def test_draft_export_is_recommended_where_it_gets_further():
    assert remedy(refusal(export, module(if_sum), torch.rand(4, 4)))[-1] == DRAFT
    assert DRAFT not in remedy(refusal(export, module(nonzero_rows), torch.rand(4, 4)))


@needs_onnx
def test_the_onnx_exporter_wraps_the_same_refusal():
    def convert():
        with quiet("cpu"), suppress_output():
            torch.onnx.export(module(if_sum), (torch.rand(4, 4),), dynamo=True, verbose=False)

    lines = remedy(refusal(convert))
    assert lines[0] == f"condition: x.sum() > 0  ({place_of(if_sum, 'x.sum() > 0')})"
    assert lines[1] == f"remedy: {REMEDIES['if']}"


# -- branches on sizes -------------------------------------------------------------------------------


def size_above(self, x):
    if x.shape[0] > 4:
        return x
    return -x


def size_even(self, x):
    return x if x.shape[0] % 2 == 0 else -x


def size_five(self, x):
    if x.shape[0] == 5:
        return x
    return -x


def size_number(self, x):
    rows = int(x.shape[0])
    return sum(x[i] for i in range(rows))


def size_loop(self, x):
    total = x[0]
    for i in range(x.shape[0]):
        total = total + x[i]
    return total


def view(self, x):
    return x.view(3, -1)


def refused_sizes(forward, dim):
    shapes = ({0: dim},)
    return refusal(export, module(forward), torch.rand(6, 4), dynamic_shapes=shapes)


@pytest.mark.parametrize(
    ("forward", "condition", "example"),
    [
        (size_above, "x.shape[0] > 4", ", e.g. rows = Dim('rows', min=5, max=16)"),
        (
            size_even,
            "x.shape[0] % 2 == 0",
            ", e.g. _rows = Dim('_rows', min=1, max=8), rows = 2*_rows",
        ),
        (size_five, "x.shape[0] == 5", ""),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_a_condition_on_a_size_asks_for_a_dim_on_one_side(forward, condition, example):
    lines = remedy(refused_sizes(forward, Dim("rows", min=1, max=16)))
    assert lines == (
        f"condition: {condition}  ({place_of(forward, condition)})",
        f"remedy: a torch.export.Dim that keeps to one side of it{example}, or torch.cond",
    )


@pytest.mark.parametrize(
    ("forward", "text"), [(size_number, "int(x.shape[0])"), (size_loop, "range(x.shape[0])")]
)
def test_a_size_that_becomes_a_number_is_named(forward, text):
    lines = remedy(refused_sizes(forward, Dim.DYNAMIC))
    assert lines == (f"size: {text}  ({place_of(forward, text)})", f"remedy: {STATIC}")


def test_sizes_that_no_branch_asked_for_have_no_remedy_here():
    assert remedy(refused_sizes(view, Dim("rows", min=1, max=16))) == ()


# -- what is no control flow -------------------------------------------------------------------------


def test_other_refusals_have_no_remedy_here():
    def numpy(self, x):
        return x + torch.from_numpy(x.detach().numpy())

    def broken(self, x):
        return x @ torch.zeros(7, 7)

    assert remedy(refusal(export, module(numpy), torch.rand(4, 4))) == ()
    assert remedy(refusal(export, module(broken), torch.rand(4, 4))) == ()
    assert remedy(ValueError("anything")) == ()


def test_source_that_cannot_be_read_leaves_the_line(tmp_path, monkeypatch):
    file = tmp_path / "gone.py"
    file.write_text("def forward(self, x):\n    if x.sum() > 0:\n        return x\n    return -x\n")
    names = {}
    exec(compile(file.read_text(), str(file), "exec"), names)
    file.unlink()
    lines = remedy(refusal(export, module(names["forward"]), torch.rand(4, 4)))
    assert lines[0].endswith(f"({file}:2)")
    assert lines[1] == f"remedy: {REMEDIES['if']}"


# -- the remedies of torch.export are taken ----------------------------------------------------------


def with_cond(self, x):
    return torch.cond(x.sum() > 0, lambda v: v * 2, lambda v: -v, (x,))


def with_where(self, x):
    return torch.where(x.sum() > 0, x, -x)


def with_while_loop(self, x):
    from torch._higher_order_ops import while_loop

    return while_loop(lambda v: v.norm() > 1, lambda v: (v / 2,), (x,))[0]


def with_masked_steps(self, x):
    n = x.sum()
    for i in range(8):
        x = torch.where(i < n, x + 1, x)
    return x


def with_assert_async(self, x):
    torch._assert_async(x.sum() > 0, "positive")
    return x * 2


def with_item(self, x):
    return x * x.sum().item()


def with_bounded_int(self, x):
    n = x.sum().long().item()
    torch._check(n >= 0)
    return torch.zeros(n, 3)


def with_equal(self, x):
    return torch.cond((x[0] == x[1]).all(), lambda v: v * 2, lambda v: -v, (x,))


def with_isclose(self, x):
    return torch.cond(torch.isclose(x[0], x[1]).all(), lambda v: v * 2, lambda v: -v, (x,))


TAKEN = [
    with_cond,
    with_where,
    with_while_loop,
    with_masked_steps,
    with_assert_async,
    with_item,
    with_bounded_int,
    with_equal,
    with_isclose,
]


@pytest.mark.parametrize("strict", [False, True], ids=["plain", "strict"])
@pytest.mark.parametrize("forward", TAKEN, ids=lambda item: item.__name__)
def test_torch_export_takes_what_is_advised(forward, strict):
    subject, x = module(forward), torch.rand(4, 4)
    program = export(subject, x, strict=strict)
    torch.testing.assert_close(program.module()(x), subject(x))


def test_the_while_loop_that_is_advised_exists():
    home, _, name = WHILE.rpartition(".")
    owner = torch if home == "torch" else importlib.import_module(home)
    assert callable(getattr(owner, name))


# -- torch.jit.script --------------------------------------------------------------------------------


class Undefined(nn.Module):
    def forward(self, x):
        if x.sum() > 0:  # here
            y = x + 1
        return y


class Defined(nn.Module):
    def forward(self, x):
        y = x
        if x.sum() > 0:
            y = x + 1
        return y


class Unequal(nn.Module):
    def forward(self, x):
        if x.sum() > 0:  # here
            x = -x
            y = x + 1
        else:
            y = 0
        return x + y


class Equalized(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            x = -x
            y = x + 1
        else:
            y = torch.zeros(())
        return x + y


class OtherReturn(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return 0  # here


class UnionReturn(nn.Module):
    def forward(self, x) -> Union[torch.Tensor, int]:  # noqa: UP007 - TorchScript's spelling
        if x.sum() > 0:
            return x
        return 0


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.ReLU(), nn.Tanh()])


class Indexed(Layers):
    def forward(self, x):
        return self.layers[int(x.sum() > 0)](x)  # here


class Enumerated(Layers):
    def forward(self, x):
        index = int(x.sum() > 0)
        for i, layer in enumerate(self.layers):
            if i == index:
                x = layer(x)
        return x


class ComprehensionIf(nn.Module):
    def forward(self, x):
        return torch.stack([row for row in x if row.sum() > 0])  # here


class Appended(nn.Module):
    def forward(self, x):
        rows = []
        for row in x:
            if row.sum() > 0:
                rows.append(row)  # noqa: PERF401 - what TorchScript takes
        return torch.stack(rows)


class Tried(nn.Module):
    def forward(self, x):
        try:  # here
            return x.view(2, -1)
        except RuntimeError:
            return x


class Asked(nn.Module):
    def forward(self, x):
        if x.numel() % 2 == 0:
            return x.view(2, -1)
        return x


class Matched(nn.Module):
    def forward(self, x):
        match x.shape[0]:  # here
            case 1:
                return x
            case _:
                return -x


class Elif(nn.Module):
    def forward(self, x):
        if x.shape[0] == 1:
            return x
        elif x.shape[0] == 2:  # noqa: RET505
            return x * 2
        return -x


class Walrus(nn.Module):
    def forward(self, x):
        if (total := x.sum()) > 0:  # here
            return x * total
        return x


class Assigned(nn.Module):
    def forward(self, x):
        total = x.sum()
        if total > 0:
            return x * total
        return x


class ForElse(nn.Module):
    def forward(self, x):
        for i in range(3):  # here
            if x.sum() > i:
                break
        else:
            x = -x
        return x


class Flag(nn.Module):
    def forward(self, x):
        found = False
        for i in range(3):
            if x.sum() > i:
                found = True
        if not found:
            x = -x
        return x


class Break(Layers):
    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
            if x.sum() > 0:
                break  # here
        return x


class Guarded(Layers):
    def forward(self, x):
        done = False
        for layer in self.layers:
            if not done:
                x = layer(x)
                done = bool(x.sum() > 0)
        return x


class Nothing(nn.Module):
    def forward(self, x):
        y = None
        if x.sum() > 0:
            y = x  # here
        return x if y is None else x + y


class Annotated(nn.Module):
    def forward(self, x):
        y: Optional[torch.Tensor] = None  # noqa: UP045 - TorchScript's spelling
        if x.sum() > 0:
            y = x
        assert y is not None
        return x + y


SCRIPTS = [
    (Undefined, Defined, "is not defined"),
    (Unequal, Equalized, "in the true branch and type"),
    (OtherReturn, UnionReturn, "Previous return"),
    (Indexed, Enumerated, "ModuleList"),
    (ComprehensionIf, Appended, "Comprehension"),
    (Tried, Asked, "try"),
    (Matched, Elif, "Match"),
    (Walrus, Assigned, "NamedExpr"),
    (ForElse, Flag, "for loops"),
    (Break, Guarded, "break"),
    (Nothing, Annotated, "NoneType"),
]


@pytest.mark.parametrize(
    ("bad", "good", "words"), SCRIPTS, ids=[row[0].__name__ for row in SCRIPTS]
)
def test_torchscripts_refusals_of_control_flow_have_a_remedy_that_it_takes(bad, good, words):
    error = refusal(script, bad())
    (advice,) = remedy(error)
    (instead,) = [text for pattern, text in SCRIPT.items() if words in pattern]
    assert advice == f"remedy: {instead}"
    assert str(condense(error)[1]).startswith(f"{place_of(bad, '# here')}  ")
    x = torch.rand(2, 2)
    torch.testing.assert_close(script(good())(x), good()(x))


def test_every_remedy_for_scripts_is_tried():
    assert len(SCRIPTS) == len(SCRIPT)


def test_torchscripts_other_refusals_have_none():
    class Variadic(nn.Module):
        def forward(self, *xs):
            return xs[0]

    assert remedy(refusal(script, Variadic())) == ()
