"""outcomes/operator_table.py: each row holds what its kinds promise, and no other file names one."""

from __future__ import annotations

import ast
import itertools
import operator
import re
from pathlib import Path

import onnx
import pytest
import torch

import pytest_torchexport
from pytest_torchexport.outcomes.operator_table import KINDS, OPERATORS, functions_of, of_kind

PACKAGE = Path(pytest_torchexport.__file__).parent
X = torch.tensor([[0.3, -1.7, 2.6, 0.9], [-0.4, 1.2, -2.1, 3.3], [0.7, -0.8, 1.6, -3.9]])
# Values of arguments that have no default, by their names.
ARGUMENTS = {
    **dict.fromkeys(("dim", "dim1", "dimension", "step"), 1),
    "dim0": 0,
    "dims": [1, 0],
    "k": 2,
    "repeats": [2, 1],
    "shifts": [1],
    "split_size": 2,
    "split_sizes": [1, 2],
    "stride": [4, 1],
}


def argument(item, x, given):
    """Return a value for an argument of an operator."""
    kind = str(item.type)
    if item.name in given:
        return given[item.name]
    if item.name in ("indices", "index") and kind.startswith(("Tensor", "List[Optional")):
        places = torch.tensor([2, 0, 1])
        return [places] if kind.startswith("List") else places
    if item.name in ("size", "shape"):
        return 2 if kind in ("int", "SymInt") else list(x.shape)
    if item.name in ARGUMENTS:
        return ARGUMENTS[item.name]
    if kind.startswith("List"):
        return [x, 2 * x]
    if kind in ("int", "SymInt"):
        return 1
    return x if kind == "Tensor" else 0.5


def call(name, x=X, **given):
    """Return the result of the first overload of an operator that takes such arguments."""
    packet = getattr(torch.ops.aten, name)
    # getattr, for ``__getattr__`` makes a second overload, which torch.export takes for a custom one.
    for overload in (getattr(packet, each) for each in packet.overloads()):
        items = overload._schema.arguments
        if any(item.is_out for item in items) or not {*given} <= {item.name for item in items}:
            continue
        filled = {
            item.name: argument(item, x, given)
            for item in items
            if item.name in given or not item.has_default_value()
        }
        try:
            return overload(**filled)
        except (RuntimeError, NotImplementedError, IndexError):
            continue
    pytest.fail(f"no overload of {name} takes {given}")


# -- the table itself ------------------------------------------------------------------------------


def test_every_operator_is_one_that_torch_has():
    every = torch._C._dispatch_get_all_op_names()
    known = {name.rpartition("::")[2].partition(".")[0].removesuffix("_") for name in every}
    assert OPERATORS.keys() - known - set(functions_of(OPERATORS).values()) == set()


def test_every_kind_has_a_meaning_and_an_operator():
    assert {kind for row in OPERATORS.values() for kind in row.kinds} == KINDS.keys()


@pytest.mark.parametrize("name", OPERATORS)
def test_the_arguments_that_a_row_names_are_those_of_the_operator(name):
    row = OPERATORS[name]
    bounds = [bound.strip("-").split("/") for bound in row.bounds if isinstance(bound, str)]
    named = {*row.exponents, row.table, *itertools.chain(*bounds)} - {""}
    packet = getattr(torch.ops.aten, name, None)
    schemas = [getattr(packet, each)._schema for each in packet.overloads()] if packet else []
    known = {item.name for schema in schemas for item in schema.arguments}
    assert named <= known
    assert not row.same_as or hasattr(torch.ops.aten, row.same_as)


def test_onnx_has_the_operators_that_rows_name():
    named = {row.onnx for row in OPERATORS.values()} - {""}
    assert named <= {schema.name for schema in onnx.defs.get_all_schemas()}


# -- what kinds promise ----------------------------------------------------------------------------

SYMBOLS = {">": "gt", ">=": "ge", "<": "lt", "<=": "le", "==": "eq", "!=": "ne"}


@pytest.mark.parametrize("name", sorted(of_kind("comparison")))
def test_the_symbol_of_a_comparison_says_what_it_compares(name):
    compares = getattr(operator, SYMBOLS[OPERATORS[name].symbol])
    for number in (0.25, 0.5, 0.75):
        found = call(name, torch.tensor([0.5]), other=number)
        assert found.item() == compares(0.5, number)


@pytest.mark.parametrize("name", sorted(of_kind("logic")))
def test_the_symbol_of_logic_says_how_truths_are_combined(name):
    for left in (True, False):
        for right in (True, False):
            wanted = {"and": left and right, "or": left or right, "xor": left != right}
            given = {} if OPERATORS[name].symbol == "not" else {"other": torch.tensor([right])}
            found = bool(call(name, torch.tensor([left]), **given))
            assert found == wanted.get(OPERATORS[name].symbol, not left)


@pytest.mark.parametrize("name", sorted(of_kind("step")))
def test_a_step_is_constant_next_to_almost_every_number(name):
    def results(x):
        given = {"other": 0.57} if name in of_kind("comparison", "division") else {}
        return call(name, x, **given)

    assert torch.equal(results(X), results(X + 1e-5))
    if OPERATORS[name].symbol not in ("==", "!="):
        assert not torch.equal(results(X), results(X.flip(1)))


