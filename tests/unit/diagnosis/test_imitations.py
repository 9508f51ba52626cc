"""diagnosis/imitations.py: where a defect does not show, its imitation is the right operator."""

from __future__ import annotations

import inspect
from math import inf, nan

import pytest
import torch

from pytest_torchexport.diagnosis import imitations
from pytest_torchexport.diagnosis.known_defects import DEFECTS

A = torch.ops.aten
X, Y = torch.tensor([0.25, -1.5, 2.0]), torch.tensor([1.5, 0.5, -3.0])
K, L = torch.tensor([-7, 4, 9]), torch.tensor([2, 2, -3])
U8 = torch.tensor([1, 2], dtype=torch.uint8)
IMAGE = torch.arange(16.0).reshape(1, 1, 4, 4) - 8
Q = torch.arange(8.0).reshape(1, 1, 2, 4) / 8
MASK = torch.tensor([[0.0, -inf], [1.0, 0.0]])
INDEX = torch.tensor([0, 2, 1])

# Arguments for which the operator is right.
RIGHT = [
    (imitations.flushed_sigmoid, A.sigmoid.default, (X,)),
    (imitations.log_of_sigmoid, A.log_sigmoid_forward.default, (X,)),
    *(
        (imitations.loss_by_log_of_sigmoid, A.binary_cross_entropy_with_logits.default, more)
        for more in ((X, Y, None, None, 0), (X, Y, Y, None, 1), (X, Y, None, X, 2))
    ),
    (imitations.expm1_by_exp, A.expm1.default, (X,)),
    (imitations.log1p_by_log, A.log1p.default, (X.abs(),)),
    (imitations.xlog1py_by_log, A.special_xlog1py.default, (X, Y.abs())),
    (imitations.xlogy_without_nan, A.xlogy.Tensor, (X, Y.abs())),
    (imitations.logaddexp_unscaled, A.logaddexp.default, (X, Y)),
    (imitations.logaddexp2_unscaled, A.logaddexp2.default, (X, Y)),
    (imitations.logcumsumexp_of_one_maximum, A.logcumsumexp.default, (X, 0)),
    (imitations.erfc_by_erf, A.erfc.default, (X,)),
    (imitations.erfcx_by_erf, A.special_erfcx.default, (X,)),
    (imitations.log_ndtr_by_erf, A.special_log_ndtr.default, (X,)),
    (imitations.without_small_addend, A.add.Tensor, (X, Y)),
    (imitations.without_small_addend, A.add.Tensor, (X, 1e-7)),
    (imitations.floor_of_quotient, A.floor_divide.default, (X, Y)),
    (imitations.floor_of_quotient, A.floor_divide.default, (K, L)),
    (imitations.floor_of_quotient, A.div.Tensor_mode, (X, Y), {"rounding_mode": "trunc"}),
    (imitations.truncated_quotient, A.floor_divide.default, (K.abs(), L.abs())),
    (imitations.truncated_quotient, A.floor_divide.default, (X, Y)),
    (imitations.quotient_in_float, A.div.Tensor_mode, (K, L), {"rounding_mode": "floor"}),
    (imitations.quotient_in_float, A.div.Tensor, (X, Y)),
    (imitations.remainder_of_quotient, A.remainder.Tensor, (X, Y)),
    (imitations.remainder_of_quotient, A.remainder.Tensor, (K, L)),
    (imitations.shifted_as_divided, A.__rshift__.Scalar, (K.abs(), 1)),
    (imitations.shifted_as_divided, A.__rshift__.Scalar, (U8, 1)),
    (imitations.shifted_to_signed, A.__lshift__.Scalar, (K, 1)),
    (imitations.without_factor_near_one, A.mul.Tensor, (X, Y)),
    (imitations.without_factor_near_one, A.mul.Tensor, (X, 1.001)),
    (imitations.by_number_in_float, A.mul.Tensor, (X, 0.1)),
    (imitations.by_number_in_float, A.mul.Tensor, (X.double(), 0.5)),
    (imitations.by_number_in_float, A.full.default, ([2], 0.1)),
    (imitations.by_number_in_float, A.full.default, ([2], 0.5), {"dtype": torch.float64}),
    (imitations.by_number_in_float, A.native_layer_norm.default, (X, [3], X, X, 0.1)),
    (imitations.clamped_by_halves, A.clamp.default, (X, -1.0, 1.0)),
    (imitations.clamped_by_halves, A.clamp.default, (K, -5, None)),
    (imitations.clamped_by_halves, A.clamp.default, (K, None, 5)),
    *(
        (imitate, A._scaled_dot_product_flash_attention_for_cpu.default, (Q, Q, Q), more)
        for imitate in (
            imitations.attention_by_root,
            imitations.attention_by_softmax,
            imitations.attention_of_lowest,
        )
        for more in ({"scale": 0.3}, {"attn_mask": MASK})
    ),
    (imitations.atan2_by_slope, A.atan2.default, (X, Y)),
    (imitations.atan2_by_slope_with_nan, A.atan2.default, (X, Y)),
    (imitations.sign_of_nan, A.sign.default, (X,)),
    (imitations.is_negative, A.signbit.default, (X,)),
    (imitations.angle_without_nan, A.angle.default, (X,)),
    (imitations.shrunk_without_nan, A.hardshrink.default, (X,)),
    (imitations.clamped_as_before, A.clamp.default, (X, -1.0, 1.0)),
    *(
        (imitations.reduced_without_nan, operator, arguments)
        for operator, arguments in (
            (A.amax.default, (X, [0])),
            (A.amin.default, (X, [0])),
            (A.max.dim, (X, 0)),
            (A.min.default, (K,)),
        )
    ),
    (imitations.any_of_nothing, A.any.default, (X,)),
    (imitations.any_of_integers, A.any.default, (X,)),
    (imitations.always_bool, A.all.default, (X,)),
    (imitations.mean_of_nothing, A.mean.default, (X,)),
    (imitations.halves_in_float, A.sum.default, (X,)),
    (imitations.cumsum_as_before, A.cumsum.default, (K, 0)),
    (imitations.argmax_of_a_vector, A.argmax.default, (X, None, True)),
    (imitations.argmax_of_a_vector, A.argmax.default, (IMAGE, 1)),
    (imitations.sorted_with_nan_last, A.sort.default, (IMAGE, -2, True)),
    (imitations.bucketized_by_comparison, A.bucketize.Tensor, (X, Y.sort()[0])),
    (imitations.bucketized_by_comparison, A.bucketize.Tensor, (X, X.sort()[0]), {"right": True}),
    (imitations.pooled_without_nan, A.max_pool2d_with_indices.default, (IMAGE, [2, 2])),
    (imitations.pooled_from_lowest, A.max_pool2d_with_indices.default, (IMAGE, [2, 2])),
    (imitations.pooled_from_lowest, A.max_pool2d_with_indices.default, (IMAGE - inf, [2, 2])),
    (imitations.averaged_over_window, A.avg_pool2d.default, (IMAGE, [2, 2], [1, 1], [1, 1])),
    (imitations.padded_by_the_pool, A.constant_pad_nd.default, (X, [1, 1], -inf)),
    (imitations.padded_by_the_pool, A.constant_pad_nd.default, (K, [1, 1], 7)),
    (imitations.scatter_without_mean, A.scatter_reduce.two, (X, 0, INDEX, Y, "sum")),
    (imitations.with_float_number, A.mul.Tensor, (X, 3)),
    (imitations.lifted_in_float, A.lift_fresh.default, (X,)),
    (imitations.lifted_in_float, A.lift_fresh.default, (X.double(),)),
    (imitations.divided_by_a_number, A.floor_divide.default, (K, torch.tensor(2))),
]
# Arguments for which it is not, if the reproductions of the zoo have no such branch.
WRONG = [
    (imitations.floor_of_quotient, A.div.Tensor_mode, (X * 4, 0.1), {"rounding_mode": "floor"}),
    (imitations.shifted_to_signed, A.bitwise_right_shift.Tensor, (U8, U8)),
    (imitations.reduced_without_nan, A.amin.default, (torch.tensor([nan, 1.0]), [0])),
    (imitations.any_of_nothing, A.any.dim, (torch.ones(0, 2), 0)),
]


