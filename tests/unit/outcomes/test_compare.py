"""outcomes/compare.py: every difference, nothing but differences, and never an exception."""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.compare import (
    Tolerance,
    compare,
    compare_values,
    largest_error,
    remarks,
)
from pytest_torchexport.outcomes.observe import Raised, Returned, TimedOut
from pytest_torchexport.results.source_line import SourceLine

NAN, INF = math.nan, math.inf


def differences(expected, actual, rtol=None, atol=None):
    return compare_values(expected, actual, Tolerance(rtol, atol))


def only(expected, actual, **tolerance):
    (difference,) = differences(expected, actual, **tolerance)
    return difference


# -- outcomes --------------------------------------------------------------------------------------


def test_equal_outcomes_do_not_differ():
    outcome = Returned(torch.ones(2), Call())
    assert compare(outcome, outcome, Tolerance()) == []


def test_an_artifact_that_raises_is_one_difference():
    (difference,) = compare(
        Returned(1, Call()), Raised("ValueError", "no", SourceLine("net.py", 3, "x")), Tolerance()
    )
    assert (difference.kind, difference.actual) == ("raised", "ValueError: no")
    assert str(difference.where) == "net.py:3  x"


def test_an_artifact_that_hangs_is_one_difference():
    (difference,) = compare(Returned(1, Call()), TimedOut(3.0), Tolerance())
    assert difference.kind == "hung"


@pytest.mark.parametrize("outcome", [Raised("E", "m"), TimedOut(1.0)])
def test_eager_that_did_not_return_is_no_reference(outcome):
    with pytest.raises(TypeError, match="eager must return"):
        compare(outcome, Returned(1, Call()), Tolerance())


# -- structure -------------------------------------------------------------------------------------


def test_a_missing_output_is_a_structure_difference():
    difference = only((torch.ones(1), torch.ones(1)), (torch.ones(1),))
    assert difference.kind == "structure"
    assert (difference.expected, difference.actual) == ("tuple of 2", "tuple of 1")


def test_an_extra_output_is_a_structure_difference():
    assert only({"a": 1}, {"a": 1, "b": 2}).kind == "structure"
    assert only([1], [1, 2]).kind == "structure"
    assert only((), (1,)).kind == "structure"


def test_a_tensor_in_place_of_a_container_is_a_structure_difference():
    assert only((torch.ones(1),), torch.ones(1)).kind == "structure"
    assert only({"a": torch.ones(1)}, torch.ones(1)).kind == "structure"
    assert only({"a": torch.ones(1)}, (torch.ones(1),)).kind == "structure"


def test_the_path_says_where_the_structure_differs():
    difference = only({"a": (1, [2, 3])}, {"a": (1, [2])})
    assert difference.path == "output['a'][1]"


def test_all_structure_differences_are_listed():
    assert len(differences(([1], [2], 3), ([], [2, 2], 3))) == 2


def test_none_against_a_tensor_is_a_structure_difference():
    assert only((None, torch.ones(1)), (torch.ones(1), torch.ones(1))).kind == "structure"
    assert differences((None,), (None,)) == []


def test_formats_may_turn_namedtuples_into_tuples_and_dataclasses_into_dicts():
    pair = namedtuple("pair", "a b")  # noqa: PYI024  # a plain namedtuple is the case

    @dataclasses.dataclass
    class Output:
        a: object
        b: object

    assert differences(pair(1, 2), (1, 2)) == []
    assert differences((1, 2), [1, 2]) == []
    assert differences(Output(1, 2), {"a": 1, "b": 2}) == []
    assert differences(OrderedDict(a=1), {"a": 1}) == []


def test_keys_are_matched_by_name_and_not_by_order():
    left = {"a": torch.zeros(2), "b": torch.ones(2)}
    right = {"b": torch.ones(2), "a": torch.zeros(2)}
    assert differences(left, right) == []
    assert only(left, {"b": torch.zeros(2), "a": torch.zeros(2)}).path == "output['b']"


