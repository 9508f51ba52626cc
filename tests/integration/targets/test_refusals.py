"""targets/refusals.py: conditions and sizes that torch.export really refuses, and that following the remedies helps."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim

from pytest_torchexport.outcomes.torch_state import quiet, suppress_output
from pytest_torchexport.targets.refusals import (
    DECIDED,
    NUMEL,
    REMEDIES,
    SIZE,
    STATIC,
    WHILE,
    control_flow,
)

needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("onnxscript") is None, reason="needs the extra [onnx]"
)


def module(function):
    """A module of which the function is ``forward``."""
    return type(function.__name__, (nn.Module,), {"forward": function})().eval()


def export(subject, *args, **options):
    with quiet("cpu"), suppress_output():
        return torch.export.export(subject, args, **options)


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


def bounded(self, x):
    return x / max(x.sum().item(), 1.0)


def bounded_by_torch(self, x):
    return x / x.sum().clamp(min=1.0)


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
    (if_item, "if", "m > 3", "to torch it is zuf0 > 3.0"),
    (chained, "if", "0.2 < m < 0.4", ""),
    (parts, "if", "x.sum() > 0 and (x.max() > 1 or not x.min() < 0)", ""),
    (ternary, "if", "x.sum() > 0", ""),
    (elif_max, "if", "x.max() > 2", ""),
    (match_value, "if", "bool(x.sum() > 0)", ""),
    (nonzero_rows, "if", "y.shape[0] > 2", "to torch it is u0 > 2"),
    (nonzero_empty, "if", "y.numel() == 0", "to torch it is Eq(2*u0, 0)"),
    (chosen, "if", "int(x.sum() > 0)", ""),
    (while_norm, "while", "x.norm() > 1", ""),
    (for_range, "for", "range(int(x.sum()))", ""),
    (bounded, "extreme", "max(x.sum().item(), 1.0)", "to torch it is zuf0 < 1.0"),
    (asserted, "assert", "x.sum() > 0", ""),
]


def cause_of(forward, *args, **options):
    found = control_flow(refusal(export, module(forward), *args, **options))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("forward", "kind", "condition", "symbolic"),
    VALUES,
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_a_condition_on_values_is_named_with_its_line_and_remedy(
    forward, kind, condition, symbolic
):
    cause = cause_of(forward, torch.rand(4, 4))
    assert cause.kind == "data-dependent value"
    assert cause.text == DECIDED[kind].format(text=condition)
    assert cause.remedy == REMEDIES[kind]
    assert cause.where.place == place_of(forward, condition)
    assert [line for line in cause.details if line.startswith("to torch")] == [symbolic][
        : len(symbolic)
    ]


def test_the_larger_of_two_numbers_is_had_by_clamp():
    x = torch.rand(4, 4)
    found = export(module(bounded_by_torch), x).module()(x)
    torch.testing.assert_close(found, module(bounded)(x))


@pytest.mark.parametrize(
    ("forward", "condition"),
    [(if_sum, "x.sum() > 0"), (if_any, "bool((x > 1).any())"), (while_norm, "x.norm() > 1")],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_strict_capture_says_it_in_other_words(forward, condition):
    cause = cause_of(forward, torch.rand(4, 4), strict=True)
    assert condition in cause.text
    assert cause.where.place == place_of(forward, condition)


@pytest.mark.parametrize(
    ("forward", "value"), [(number, "int(x.sum())"), (rounded, "round(float(x.sum()))")]
)
def test_a_number_made_of_a_tensor_is_named(forward, value):
    cause = cause_of(forward, torch.rand(4, 4))
    assert cause.text == DECIDED["number"].format(text=value)
    assert cause.remedy == REMEDIES["number"]
    assert cause.where.place == place_of(forward, value)


def test_a_condition_over_several_lines_is_named_whole():
    assert " x.sum() > 0 and y.max() > 1," in cause_of(long_condition, torch.rand(4, 4)).text


def test_of_two_conditions_on_one_line_none_is_guessed():
    assert " return x if x.sum() > 0 else (-x if" in cause_of(two_ternaries, torch.rand(4, 4)).text


def test_a_condition_in_a_comprehension_is_named():
    cause = cause_of(comprehension, torch.rand(4, 4))
    assert cause.text == DECIDED["if"].format(text="row.sum() > 0")


def test_a_number_in_a_loop_over_something_else_is_a_number():
    cause = cause_of(numbers, torch.rand(4, 4))
    assert cause.text == DECIDED["number"].format(text="int(row.sum())")


def test_a_condition_in_a_submodule_is_named_where_it_stands():
    cause = control_flow(refusal(export, Outer(), torch.rand(4, 4)))
    assert cause.where.place == place_of(Inner, "x.sum() > 3")


def test_a_condition_in_a_helper_function_is_named_where_it_stands():
    cause = cause_of(calls_helper, torch.rand(4, 4))
    assert cause.where.place == place_of(helper, "x.sum() > 3")


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

    cause = cause_of(forward, torch.rand(4, 4))
    assert cause.text == DECIDED["if"].format(text="ask(x[0], x[1])")
    assert instead in cause.details[0]


def test_of_a_size_that_comes_from_values_something_may_be_promised():
    details = cause_of(nonzero_rows, torch.rand(4, 4)).details
    assert "or, if it always holds, before this line: torch._check(y.shape[0] > 2)" in details


@needs_onnx
def test_the_onnx_exporter_wraps_the_same_refusal():
    def convert():
        with quiet("cpu"), suppress_output():
            torch.onnx.export(module(if_sum), (torch.rand(4, 4),), dynamo=True, verbose=False)

    cause = control_flow(refusal(convert))
    assert cause.where.place == place_of(if_sum, "x.sum() > 0")
    assert cause.remedy == REMEDIES["if"]


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
    ("forward", "condition", "declared"),
    [
        (
            size_above,
            "x.shape[0] > 4",
            ['or declare what the export takes: dims={"rows": (5, 16)}'],
        ),
        (
            size_even,
            "x.shape[0] % 2 == 0",
            [
                'or declare what the export takes: "2*_rows" in place of "rows" in shapes; dims={"_rows": (1, 8)}'
            ],
        ),
        (size_five, "x.shape[0] == 5", []),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_a_condition_on_a_size_asks_for_a_dim_on_one_side(forward, condition, declared):
    cause = control_flow(refused_sizes(forward, Dim("rows", min=1, max=16)))
    assert cause.kind == "guard"
    assert cause.text == f"{condition} decides by a size that is declared to vary"
    assert cause.remedy.splitlines() == [SIZE, *declared]
    assert cause.where.place == place_of(forward, condition)
    assert cause.details == ()


def size_chosen(self, x):
    rows = int(x.shape[0]) if self.training is False else x.shape[0]
    return sum(x[i] for i in range(rows))


@pytest.mark.parametrize(
    ("forward", "text"),
    [
        (size_number, "int(x.shape[0])"),
        (size_loop, "range(x.shape[0])"),
        (size_chosen, "int(x.shape[0])"),
    ],
)
def test_a_size_that_becomes_a_number_is_named(forward, text):
    cause = control_flow(refused_sizes(forward, Dim.DYNAMIC))
    assert cause.kind == "frozen size"
    assert cause.text == f"{text} makes a number of a size that is declared to vary"
    assert cause.remedy == STATIC
    assert cause.where.place == place_of(forward, text)


def size_of_each(self, x):
    if x.shape.numel() == 0:
        return x
    return x * 2


def number_of_elements(self, x):
    if x.numel() == 0:
        return x
    return x * 2


def test_a_count_of_elements_that_makes_a_number_of_each_size_is_named():
    cause = control_flow(refused_sizes(size_of_each, Dim.DYNAMIC))
    assert cause.kind == "frozen size"
    assert cause.text == "x.shape.numel() makes a number of a size that is declared to vary"
    assert cause.remedy == NUMEL
    export(module(number_of_elements), torch.rand(5, 3), dynamic_shapes=({0: Dim.DYNAMIC},))


def test_what_the_operations_take_is_written_as_the_marker_has_it():
    cause = control_flow(refused_sizes(view, Dim("rows", min=1, max=16)))
    assert cause.remedy == (
        'declare what the export takes: "3*_rows" in place of "rows" in shapes; '
        'dims={"_rows": (1, 5)}'
    )


def test_a_size_that_the_operations_fix_is_to_be_declared_fixed():
    def forward(self, x):
        return x.view(6, 4)

    cause = control_flow(refused_sizes(forward, Dim("rows", min=1, max=16)))
    assert cause.text.startswith("the operations of forward take rows only as 6")
    assert cause.remedy == 'declare it fixed: 6 in place of "rows" in shapes'


def test_a_dim_of_two_inputs_is_named_once():
    class Pairs(nn.Module):
        def forward(self, x, y):
            return torch.stack([one + other for one, other in zip(x, y, strict=True)])

    rows = {0: Dim("rows", min=1, max=16)}
    with pytest.raises(Exception, match="Constraints violated") as caught:
        torch.export.export(
            Pairs(), (torch.ones(6, 4), torch.ones(6, 4)), dynamic_shapes={"x": rows, "y": rows}
        )
    cause = control_flow(caught.value)
    assert cause.text.startswith("the operations of forward take rows only as 6, and")
    assert cause.remedy == 'declare it fixed: 6 in place of "rows" in shapes'


# -- what is no control flow -------------------------------------------------------------------------


def test_other_refusals_are_not_about_control_flow():
    def numpy(self, x):
        return x + torch.from_numpy(x.detach().numpy())

    def broken(self, x):
        return x @ torch.zeros(7, 7)

    assert control_flow(refusal(export, module(numpy), torch.rand(4, 4))) is None
    assert control_flow(refusal(export, module(broken), torch.rand(4, 4))) is None
    assert control_flow(ValueError("anything")) is None


def test_source_that_cannot_be_read_leaves_the_line(tmp_path, monkeypatch):
    file = tmp_path / "gone.py"
    file.write_text("def forward(self, x):\n    if x.sum() > 0:\n        return x\n    return -x\n")
    names = {}
    exec(compile(file.read_text(), str(file), "exec"), names)
    file.unlink()
    cause = cause_of(names["forward"], torch.rand(4, 4))
    assert cause.where.place == f"{file}:2"
    assert cause.remedy == REMEDIES["if"]


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


def with_a_promise(self, x):
    y = x[x >= 0]
    torch._check(y.shape[0] > 2)
    if y.shape[0] > 2:
        return y.sum()
    return y.sum() * 2


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
    with_a_promise,
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