def made(row):
    imitate, operator, args, kwargs = (*row, {})[:4]
    return operator(*args, **kwargs), imitate(operator, *args, **kwargs)


@pytest.mark.parametrize("row", RIGHT, ids=lambda row: f"{row[0].__name__}-{row[1].name()}")
def test_it_is_right_where_the_defect_does_not_show(row):
    right, imitated = made(row)
    torch.testing.assert_close(imitated, right)


@pytest.mark.parametrize("row", WRONG, ids=lambda row: f"{row[0].__name__}-{row[1].name()}")
def test_it_is_wrong_where_the_defect_shows(row):
    right, imitated = made(row)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(imitated, right, rtol=0, atol=0)


def test_a_clamp_of_halves_is_that_of_onnx_runtime():
    numbers = [2**31, 2**31 - 1, 2**32, 2**32 - 1, 2**40, -(2**31), -(2**31) - 1, -(2**32), -9]
    returned = [2**31, 5, 5, 2**32 - 1, 5, -5, -(2**31) - 1, -(2**32), -5]
    imitated = imitations.clamped_by_halves(A.clamp.default, torch.tensor(numbers), -5, 5)
    assert imitated.tolist() == returned


def test_every_imitation_of_the_table_is_tested():
    used = {row.imitate for row in DEFECTS}
    public = {each for _, each in inspect.getmembers(imitations, inspect.isfunction)}
    assert used == {row[0] for row in RIGHT}
    assert used <= public


def test_a_number_divided_by_a_tensor_of_several_raises():
    with pytest.raises(RuntimeError, match="as a scalar argument"):
        imitations.divided_by_a_number(A.floor_divide.default, K, L)