# -- shape, dtype, layout --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "actual"),
    [((4, 1), (1,)), ((4, 1), (4,)), ((1,), ()), ((2, 3), (3, 2)), ((0, 3), (3, 0)), ((0,), ())],
)
def test_shapes_that_would_broadcast_differ(expected, actual):
    difference = only(torch.zeros(expected), torch.zeros(actual))
    assert difference.kind == "shape"
    assert difference.what == f"shape {list(expected)} became {list(actual)}"


def test_a_dtype_that_changed_differs_even_with_equal_numbers():
    difference = only(torch.ones(2), torch.ones(2, dtype=torch.float64))
    assert difference.kind == "dtype"
    assert difference.what == "dtype float32 became float64"
    assert only(torch.ones(2, dtype=torch.bool), torch.ones(2, dtype=torch.uint8)).kind == "dtype"
    empty = torch.empty(0)
    assert only(empty, empty.to(torch.int64)).kind == "dtype"


def test_a_device_that_changed_differs():
    assert only(torch.ones(2), torch.ones(2, device="meta")).kind == "device"


def test_sparse_against_dense_differs():
    dense = torch.eye(2)
    (difference,) = differences(dense.to_sparse(), dense)
    assert "layout" in difference.what


# -- numbers ---------------------------------------------------------------------------------------


def test_nan_equals_nan_and_nothing_else():
    assert differences(torch.tensor([NAN, 1.0]), torch.tensor([NAN, 1.0])) == []
    for left, right in ((NAN, 1.0), (1.0, NAN), (NAN, INF), (INF, NAN)):
        difference = only(torch.tensor([left]), torch.tensor([right]))
        assert (difference.kind, difference.mismatched) == ("values", 1)
        assert only(torch.tensor([left]), torch.tensor([right]), rtol=1e9, atol=1e9)


def test_nan_is_shown_before_larger_numbers():
    difference = only(torch.tensor([0.0, 0.0, 0.0]), torch.tensor([1e30, NAN, 5.0]))
    assert (difference.index, difference.actual, difference.mismatched) == ((1,), "nan", 3)


def test_negative_zero_equals_zero():
    assert differences(torch.tensor([0.0, -0.0]), torch.tensor([-0.0, 0.0])) == []
    assert differences(0.0, -0.0) == []


def test_infinities_have_a_sign():
    assert differences(torch.tensor([INF, -INF]), torch.tensor([INF, -INF])) == []
    assert only(torch.tensor([INF]), torch.tensor([-INF])).kind == "values"
    assert only(torch.tensor([INF]), torch.tensor([3e38])).kind == "values"
    assert only(torch.tensor([3e38]), torch.tensor([INF]), rtol=1.0, atol=1.0)


def test_the_worst_element_is_told_with_its_place():
    expected = torch.zeros(2, 3)
    actual = expected.clone()
    actual[1, 2], actual[0, 1] = 3.0, 1.0
    difference = only(expected, actual)
    assert difference.index == (1, 2)
    assert (difference.mismatched, difference.total) == (2, 6)
    assert difference.max_abs == 3.0
    assert (difference.expected, difference.actual) == ("0", "3")
    assert difference.path == "output"


def test_a_scalar_tensor_has_an_empty_index():
    assert only(torch.tensor(1.0), torch.tensor(2.0)).index == ()


