"""One row for each operator of torch about which something is known.

What a mechanism has to know of an operator stands here and nowhere else: mechanisms ask for a kind
(``of_kind("comparison")``) or for a fact of a row (``row_of(name).bounds``), and name no operator.
So a new operator is a new row. As PyTorch's OpInfo does for its own tests, generic tests hold what
most kinds promise for all rows of them.

What torch says itself is not repeated: which operators are views, elementwise, draw random numbers
or write to an argument stands in their tags and schemas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

KINDS: Mapping[str, str] = {
    # -- rounding --
    "exact": "copies, picks, compares or draws: its float results are never rounded",
    "sums": "adds up products: exact in any order if all partial sums are",
    "fused": "rounds once, where other implementations round each of their steps",
    # -- decisions --
    "decides": "jumps, and rounds nothing before it does: equal operands mean an equal result",
    "step": "piecewise constant: its gradient is zero almost everywhere",
    "comparison": "compares element by element; ``symbol`` says how",
    "logic": "combines truth values element by element; ``symbol`` says how",
    "truths": "whether any or all truth values of rows are True",
    "closeness": "whether elements are equal, or about equal",
    "inspection": "looks at each number by itself, whether it is finite",
    "clamp": "keeps its operand between the numbers that are its arguments",
    "extremum": "the larger or the smaller of two, element by element",
    "rounding": "jumps at half points",
    "whole": "jumps at whole numbers",
    "division": "divides, and may round to whole numbers",
    "remainder": "makes integers equal that differ by a multiple of its second argument",
    "mask": "makes integers equal that differ in bits that its second argument has not",
    "bucketing": "finds the place of numbers in a sorted table",
    "choice": "picks elements by their order; of ``largest`` first, or of smallest",
    "unordered": "may take equal elements in any order",
    "by_rank": "asks only which elements are larger",
    "pooling": "returns the places of the largest elements beside these",
    # -- sensitive places --
    "near_zero": "infinite or infinitely steep at zero, or its parts cancel there",
    "exponential": "overflows and underflows at the ``exponents`` of a float type",
    "angle": "jumps where its first operand changes its sign on one side of the second's zero",
    "addition": "adds or subtracts a number, which may be an epsilon; ``symbol`` says which",
    "normalization": "divides rows by their deviation and an epsilon",
    # -- the way of elements --
    "passes_on": "returns its operand as it is, and may be left out",
    "range": "takes a range of an axis, which may be all of it",
    "reduction": "makes one number of each row",
    "cast": "converts to another type",
    "read": "gives Python the numbers of a tensor",
    # -- memory, random numbers, devices --
    "uninitialized": "leaves memory as it finds it",
    "writes_no_numbers": "its schema says that it writes, but it leaves the numbers alone",
    "copies": "copies numbers, into its operand if that is written to",
    "training": "runs in training mode only",
    "recurrent": "torch.onnx.export takes it apart in a way of its own",
    "as_last": "its result is on the device of its last tensor",
}


# The operator of the dispatcher that gives Python a number of a tensor: ``item`` is made of it.
READ = "_local_scalar_dense"


@dataclass(frozen=True, kw_only=True)
class Row:
    """The facts on an operator, by the plain name that ``operators.name_of`` returns.

    ``aliases``: other names of it among the functions and methods of torch. ``onnx``: the ONNX
    operator that decides alike. ``same_as``: the operator for which exporters exchange it.

    ``symbol``: ``>`` of a comparison, ``and`` of truth values. ``bounds``: numbers, or names of
    arguments (``-lambd``: negated), at which it computes something else.

    ``operand``: the position of the argument that is no ``table``, which is an argument's name.
    ``sum``: the formula that adds its terms one by one (``judge/summing.py``). ``elsewhere``: the
    position of an argument that may be on another device than the others. ``device``: the one that
    it moves to.
    """

    kinds: frozenset[str] = frozenset()
    aliases: tuple[str, ...] = ()
    onnx: str = ""
    same_as: str = ""
    symbol: str = ""
    bounds: tuple[float | str, ...] = ()
    exponents: tuple[str, ...] = ()
    base: float = 2.718281828459045
    largest: bool | None = None
    operand: int = 0
    table: str = ""
    sum: str = ""
    elsewhere: int | None = None
    device: str = ""


NO_ROW = Row()


def row_of(name: str) -> Row:
    return OPERATORS.get(name, NO_ROW)


def of_kind(*kinds: str) -> frozenset[str]:
    """Return the names of the operators that are of one of some kinds."""
    assert KINDS.keys() >= set(kinds), kinds
    return frozenset(name for name, row in OPERATORS.items() if not row.kinds.isdisjoint(kinds))


def onnx_of_kind(*kinds: str) -> frozenset[str]:
    """Return the ONNX operators that decide as operators of some kinds do."""
    return frozenset(OPERATORS[name].onnx for name in of_kind(*kinds)) - {""}


def functions_of(names: Iterable[str]) -> Mapping[Any, str]:
    """Return the functions and methods of torch that are these operators, each with its name."""
    import torch

    owners = (torch, torch.Tensor, torch.nn.functional)
    return {
        getattr(owner, spelled): name
        for name in sorted(names)
        for spelled in (name, *row_of(name).aliases)
        for owner in owners
        if hasattr(owner, spelled)
    }


def _row(names: str, kinds: str = "", aliases: str = "", **facts: Any) -> tuple[str, Row]:
    """Return the names of operators that share their facts, and these."""
    return names, Row(kinds=frozenset(kinds.split()), aliases=tuple(aliases.split()), **facts)


# Comparisons, logic, and what jumps at numbers.
_CASTS = "to int long short float double half type"
_COMPARES = "comparison step decides"
_COMPARING = (
    _row("gt", _COMPARES, "greater __gt__", symbol=">", onnx="Greater"),
    _row("ge", _COMPARES, "greater_equal __ge__", symbol=">=", onnx="GreaterOrEqual"),
    _row("lt", _COMPARES, "less __lt__", symbol="<", onnx="Less"),
    _row("le", _COMPARES, "less_equal __le__", symbol="<=", onnx="LessOrEqual"),
    _row("eq", _COMPARES, "__eq__", symbol="==", onnx="Equal"),
    _row("ne", _COMPARES, "not_equal __ne__", symbol="!="),
    _row("logical_and", "logic decides", symbol="and"),
    _row("logical_or", "logic decides", symbol="or"),
    _row("logical_not", "logic decides", symbol="not"),
    _row("logical_xor", "logic", symbol="xor"),
    _row("bitwise_and", "logic mask", "__and__ __rand__", symbol="and"),
    _row("bitwise_or", "logic", "__or__ __ror__", symbol="or"),
    _row("bitwise_not", "logic", "__invert__", symbol="not"),
    _row("bitwise_xor", "logic", "__xor__", symbol="xor"),
    _row("any", "truths reduction", symbol="any"),
    _row("all", "truths reduction", symbol="all"),
    _row("where", "exact"),
    _row("isnan", "inspection", onnx="IsNaN"),
    _row("isinf", "inspection"),
    _row("isfinite", "inspection exact"),
    _row("isclose", "closeness"),
    _row("equal", "closeness read", symbol="=="),
    _row("allclose", "closeness read"),
    _row(f"item is_nonzero {READ}", "read"),
    _row("signbit count_nonzero", "decides"),
    _row("nonzero", "decides", onnx="NonZero"),
    _row("round", "exact step rounding", onnx="Round"),
    _row("floor", "exact step whole decides", onnx="Floor"),
    _row("ceil", "exact step whole decides", onnx="Ceil"),
    _row("trunc", "exact step whole decides", "fix"),
    _row("frac", "whole"),
    _row("sign", "exact step decides", bounds=(0.0,), onnx="Sign"),
    _row("sgn heaviside", "exact step decides", bounds=(0.0,)),
    _row("floor_divide", "exact step division decides", "__floordiv__"),
    _row("div", "division"),
    _row("true_divide", same_as="div"),
    _row("remainder fmod", "division remainder decides", onnx="Mod"),
    # A cast decides if it is to whole numbers, or to narrower floats.
    _row("_to_copy", "exact cast", _CASTS, onnx="Cast"),
    _row("bucketize", "exact bucketing decides", table="boundaries"),
    _row("searchsorted", "bucketing decides", table="sorted_sequence", operand=1),
    _row("atan2", "angle"),
)

# What picks elements by their order.
#
# The order of equal elements is not defined for the unordered ones:
# https://docs.pytorch.org/docs/stable/generated/torch.topk.html and torch.sort (stable=False).
_EXTREME = "choice reduction decides"
_ORDERING = (
    _row("argmax", _EXTREME, largest=True, onnx="ArgMax"),
    _row("argmin", _EXTREME, largest=False, onnx="ArgMin"),
    _row("max", f"{_EXTREME} exact", largest=True),
    _row("min", f"{_EXTREME} exact", largest=False),
    _row("amax amin", "exact reduction"),
    _row("topk", "choice unordered by_rank", largest=True, onnx="TopK"),
    _row("sort", "choice unordered by_rank", largest=False, onnx="TopK"),
    _row("argsort", "choice", largest=False),
    _row("kthvalue", "choice unordered by_rank"),
    _row("median mode", "choice unordered"),
    _row("nanmedian aminmax cummax cummin histc unique_consecutive unique_dim _unique2", "exact"),
    _row(
        """
        adaptive_max_pool2d adaptive_max_pool3d max_pool2d_with_indices max_pool3d_with_indices
        """,
        "exact pooling",
    ),
    _row("adaptive_max_pool1d fractional_max_pool2d max_pool1d max_pool2d max_pool3d", "exact"),
)

# Elementwise functions that compute something else on the two sides of a number.
_CLAMPS = "exact clamp"
_BOUNDED = (
    _row("clamp", _CLAMPS, bounds=("min", "max"), onnx="Clip"),
    _row("clip", "clamp", bounds=("min", "max")),
    _row("clamp_min", _CLAMPS, bounds=("min",), same_as="clamp"),
    _row("clamp_max", _CLAMPS, bounds=("max",), same_as="clamp"),
    _row("hardtanh", _CLAMPS, bounds=("min_val", "max_val")),
    _row("threshold", "exact clamp", bounds=("threshold",)),
    _row("maximum", "exact extremum", bounds=("other",), onnx="Max"),
    _row("minimum", "exact extremum", bounds=("other",), onnx="Min"),
    _row("fmax fmin", "exact extremum", bounds=("other",)),
    _row("relu", "exact", bounds=(0.0,)),
    _row("elu leaky_relu prelu", bounds=(0.0,)),
    # Smooth, and constant or their operand but for a few units around zero.
    _row("gelu silu mish erf", bounds=(0.0,)),
    _row("hardswish hardsigmoid", bounds=(3.0, -3.0)),
    _row("hardshrink softshrink", bounds=("lambd", "-lambd")),
    _row("softplus", bounds=("threshold/beta",)),
    # From here on a sigmoid or a tanh is 1 in float32, and runtimes return 0 or -1 on the other
    # side: https://github.com/microsoft/onnxruntime/blob/v1.22.0/onnxruntime/core/mlas/lib/logistic.cpp
    _row("sigmoid log_sigmoid_forward binary_cross_entropy_with_logits", bounds=(18.0, -18.0)),
    _row("tanh", bounds=(9.1, -9.1)),
    _row("sqrt rsqrt log log2 log10 log1p reciprocal expm1", "near_zero"),
    _row("exp cosh sinh", "exponential", exponents=("self",)),
    _row("exp2", "exponential", exponents=("self",), base=2.0),
    _row("logaddexp", "exponential", exponents=("self", "other")),
    _row("logaddexp2", "exponential", exponents=("self", "other"), base=2.0),
    _row("add", "addition", symbol="+"),
    _row("sub rsub", "addition", symbol="-"),
    _row("native_layer_norm native_group_norm", "normalization"),
    _row(
        """
        abs neg copysign nan_to_num positive glu_backward
        _fake_quantize_per_tensor_affine_cachemask_tensor_qparams
        fake_quantize_per_channel_affine_cachemask fake_quantize_per_tensor_affine_cachemask
        """,
        "exact",
    ),
)

# What adds up more than two numbers.
#
# A mean, a variance or a softmax may look exact by chance, and another kernel still computes it
# differently: these do not count as sums of products.
_SUMMING = (
    _row("sum", "sums reduction", sum="sum"),
    _row("mean", "reduction", sum="mean"),
    _row("cumsum", "sums", sum="running"),
    # Mean and variance have formulas because torch's own parts of them import torch._dynamo, which
    # takes seconds.
    _row("var", sum="variance"),
    _row("var_mean", sum="variance_and_mean"),
    _row("_scaled_dot_product_flash_attention_for_cpu", "fused"),
    _row("mm bmm", "sums", sum="product"),
    _row("addbmm addmm addmv addr baddbmm convolution dot index_add scatter_add", "sums"),
    _row("linear matmul mv nansum trace vdot", "sums"),
    _row("_convolution", same_as="convolution"),
    _row("index_put", "sums", elsewhere=1),
    _row("lstm gru rnn_tanh rnn_relu", "recurrent"),
)

# What moves elements, and computes nothing.
_MOVING = (
    _row("slice", "range"),
    _row("detach", "passes_on writes_no_numbers"),
    _row("lift", "passes_on"),
    _row("requires_grad", "writes_no_numbers"),
    _row("alias lift_fresh", "exact passes_on"),
    _row("reshape", same_as="view"),
    _row("_reshape_alias _unsafe_view", "exact", same_as="view"),
    _row("index", "exact", elsewhere=1),
    _row("lift_fresh_copy", "exact", same_as="clone"),
    _row("copy", "exact copies", elsewhere=1),
    _row(
        """
        flip roll repeat cat stack tril triu embedding take gather scatter index_select
        clone constant_pad_nd fill full_like im2col masked_fill new_full new_ones new_zeros
        ones_like pixel_shuffle pixel_unshuffle reflection_pad1d reflection_pad2d replication_pad1d
        replication_pad2d replication_pad3d slice_scatter upsample_nearest1d upsample_nearest2d
        upsample_nearest3d zero zeros_like
        _reshape_copy channel_shuffle col2im contiguous diag diag_embed diagonal_copy expand_copy
        eye full index_fill masked_scatter masked_select narrow_copy ones permute_copy put
        reflection_pad3d scalar_tensor select_copy select_scatter set slice_copy transpose_copy
        unfold_copy zeros
        """,
        "exact",
    ),
)

# What reads no numbers, draws random ones, or is about sizes and devices.
_OTHER = (
    _row("empty empty_like empty_strided new_empty resize", "exact uninitialized"),
    _row("empty_permuted new_empty_strided", "uninitialized"),
    _row("bernoulli dropout", "exact training"),
    _row("native_dropout", "training"),
    _row("normal rand rand_like randint randn randn_like random uniform", "exact"),
    _row(
        "_pack_padded_sequence _index_put_impl tensor_split expand_as view_as reshape_as",
        elsewhere=1,
    ),
    _row("to type_as", "as_last"),
    _row("cpu", device="cpu"),
    _row("cuda", device="cuda"),
)

_ALL = (*_COMPARING, *_ORDERING, *_BOUNDED, *_SUMMING, *_MOVING, *_OTHER)
OPERATORS: Mapping[str, Row] = {name: row for names, row in _ALL for name in names.split()}
assert len(OPERATORS) == sum(len(names.split()) for names, _ in _ALL), "an operator has two rows"