@pytest.mark.parametrize("name", sorted(of_kind("whole", "rounding")))
def test_it_jumps_where_its_kind_says(name):
    place = 2.0 if name in of_kind("whole") else 2.5
    around = torch.tensor([place - 1e-3, place + 1e-3, place + 0.1])
    below, above, further = call(name, around).tolist()
    assert abs(above - below) > 0.5 > abs(further - above)


@pytest.mark.parametrize("name", sorted(of_kind("remainder", "mask")))
def test_integers_are_made_equal(name):
    given = {"other": 12}
    apart = 12 if name in of_kind("remainder") else 1
    one, other = call(name, torch.tensor([24, 24 + apart]), **given).tolist()
    assert one == other


@pytest.mark.parametrize(
    "name", sorted(name for name, row in OPERATORS.items() if row.largest is not None)
)
def test_a_choice_takes_the_largest_or_the_smallest_first(name):
    result = getattr(torch, name)(X, *((2,) if name == "topk" else (-1,)))
    places = result if isinstance(result, torch.Tensor) else result[1]
    first = places if places.dim() == 1 else places[:, 0]
    assert first.tolist() == (X.argmax(1) if OPERATORS[name].largest else X.argmin(1)).tolist()


@pytest.mark.parametrize(
    "name", sorted(of_kind("exact") & {it for it in OPERATORS if hasattr(torch.Tensor, it)})
)
def test_an_exact_operator_computes_the_same_in_float64(name):
    if name in of_kind("uninitialized", "training") or "random" in name or name in DRAWING:
        pytest.skip("its results are not its operand's")
    more = MORE.get(name, lambda _: {})
    narrow, wide = (call(name, x.clone(), **more(x)) for x in (X, X.double()))
    for one, other in zip(_floats(narrow), _floats(wide), strict=True):
        assert torch.equal(one.double(), other)


DRAWING = {"normal", "uniform"}
_PLACES = torch.tensor([[2, 0, 1, 1]])
MORE = {
    "gather": lambda _: {"dim": 0, "index": _PLACES},
    "scatter": lambda x: {"dim": 0, "index": _PLACES, "src": x},
    "index_fill": lambda _: {"dim": 0, "index": torch.tensor([1]), "value": 0.5},
    "masked_fill": lambda _: {"mask": X > 0, "value": 0.5},
    "masked_select": lambda _: {"mask": X > 0},
    "masked_scatter": lambda x: {"mask": X > 0, "source": x},
    "put": lambda x: {"index": torch.tensor([0]), "source": x[0, :1]},
    "where": lambda x: {"condition": X > 0, "self": x, "other": x},
    "clamp": lambda _: {"min": 0.25},
    "clip": lambda _: {"min": 0.25},
    "histc": lambda _: {"bins": 4},
    "resize": lambda _: {"size": [3, 4]},
    "select_scatter": lambda x: {"src": x[0], "dim": 0, "index": 1},
    "full_like": lambda _: {"fill_value": 0.5},
    "floor_divide": lambda _: {"other": 0.5},
}


def _floats(result):
    tensors = result if isinstance(result, (list, tuple)) else [result]
    return [tensor for tensor in tensors if tensor.is_floating_point()]


# -- no other file names an operator ---------------------------------------------------------------

# Names of operators that are words of this package too; "remainder" is also a kind.
WORDS = frozenset(
    """
    all any contiguous cpu cuda dropout equal full item max mean min normal ones random remainder set slice
    sum t to trace uniform where zero zeros
    """.split()  # noqa: SIM905  # as a list they would be 26 lines
)


def operators_named(tree: ast.AST) -> list[str]:
    """Return the operators that a file names: with ``aten``, in a comparison, or several at once."""
    quoted = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if hasattr(node, "body") and isinstance(node.body, list) and node.body
        if isinstance(node.body[0], ast.Expr)
    }
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in quoted:
                if re.search(r"\baten(::|\\?\.)\w", text):
                    found.append(text)
                found += several(text.split())
            case ast.Attribute(value=ast.Attribute(attr="aten"), attr=name):
                found.append(name)
            case ast.Set(elts=items) | ast.List(elts=items) | ast.Tuple(elts=items):
                found += several(texts(items))
            case ast.Dict(keys=items):
                found += several(texts(items))
            case ast.Compare(left=left, comparators=others):
                named = [*others, *(it for one in others for it in getattr(one, "elts", ()))]
                found += [
                    name for name in texts([left, *named]) if name in OPERATORS.keys() - WORDS
                ]
    return found


def texts(items):
    return [it.value for it in items if isinstance(it, ast.Constant) and isinstance(it.value, str)]


def several(names):
    """Return the names of operators in a collection in which most are, and more than one."""
    found = [name for name in names if name in OPERATORS.keys() - WORDS]
    return found if len(found) > 1 and 2 * len(found) > len(names) else []


def test_no_other_file_names_an_operator():
    named = {
        path.relative_to(PACKAGE).as_posix(): operators_named(ast.parse(path.read_text()))
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "operator_table.py"
    }
    found = {path: operators for path, operators in named.items() if operators}
    assert found == {}


def test_the_search_for_operators_finds_them():
    table = ast.parse((PACKAGE / "outcomes" / "operator_table.py").read_text())
    assert {"log1p", "upsample_nearest1d"} <= {*operators_named(table)}