@pytest.mark.parametrize(
    ("dtype", "inside", "outside"),
    [
        (torch.float16, 1e-3, 3e-3),
        (torch.bfloat16, 1.5e-2, 3.5e-2),
        (torch.float32, 1e-6, 2e-5),
        (torch.complex64, 1e-6, 2e-5),
    ],
    ids=str,
)
def test_tolerances_are_those_of_torch_testing(dtype, inside, outside):
    base = torch.tensor([1.0], dtype=torch.float64)
    expected = base.to(dtype)
    assert differences(expected, (base + inside).to(dtype)) == []
    assert only(expected, (base + outside).to(dtype)).kind == "values"
    torch.testing.assert_close((base + inside).to(dtype), expected)
    with pytest.raises(AssertionError):
        torch.testing.assert_close((base + outside).to(dtype), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_double_precision_is_held_to_one_part_in_a_trillion_of_the_largest_element(dtype):
    expected = torch.tensor([1000.0, 1e-6, 0.0], dtype=dtype)
    assert differences(expected, expected + 8e-10) == []
    assert only(expected, expected + 1e-9).mismatched == 3
    infinite = torch.tensor([torch.inf, 1.0], dtype=torch.float64)
    assert only(infinite, infinite + 1e-9).mismatched == 1


def test_numbers_in_double_precision_are_shown_with_all_digits():
    found = only(torch.tensor([1.0]).double(), torch.tensor([1.0 + 1e-9], dtype=torch.float64))
    assert (found.expected, found.actual) == ("1.0", "1.000000001")


def test_the_users_tolerance_is_the_law_in_both_directions():
    left, right = torch.tensor([1.0]), torch.tensor([1.05])
    assert differences(left, right, rtol=0.1, atol=0.0) == []
    assert only(left, torch.tensor([1.0 + 1e-6]), rtol=0.0, atol=0.0)
    assert (only(left, right, rtol=0.0, atol=0.01).rtol) == 0.0


def test_tolerance_is_relative_to_eager():
    assert differences(torch.tensor([2.0]), torch.tensor([1.0]), rtol=0.5, atol=0.0) == []
    assert only(torch.tensor([1.0]), torch.tensor([2.0]), rtol=0.5, atol=0.0)


@pytest.mark.parametrize(
    ("dtype", "left", "right", "gap"),
    [
        (torch.uint8, 0, 255, 255),
        (torch.uint8, 255, 0, 255),
        (torch.int8, -128, 127, 255),
        (torch.int32, -(2**31), 2**31 - 1, 2**32 - 1),
        (torch.int64, -(2**63), 2**63 - 1, 2**64 - 1),
        (torch.int64, 2**63 - 1, -(2**63), 2**64 - 1),
        (torch.int64, -(2**63), 0, 2**63),
        (torch.int64, 2**53, 2**53 + 1, 1),
        (torch.uint64, 2**64 - 1, 0, 2**64 - 1),
        (torch.uint64, 2**63, 2**63 + 1, 1),
        (torch.uint16, 0, 65535, 65535),
        (torch.bool, 0, 1, 1),
    ],
    ids=str,
)
def test_integers_are_exact_and_never_wrap_around(dtype, left, right, gap):
    def tensor(value):
        return torch.tensor([value, 1], dtype=torch.int64 if dtype == torch.bool else dtype).to(
            dtype
        )

    difference = only(tensor(left), tensor(right))
    assert difference.mismatched == 1
    assert difference.max_abs == pytest.approx(gap, rel=1e-9)
    shown = (str(bool(left)), str(bool(right))) if dtype == torch.bool else (str(left), str(right))
    assert (difference.expected, difference.actual) == shown
    assert difference.max_rel is None or difference.max_rel >= 0


def test_large_integers_that_a_double_cannot_tell_apart_differ():
    assert only(torch.tensor([2**53]), torch.tensor([2**53 + 1])).mismatched == 1


def test_complex_parts_both_count():
    assert differences(torch.tensor([1 + 2j]), torch.tensor([1 + 2j])) == []
    difference = only(torch.tensor([1 + 2j]), torch.tensor([1 + 3j]))
    assert (difference.expected, difference.actual) == ("1+2j", "1+3j")
    assert difference.max_abs == pytest.approx(1.0)


EXOTIC = {
    "float8_e5m2": lambda: torch.tensor([1.0, NAN]).to(torch.float8_e5m2),
    "float8_e4m3fn": lambda: torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn),
    "uint16": lambda: torch.tensor([1, 2], dtype=torch.uint16),
    "uint32": lambda: torch.tensor([1, 2], dtype=torch.uint32),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "csr": lambda: torch.eye(3).to_sparse_csr(),
    "conjugate": lambda: torch.tensor([1 + 2j]).conj(),
    "negative view": lambda: torch.tensor([1 + 2j]).conj().imag,
    "no rows": lambda: torch.empty(0, 3),
    "no columns": lambda: torch.empty(2, 0, dtype=torch.int64),
    "empty sparse": lambda: torch.empty(0).to_sparse(),
    "requires grad": lambda: torch.ones(2, requires_grad=True),
    "parameter": lambda: torch.nn.Parameter(torch.ones(2)),
    "transposed": lambda: torch.arange(6).reshape(2, 3).t(),
    "expanded": lambda: torch.zeros(1).expand(3),
}


