"""The table of defects in other packages that are known.

A row is added with a reproduction in ``tests/zoo/upstream.py``, and removed when none of the
supported versions has the defect any more.
"""

from __future__ import annotations

from functools import partial

from pytest_torchexport.diagnosis import imitations
from pytest_torchexport.diagnosis.defect import Defect

ONNX, LEGACY = "onnx", "onnx_legacy"
TORCH = ("torch 2.13.0",)
EXPORTER = (*TORCH, "onnxscript 0.7.2")
# The newest versions that were tried: a row that is not fixed in an earlier one is open there.
NEWEST = {
    "pytorch/pytorch": "torch 2.15.0",
    "microsoft/onnxscript": "onnxscript 0.7.2",
    "microsoft/onnxruntime": "onnxruntime 1.32.0",
}

_pytorch = "https://github.com/pytorch/pytorch"
_onnxscript = "https://github.com/microsoft/onnxscript"
_onnxruntime = "https://github.com/microsoft/onnxruntime"

_scripted = partial(
    Defect, targets=("script",), owner="capture", repository="pytorch/pytorch", seen=TORCH
)
_translated = partial(
    Defect,
    targets=(ONNX,),
    owner="translation",
    repository="microsoft/onnxscript",
    seen=EXPORTER,
)
_optimized = partial(
    Defect,
    targets=(ONNX,),
    owner="exporter's optimizer",
    repository="microsoft/onnxscript",
    seen=EXPORTER,
)
_legacy = partial(
    Defect, targets=(LEGACY,), owner="translation", repository="pytorch/pytorch", seen=TORCH
)
_run = partial(
    Defect,
    targets=(ONNX, LEGACY),
    owner="runtime",
    repository="microsoft/onnxruntime",
    seen=(*EXPORTER, "onnxruntime 1.31.1"),
)

SCRIPT: tuple[Defect, ...] = (
    _scripted(
        name="script: a power of integers is a float",
        operators=("add", "div", "mul", "sub"),
        imitate=imitations.with_float_number,
        line=r"\*\*|\bpow\(",
        issue=f"{_pytorch}/issues/34672",
        text="TorchScript computes int ** int as a float, which makes floats of integer tensors",
        remedy="int(n ** 2), or n * n",
    ),
    _scripted(
        name="script: round returns a float",
        operators=("add", "div", "mul", "sub"),
        imitate=imitations.with_float_number,
        line=r"\bround\(",
        issue=f"{_pytorch}/issues/40771",
        text="TorchScript's round(x) returns a float, which makes floats of integer tensors",
        remedy="int(round(x))",
    ),
    _scripted(
        name="script: a number divided by a tensor",
        operators=("floor_divide",),
        imitate=imitations.divided_by_a_number,
        issue=f"{_pytorch}/issues/45199",
        text="TorchScript takes the tensor in n // x for a number, and raises",
        remedy="torch.floor_divide(torch.full_like(x, n), x)",
    ),
    _scripted(
        name="script: new doubles are float32",
        operators=("lift_fresh",),
        places=("add", "cat", "div", "matmul", "maximum", "minimum", "mm", "mul", "sub", "where"),
        imitate=imitations.lifted_in_float,
        line=r"torch\.(?:as_)?tensor\(",
        issue=f"{_pytorch}/issues/115736",
        text="TorchScript's torch.tensor(..., dtype=torch.float64) rounds its numbers to float32",
        remedy="keep the tensor in a buffer, made in __init__",
    ),
    _scripted(
        name="script: a double that is assigned is float32",
        operators=("lift_fresh",),
        places=("_to_copy", "copy_", "fill_", "index_put_"),
        imitate=imitations.lifted_in_float,
        line=r"^(?!.*tensor\().*\]\s*=[^=]",
        issue=f"{_pytorch}/issues/115736",
        text="TorchScript's y[i] = number rounds the number to float32, also where y is float64",
        remedy="y[i].fill_(number), or torch.full",
    ),
)

