"""The table of defects in other packages that are known.

A row is added with a reproduction in ``tests/zoo/upstream.py``, and removed when none of the
supported versions has the defect any more.
"""

from __future__ import annotations

from pytest_torchexport.diagnosis import imitations
from pytest_torchexport.diagnosis.defect import Defect

ONNX = ("onnx",)
LEGACY = ("onnx_legacy",)
BOTH = (*ONNX, *LEGACY)
TORCH = ("torch 2.13.0",)
ONNXSCRIPT = (*TORCH, "onnxscript 0.7.2")
RUNTIME = (*ONNXSCRIPT, "onnxruntime 1.31.1")

DEFECTS: tuple[Defect, ...] = (
    Defect(
        name="a small addend is dropped",
        operators=("add",),
        imitate=imitations.without_small_addend,
        places=("add",),
        targets=ONNX,
        owner="exporter's optimizer",
        repository="microsoft/onnxscript",
        issue="",
        seen=ONNXSCRIPT,
        text="onnxscript's add_0_rule takes an addend of 1e-8 or less for zero and drops it",
        remedy="torch.onnx.export(..., optimize=False), or a larger epsilon",
    ),
    Defect(
        name="floor_divide by way of a quotient",
        operators=("floor_divide",),
        imitate=imitations.floor_of_quotient,
        places=("floor_divide",),
        targets=BOTH,
        owner="translation",
        repository="microsoft/onnxscript",
        issue="https://github.com/microsoft/onnxscript/issues/989",
        seen=ONNXSCRIPT,
        text="x // y of floats becomes Floor(Div(x, y)), which is one too large where the quotient "
        "rounds up to an integer",
        remedy="divide integers, or write torch.floor(x / y) in the module as well",
    ),
    Defect(
        name="atan2 of zero and a negative number",
        operators=("atan2",),
        imitate=imitations.atan2_by_slope,
        places=("atan2",),
        targets=ONNX,
        owner="translation",
        repository="microsoft/onnxscript",
        issue="",
        seen=ONNXSCRIPT,
        text="atan2(0, x) is -pi instead of pi for negative x, and 0 where both are infinite",
        remedy="torch.where((y == 0) & (x < 0), math.pi, torch.atan2(y, x))",
    ),
    Defect(
        name="logaddexp overflows",
        operators=("logaddexp",),
        imitate=imitations.logaddexp_unscaled,
        places=("logaddexp",),
        targets=ONNX,
        owner="translation",
        repository="microsoft/onnxscript",
        issue="",
        seen=ONNXSCRIPT,
        text="logaddexp becomes Log(Exp(x) + Exp(y)): inf above 88, -inf where both are below -103",
        remedy="torch.maximum(x, y) + torch.log1p(torch.exp(-(x - y).abs()))",
    ),
    Defect(
        name="logaddexp2 overflows",
        operators=("logaddexp2",),
        imitate=imitations.logaddexp2_unscaled,
        places=("logaddexp2",),
        targets=ONNX,
        owner="translation",
        repository="microsoft/onnxscript",
        issue="",
        seen=ONNXSCRIPT,
        text="logaddexp2 becomes the logarithm of Pow(2, x) + Pow(2, y): inf from 128 up",
        remedy="torch.maximum(x, y) + torch.log2(1 + torch.exp2(-(x - y).abs()))",
    ),
    Defect(
        name="logcumsumexp underflows",
        operators=("logcumsumexp",),
        imitate=imitations.logcumsumexp_of_one_maximum,
        places=("logcumsumexp",),
        targets=ONNX,
        owner="translation",
        repository="microsoft/onnxscript",
        issue="",
        seen=ONNXSCRIPT,
        text="logcumsumexp scales by the maximum of the whole axis: what comes before it by more "
        "than 103 below is -inf",
        remedy="split the axis, or scale the numbers before",
    ),
    Defect(
        name="erfcx of large numbers",
        operators=("special_erfcx",),
        imitate=imitations.erfcx_by_erf,
        places=("special_erfcx",),
        targets=ONNX,
        owner="translation",
        repository="microsoft/onnxscript",
        issue="",
        seen=ONNXSCRIPT,
        text="erfcx becomes Exp(x * x) * (1 - Erf(x)): 0 from 4 up, nan from 10 up",
        remedy="use torch.special.log_ndtr's or your own series for large numbers",
    ),
    Defect(
        name="scatter_reduce with mean does not reduce",
        operators=("scatter_reduce",),
        imitate=imitations.scatter_without_mean,
        places=("scatter_reduce",),
        targets=ONNX,
        owner="translation",
        repository="microsoft/onnxscript",
        issue="https://github.com/microsoft/onnxscript/pull/582",
        seen=ONNXSCRIPT,
        text='scatter_reduce(..., "mean") becomes ScatterElements without a reduction',
        remedy='divide a scatter_reduce(..., "sum") by the counts, which "sum" of ones gives',
    ),
    Defect(
        name="max and min drop nan",
        operators=("amax", "amin", "max", "min"),
        imitate=imitations.reduced_without_nan,
        places=("amax", "amin", "max", "min", "ReduceMax", "ReduceMin"),
        targets=BOTH,
        owner="runtime",
        repository="microsoft/onnxruntime",
        issue="https://github.com/microsoft/onnxruntime/issues/10514",
        seen=RUNTIME,
        text="ONNX Runtime's ReduceMax and ReduceMin may return another number where one is nan",
        remedy="replace nan before: torch.nan_to_num",
    ),
)