@pytest.mark.parametrize("name", EXOTIC)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_rare_tensors_equal_themselves(name):
    tensor = EXOTIC[name]()
    assert differences(tensor, tensor.detach().clone()) == []
    assert largest_error(tensor, tensor) in (None, 0.0)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_complex_halves_are_compared():
    left = torch.tensor([1 + 2j]).to(torch.complex32)
    assert differences(left, left.clone()) == []
    assert only(left, torch.tensor([1 + 4j]).to(torch.complex32)).kind == "values"


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_sparse_tensors_differ_in_their_numbers():
    left, right = torch.eye(3), torch.eye(3) * 2
    assert only(left.to_sparse(), right.to_sparse()).mismatched == 3
    assert only(left.to_sparse_csr(), right.to_sparse_csr()).mismatched == 3
    assert largest_error(left.to_sparse(), right.to_sparse()) in (None, 1.0)


class Refusing:
    def __eq__(self, other):
        raise ValueError("not comparable")

    __hash__ = None


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.filterwarnings("ignore:.*quantize.*")
def test_it_never_raises():
    strange = [
        np.ones(2),
        np.float32(1),
        Refusing(),
        torch.empty(2, device="meta"),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        object(),
        lambda: None,
        range(3),
        {1, 2},
        b"bytes",
        NAN,
        complex(NAN, 1),
        2**100,
        torch.Size([2]),
        torch.float32,
        torch.ones(2),
        None,
    ]
    for left in strange:
        for right in strange:
            assert isinstance(differences(left, right), list)
            error = largest_error(left, right)
            assert error is None or isinstance(error, float)


def test_arrays_of_numpy_equal_themselves_and_differ_in_their_numbers():
    assert differences(np.ones(2), np.ones(2)) == []
    assert len(differences(np.ones(2), np.zeros(2))) == 1


# -- Python numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        (1, 1, True),
        (1, 2, False),
        (2**100, 2**100 + 1, False),
        (1, True, False),
        (1, 1.0, False),
        (True, True, True),
        (True, False, False),
        ("a", "a", True),
        ("a", "b", False),
        (None, None, True),
        (None, 0, False),
        (1.0, 1.0 + 1e-12, True),
        (1.0, 1.1, False),
        (NAN, NAN, True),
        (NAN, 1.0, False),
        (INF, INF, True),
        (INF, -INF, False),
        (1 + 2j, 1 + 2j, True),
        (1 + 2j, 1 + (2 + 1e-12) * 1j, True),
        (1 + 2j, 1 + 3j, False),
        (complex(NAN, 0), complex(NAN, 0), True),
        (b"a", b"a", True),
    ],
)
def test_python_values(left, right, equal):
    assert (differences(left, right) == []) == equal


def test_a_python_number_that_became_a_tensor_is_a_structure_difference():
    assert only(1.0, torch.tensor(1.0)).kind == "structure"
    assert only(torch.tensor(1), 1).kind == "structure"


def test_a_python_number_that_changed_its_type_is_a_structure_difference():
    assert only(1, 1.0).kind == "structure"
    assert only(1, 2).kind == "values"


# -- the largest error -----------------------------------------------------------------------------


def test_the_largest_error_is_over_all_float_outputs():
    left = {"a": torch.zeros(2), "b": torch.zeros(2), "n": torch.tensor([1])}
    right = {"b": torch.tensor([0.0, 3.0]), "a": torch.ones(2), "n": torch.tensor([9])}
    assert largest_error(left, right) == 3.0


def test_there_is_no_largest_error_without_comparable_floats():
    assert largest_error(torch.zeros(2), torch.zeros(3)) is None
    assert (
        largest_error(torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.int64)) is None
    )
    assert largest_error((torch.zeros(1),), torch.zeros(1)) is None
    assert largest_error(torch.empty(0), torch.empty(0)) is None
    assert largest_error(torch.tensor([NAN]), torch.tensor([1.0])) is None