TRACE: tuple[Defect, ...] = (
    Defect(
        name="trace: numbers made of sizes are float32",
        operators=("add", "div", "mul", "sub"),
        places=("reciprocal", "pow", "rsqrt", "sqrt"),
        imitate=imitations.by_number_in_float,
        targets=("trace",),
        owner="capture",
        repository="pytorch/pytorch",
        seen=TORCH,
        issue=f"{_pytorch}/pull/9584",
        text="a trace computes numbers of sizes in float32, 1 / n too: too few digits for float64",
        remedy="use the size itself, x / n in place of x * (1 / n); or torch.export",
    ),
)

TRANSLATION: tuple[Defect, ...] = (
    _translated(
        name="floor_divide by way of a quotient",
        operators=("floor_divide", "div"),
        imitate=imitations.floor_of_quotient,
        issue=f"{_onnxscript}/issues/989",
        text="x // y of floats becomes Floor(Div(x, y)), which is one too large where the quotient "
        "rounds up to an integer",
        remedy="divide integers, or write torch.floor(x / y) in the module as well",
    ),
    _translated(
        name="remainder by way of a quotient",
        operators=("remainder",),
        imitate=imitations.remainder_of_quotient,
        issue=f"{_onnxscript}/pull/2727",
        text="x % y of floats becomes x - Floor(Div(x, y)) * y, which is 0 or negative where the "
        "quotient rounds up to an integer, and nan where y is infinite",
        remedy="torch.fmod(x, y), corrected for its sign",
    ),
    _translated(
        name="floor division of large integers",
        operators=("div",),
        imitate=imitations.quotient_in_float,
        issue=f"{_onnxscript}/pull/988",
        text='torch.div(..., rounding_mode="floor") of integers is computed in float32, which is '
        "wrong from 2**24 up",
        remedy="x // y",
    ),
    _translated(
        name="bytes that are shifted become signed",
        operators=("__lshift_", "__rshift_", "bitwise_left_shift", "bitwise_right_shift"),
        imitate=imitations.shifted_to_signed,
        issue=f"{_onnxscript}/pull/1054",
        text="shifts of uint8 return int8",
        remedy="shift int32, and convert the result",
    ),
    _translated(
        name="atan2 to the left, and of nan",
        operators=("atan2",),
        imitate=imitations.atan2_by_slope,
        issue=f"{_onnxscript}/pull/675",
        text="atan2(0, x) is -pi instead of pi for negative x; nan, and two infinities, give 0",
        remedy="torch.where((y == 0) & (x < 0), math.pi, torch.atan2(y, x))",
    ),
    _translated(
        name="angle of nan",
        operators=("angle",),
        imitate=imitations.angle_without_nan,
        issue=f"{_onnxscript}/pull/2734",
        text="angle(nan) is 0",
        remedy="torch.where(x.isnan(), x, torch.angle(x))",
    ),
    _translated(
        name="sign of nan",
        operators=("sgn", "sign"),
        imitate=imitations.sign_of_nan,
        repository="pytorch/pytorch",
        issue=f"{_pytorch}/issues/41245",
        text="torch's sign(nan) is 0, that of ONNX is nan",
        remedy="torch.nan_to_num(x, nan=0.0).sign()",
    ),
    _translated(
        name="sign bit of minus zero",
        operators=("signbit",),
        imitate=imitations.is_negative,
        issue=f"{_onnxscript}/pull/2754",
        text="signbit becomes x < 0, which is False for -0.0",
        remedy="1 / x < 0 where x is 0",
    ),
    _translated(
        name="logaddexp overflows",
        operators=("logaddexp",),
        imitate=imitations.logaddexp_unscaled,
        issue=f"{_onnxscript}/pull/281",
        text="logaddexp becomes Log(Exp(x) + Exp(y)): inf above 88, -inf where both are below -103",
        remedy="torch.maximum(x, y) + torch.log1p(torch.exp(-(x - y).abs()))",
    ),
    _translated(
        name="logaddexp2 overflows",
        operators=("logaddexp2",),
        imitate=imitations.logaddexp2_unscaled,
        issue=f"{_onnxscript}/pull/281",
        text="logaddexp2 becomes the logarithm of Pow(2, x) + Pow(2, y): inf from 128 up",
        remedy="torch.maximum(x, y) + torch.log2(1 + torch.exp2(-(x - y).abs()))",
    ),
    _translated(
        name="logcumsumexp underflows",
        operators=("logcumsumexp",),
        imitate=imitations.logcumsumexp_of_one_maximum,
        issue=f"{_onnxscript}/pull/904",
        text="logcumsumexp scales by the maximum of the whole axis: what comes before it, and is "
        "smaller by 103, is -inf",
        remedy="split the axis, or scale the numbers before",
    ),
    _translated(
        name="log1p of small numbers",
        operators=("log1p",),
        imitate=imitations.log1p_by_log,
        issue=f"{_onnxscript}/pull/281",
        text="log1p(x) becomes Log(x + 1), which has no digit left for small x",
        remedy="torch.where(x.abs() < 1e-4, x - x * x / 2, torch.log1p(x))",
    ),
    _translated(
        name="expm1 of small numbers",
        operators=("expm1",),
        imitate=imitations.expm1_by_exp,
        issue=f"{_onnxscript}/pull/1733",
        text="expm1(x) becomes Exp(x) - 1, which has no digit left for small x",
        remedy="torch.where(x.abs() < 1e-4, x + x * x / 2, torch.expm1(x))",
    ),
    _translated(
        name="xlog1py of small numbers",
        operators=("special_xlog1py",),
        places=("log1p",),
        imitate=imitations.xlog1py_by_log,
        issue=f"{_onnxscript}/pull/281",
        text="xlog1py(x, y) becomes x * Log(y + 1), which has no digit left for small y",
        remedy="x * torch.where(y.abs() < 1e-4, y - y * y / 2, torch.log1p(y))",
    ),
    _translated(
        name="xlogy of zero and nan",
        operators=("xlogy",),
        imitate=imitations.xlogy_without_nan,
        issue=f"{_onnxscript}/pull/281",
        text="xlogy(0, nan) is 0",
        remedy="torch.where(y.isnan(), y, torch.xlogy(x, y))",
    ),
    _translated(
        name="erfc of large numbers",
        operators=("erfc",),
        places=("special_erfc",),
        imitate=imitations.erfc_by_erf,
        issue=f"{_onnxscript}/pull/823",
        text="erfc(x) becomes 1 - Erf(x), which is 0 from 4 up",
        remedy="torch.exp(-x * x) * a series of your own for large x",
    ),
    _translated(
        name="erfcx of large numbers",
        operators=("special_erfcx",),
        imitate=imitations.erfcx_by_erf,
        issue=f"{_onnxscript}/pull/1227",
        text="erfcx becomes Exp(x * x) * (1 - Erf(x)): 0 from 4 up, nan from 10 up",
        remedy="a series of your own for large x",
    ),
    _translated(
        name="log_ndtr of negative numbers",
        operators=("special_log_ndtr",),
        places=("special_erfcx",),
        imitate=imitations.log_ndtr_by_erf,
        issue=f"{_onnxscript}/pull/1227",
        text="log_ndtr is computed with an erfcx that is 0 from 4 up and nan from 10 up",
        remedy="a series of your own for x below -5",
    ),
    _translated(
        name="scatter_reduce with mean does not reduce",
        operators=("scatter_reduce",),
        imitate=imitations.scatter_without_mean,
        issue=f"{_onnxscript}/pull/582",
        text='scatter_reduce(..., "mean") becomes ScatterElements without a reduction',
        remedy='divide a scatter_reduce(..., "sum") by the counts, which "sum" of ones gives',
    ),
    _translated(
        name="argmax of all, with its dimension kept",
        operators=("argmax", "argmin"),
        imitate=imitations.argmax_of_a_vector,
        issue=f"{_onnxscript}/pull/677",
        text="argmax(keepdim=True) without a dim returns one dimension instead of all",
        remedy="x.argmax().reshape((1,) * x.dim())",
    ),
    _translated(
        name="halves become float32",
        operators=("abs", "amax", "amin", "cumsum", "prod", "sum"),
        places=("convert_element_type",),
        imitate=imitations.halves_in_float,
        repository="pytorch/pytorch",
        issue="",
        text="abs, sum, prod, cumsum, amax and amin of float16 return float32",
        remedy="convert to float32 before and back after it: x.float().sum(1).half()",
    ),
    _translated(
        name="numbers beside doubles are float32",
        operators=(
            *("add", "div", "floor_divide", "fmod", "mul", "remainder", "rsub", "sub"),
            *("addcdiv", "addcmul", "addmv", "arange", "celu", "clamp", "clamp_max", "clamp_min"),
            *("fill", "full", "full_like", "hardtanh", "index_fill", "lerp", "linspace"),
            *("masked_fill", "nan_to_num", "native_layer_norm", "new_full", "threshold"),
        ),
        places=("layer_norm", "scalar_tensor"),
        imitate=imitations.by_number_in_float,
        issue="",
        text="a number of Python's beside a float64 is rounded to float32",
        remedy="torch.tensor(0.1, dtype=torch.float64) as a buffer",
    ),
    _translated(
        name="attention with a negative scale",
        operators=("_scaled_dot_product_flash_attention_for_cpu",),
        places=("scaled_dot_product_attention",),
        imitate=imitations.attention_by_root,
        issue=f"{_onnxscript}/pull/548",
        text="scaled_dot_product_attention multiplies by the root of the scale: a negative one "
        "gives nan",
        remedy="negate the query, and give the scale without its sign",
    ),
    _translated(
        name="attention with a row of minus infinity",
        operators=("_scaled_dot_product_flash_attention_for_cpu",),
        places=("scaled_dot_product_attention",),
        imitate=imitations.attention_by_softmax,
        issue=f"{_onnxscript}/pull/2479",
        text="a row of the mask that is -inf everywhere gives nan; torch returns 0",
        remedy="a mask of bools, and torch.where for rows without a key",
    ),
    _translated(
        name="attention with a row that is False",
        operators=("_scaled_dot_product_flash_attention_for_cpu",),
        places=("scaled_dot_product_attention",),
        imitate=imitations.attention_of_lowest,
        issue=f"{_onnxscript}/pull/2654",
        text="a row of the mask that is False everywhere gives the mean of the values; torch "
        "returns 0",
        remedy="torch.where(mask.any(-1, keepdim=True), y, 0.0)",
    ),
    _translated(
        name="all of bytes is a bool",
        operators=("all", "any"),
        places=("convert_element_type",),
        imitate=imitations.always_bool,
        issue=f"{_onnxscript}/pull/932",
        text="all and any of uint8 return bool; torch returns uint8",
        remedy="x.bool().all()",
    ),
    _translated(
        name="any of no elements",
        operators=("any",),
        imitate=imitations.any_of_nothing,
        issue=f"{_onnxscript}/pull/932",
        text="any of no elements is True",
        remedy="x.bool().sum() > 0",
    ),
    _translated(
        name="average with a divisor of its own",
        operators=("avg_pool2d",),
        imitate=imitations.averaged_over_window,
        targets=(ONNX, LEGACY),
        repository="pytorch/pytorch",
        issue=f"{_pytorch}/issues/105349",
        text="avg_pool2d's divisor_override is ignored",
        remedy="avg_pool2d without it, times the size of the window divided by the divisor",
    ),
)