def test_the_largest_error_reads_complex_and_half():
    assert largest_error(torch.tensor([1 + 1j]), torch.tensor([1 + 3j])) == pytest.approx(2.0)
    assert largest_error(torch.ones(1).half(), torch.zeros(1).half()) == 1.0


def test_inputs_are_left_alone():
    left, right = torch.tensor([1.0, NAN]), torch.tensor([2.0, NAN])
    before = left.clone(), right.clone()
    differences(left, right)
    largest_error(left, right)
    torch.testing.assert_close((left, right), before, equal_nan=True, rtol=0, atol=0)


# -- extremes ----------------------------------------------------------------------------------------

MIN, MAX = torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max


@pytest.mark.parametrize(
    ("left", "right", "dtype"),
    [
        (MIN, MAX, torch.int64),
        (MAX, MAX - 1, torch.int64),
        (2**24, 2**24 + 1, torch.int64),
        (0, 255, torch.uint8),
        (-128, 127, torch.int8),
        (2**31 - 1, -(2**31), torch.int32),
    ],
)
def test_integers_at_the_ends_of_their_range_do_not_wrap_into_equality(left, right, dtype):
    pair = torch.tensor([left], dtype=dtype), torch.tensor([right], dtype=dtype)
    assert only(*pair).mismatched == 1
    assert only(*pair, rtol=1e-30, atol=0.5).mismatched == 1


def test_integers_follow_a_tolerance_that_the_user_gave():
    assert differences(torch.tensor([100]), torch.tensor([101]), rtol=0.0, atol=1.0) == []
    assert only(torch.tensor([100]), torch.tensor([102]), rtol=0.0, atol=1.0).mismatched == 1


def test_python_numbers_beyond_float32_are_told_apart():
    assert only(1e12, 1.1e12).kind == "values"
    assert differences(0.1, 0.1 + 1e-9) == []
    assert only(16777217.0, 16777300.0).kind == "values"


# -- what is no difference and yet told ----------------------------------------------------------------

Pair = namedtuple("Pair", "a b")  # noqa: PYI024  # the form that older code has


def test_other_classes_of_containers_are_remarked():
    x = torch.ones(2)
    assert remarks(Pair(x, [x]), (x, [x])) == ["output is a Pair in eager, a tuple in the artifact"]
    assert remarks({"k": (x,)}, {"k": [x]}) == [
        "output['k'] is a tuple in eager, a list in the artifact"
    ]
    assert remarks(OrderedDict(a=x), OrderedDict(a=x)) == []


def test_other_memory_formats_are_remarked():
    x = torch.ones(2, 3, 4, 5)
    last = x.contiguous(memory_format=torch.channels_last)
    assert remarks(last, x) == ["output is channels_last in eager, contiguous in the artifact"]
    assert remarks([x.transpose(0, 1)], [x.transpose(0, 1).contiguous()]) == [
        "output[0] is strided in eager, contiguous in the artifact"
    ]
    assert remarks(last, last) == []


def test_keys_in_another_order_are_paired_by_name():
    x, y = torch.ones(2), torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    assert remarks({"a": x, "b": [y]}, {"b": [y], "a": x}) == []


class Kept:
    def __init__(self, keys, more=None):
        self.keys = keys
        self.more = more


def test_objects_without_equality_are_what_they_hold():
    left, same = (Kept(torch.ones(2), Kept(torch.zeros(1))) for _ in range(2))
    other = Kept(torch.ones(2), Kept(torch.ones(1)))
    assert compare_values([left], [same], Tolerance()) == []
    found = compare_values([left], [other], Tolerance())
    assert [item.path for item in found] == ["output[0]['more']['keys']"]


def test_generators_are_what_they_would_draw():
    left, same, other = (torch.Generator().manual_seed(seed) for seed in (1, 1, 2))
    assert compare_values([left], [same], Tolerance()) == []
    assert compare_values([left], [other], Tolerance())


def test_objects_that_hold_themselves_do_not_end_the_comparison():
    left, right = Kept(torch.ones(2)), Kept(torch.ones(2))
    left.more, right.more = left, right
    assert all(item.kind == "structure" for item in compare_values(left, right, Tolerance()))