OPTIMIZER: tuple[Defect, ...] = (
    _optimized(
        name="a small addend is dropped",
        operators=("add",),
        places=("isclose",),
        imitate=imitations.without_small_addend,
        issue=f"{_onnxscript}/pull/1346",
        text="onnxscript's add_0_rule takes an addend of 1e-8 or less for zero and drops it",
        remedy="torch.onnx.export(..., optimize=False), or a larger epsilon",
    ),
    _optimized(
        name="a factor next to one is dropped",
        operators=("div", "mul"),
        imitate=imitations.without_factor_near_one,
        issue=f"{_onnxscript}/pull/1346",
        text="onnxscript's mul_by_1_rule and div_by_1_rule take a factor within 1e-5 of one for "
        "one and drop it",
        remedy="torch.onnx.export(..., optimize=False)",
    ),
)

OLD_EXPORTER: tuple[Defect, ...] = (
    _legacy(
        name="legacy: right shift of negative numbers",
        operators=("__rshift_", "bitwise_right_shift"),
        imitate=imitations.shifted_as_divided,
        issue=f"{_pytorch}/issues/191014",
        text="x >> n of negative integers becomes a division towards zero",
        remedy="torch.onnx.export(..., dynamo=True)",
        fixed_in="torch 2.14.0",
    ),
    _legacy(
        name="legacy: floor division of negative integers",
        operators=("floor_divide",),
        imitate=imitations.truncated_quotient,
        issue=f"{_pytorch}/issues/78442",
        text="x // n of negative integers is rounded towards zero",
        remedy="torch.onnx.export(..., dynamo=True)",
    ),
    _legacy(
        name="legacy: floor division of floats",
        operators=("floor_divide", "div"),
        imitate=imitations.floor_of_quotient,
        issue="",
        text="x // y of floats becomes Floor(Div(x, y)) with dynamo=False too",
        remedy="divide integers, or write torch.floor(x / y) in the module as well",
    ),
    _legacy(
        name="legacy: atan2 to the left, and of two zeros",
        operators=("atan2",),
        imitate=imitations.atan2_by_slope_with_nan,
        issue=f"{_pytorch}/issues/162570",
        text="atan2(0, x) is -pi instead of pi for negative x, and atan2(0, 0) is nan",
        remedy="torch.onnx.export(..., dynamo=True), or torch.nan_to_num(torch.atan2(y, x))",
    ),
    _legacy(
        name="legacy: any of numbers below one",
        operators=("any",),
        imitate=imitations.any_of_integers,
        issue="",
        text="any of floats takes numbers between -1 and 1 for zero",
        remedy="(x != 0).any()",
    ),
    _legacy(
        name="legacy: cumsum of 32-bit integers",
        operators=("cumsum",),
        imitate=imitations.cumsum_as_before,
        issue=f"{_pytorch}/issues/77842",
        text="cumsum of int32 returns int32; torch returns int64",
        remedy="x.cumsum(dim, dtype=torch.int64)",
    ),
    _legacy(
        name="legacy: clamp of integers to floats",
        operators=("clamp",),
        imitate=imitations.clamped_as_before,
        issue="",
        text="clamp of integers between floats returns integers; torch returns floats",
        remedy="x.float().clamp(...)",
    ),
    _legacy(
        name="legacy: shrinking nan",
        operators=("hardshrink", "softshrink"),
        imitate=imitations.shrunk_without_nan,
        issue="",
        text="hardshrink and softshrink of nan are 0",
        remedy="torch.where(x.isnan(), x, F.hardshrink(x))",
    ),
    _legacy(
        name="legacy: bucketize of nan",
        operators=("bucketize",),
        imitate=imitations.bucketized_by_comparison,
        issue="",
        text="bucketize puts nan into the first bucket, torch into the last",
        remedy="torch.nan_to_num(x, nan=float('inf'))",
    ),
)

RUNTIME: tuple[Defect, ...] = (
    _run(
        name="sigmoid of large negative numbers",
        operators=("sigmoid",),
        places=("Sigmoid",),
        imitate=imitations.flushed_sigmoid,
        issue=f"{_onnxruntime}/issues/22557",
        text="ONNX Runtime's Sigmoid is 0 below -18",
        remedy="F.logsigmoid and softplus of your own for logarithms of it",
    ),
    _run(
        name="log_sigmoid of large negative numbers",
        operators=("log_sigmoid_forward",),
        places=("log_sigmoid", "Sigmoid"),
        imitate=imitations.log_of_sigmoid,
        issue=f"{_onnxruntime}/issues/22557",
        text="logsigmoid becomes Log(Sigmoid(x)), and ONNX Runtime's Sigmoid is 0 below -18",
        remedy="-F.softplus(-x)",
    ),
    _run(
        name="binary cross entropy of large negative logits",
        operators=("binary_cross_entropy_with_logits",),
        places=("log_sigmoid", "Sigmoid"),
        imitate=imitations.loss_by_log_of_sigmoid,
        targets=(ONNX,),
        issue=f"{_onnxruntime}/issues/22557",
        text="binary_cross_entropy_with_logits becomes Log(Sigmoid(x)), and ONNX Runtime's Sigmoid "
        "is 0 below -18",
        remedy="(1 - y) * x + F.softplus(-x)",
    ),
    _run(
        name="max and min drop nan",
        operators=("amax", "amin", "max", "min"),
        places=("ReduceMax", "ReduceMin"),
        imitate=imitations.reduced_without_nan,
        issue=f"{_onnxruntime}/issues/10514",
        text="ONNX Runtime's ReduceMax and ReduceMin may return another number where one is nan",
        remedy="replace nan before: torch.nan_to_num",
    ),
    _run(
        name="max pooling of nan",
        operators=("max_pool2d_with_indices",),
        places=("max_pool2d", "MaxPool"),
        imitate=imitations.pooled_without_nan,
        issue="",
        text="ONNX Runtime's MaxPool leaves nan out",
        remedy="replace nan before: torch.nan_to_num",
    ),
    _run(
        name="max pooling of minus infinity",
        operators=("max_pool2d_with_indices", "max_pool3d_with_indices"),
        places=("max_pool1d", "max_pool2d", "max_pool3d", "MaxPool"),
        imitate=imitations.pooled_from_lowest,
        issue="",
        text="ONNX Runtime's MaxPool returns the lowest finite number where a window is all -inf",
        remedy="mask with torch.finfo(x.dtype).min in place of -inf",
    ),
    _run(
        name="nan is sorted last",
        operators=("sort",),
        places=("TopK",),
        imitate=imitations.sorted_with_nan_last,
        issue="",
        text="ONNX Runtime's TopK does not put nan first where the largest come first",
        remedy="replace nan before: torch.nan_to_num(x, nan=float('inf'))",
        fixed_in="onnxruntime 1.32.0",
    ),
    _run(
        name="clamp of large integers",
        operators=("clamp",),
        places=("Clip",),
        imitate=imitations.clamped_by_halves,
        issue=f"{_onnxruntime}/pull/25280",
        text="ONNX Runtime's Clip compares int64 wrongly if bit 31 is set: 2**31 is below 5",
        remedy="torch.where(n < low, low, torch.where(n > high, high, n)); of torch.minimum and "
        "torch.maximum the exporter makes a Clip too",
        fixed_in="onnxruntime 1.32.0",
    ),
    _run(
        name="mean of no elements",
        operators=("mean",),
        places=("ReduceMean",),
        imitate=imitations.mean_of_nothing,
        issue=f"{_onnxruntime}/pull/28353",
        text="ONNX Runtime's ReduceMean of no elements is 0",
        remedy="x.sum() / x.numel()",
    ),
    _run(
        name="padding by the pooling after it",
        operators=("constant_pad_nd",),
        places=("pad", "Pad", "max_pool2d", "MaxPool"),
        imitate=imitations.padded_by_the_pool,
        targets=(ONNX,),
        owner="runtime's optimizer",
        issue=f"{_onnxruntime}/pull/18136",
        text="ONNX Runtime's Pad_Fusion moves a padding with zeros into the MaxPool after it, "
        "which pads with -inf",
        remedy='ort.InferenceSession(..., disabled_optimizers=["Pad_Fusion"])',
        fixed_in="onnxruntime 1.32.0",
    ),
)

DEFECTS: tuple[Defect, ...] = (*SCRIPT, *TRACE, *TRANSLATION, *OPTIMIZER, *OLD_EXPORTER, *RUNTIME)
