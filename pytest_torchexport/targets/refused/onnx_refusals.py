"""The refusals of the ONNX exporters, and of ONNX Runtime to make a session."""

from __future__ import annotations

from pytest_torchexport.targets.refused.rule import Rule

_MISSING = r"No ONNX function found for <OpOverload\(op='(?P<op>{op})', overload='(?P<overload>{overload})'\)>"
OWN = (
    'translate it: export_options={{"onnx": {{"custom_translation_table": '
    "{{torch.ops.{op}.{overload}: a_function_of_onnxscript}}}}}}"
)
_ANY = r"[\w.]+"
# An operator, with its overload after a blank if there are others, and what to write in its place:
# the exporter takes it, and it gives the same.
INSTEAD = {
    r"aten\._cdist_forward": (
        "(x[..., None, :] - y[..., None, :, :]).abs().pow(p).sum(-1).pow(1 / p) in place of "
        "torch.cdist(x, y, p)"
    ),
    r"aten\._pdist_forward": (
        "i, j = torch.triu_indices(len(x), len(x), 1) and (x[i] - x[j]).abs().pow(p).sum(-1)"
        ".pow(1 / p) in place of F.pdist(x, p)"
    ),
    r"aten\.kthvalue": "x.topk(k, dim, largest=False).values.select(dim, -1)",
    r"aten\.median default": "x.flatten().topk((x.numel() + 1) // 2, largest=False).values[-1]",
    r"aten\.median dim": "x.sort(dim).values.select(dim, (x.shape[dim] - 1) // 2)",
    r"aten\.nanmedian default": (
        "torch.where(x.isnan(), torch.inf, x).flatten().sort().values"
        ".gather(0, (~x.isnan()).sum()[None].sub(1) // 2)[0]"
    ),
    r"aten\.nanmedian dim": (
        "torch.where(x.isnan(), torch.inf, x).sort(dim).values"
        ".gather(dim, (~x.isnan()).sum(dim, keepdim=True).sub(1) // 2).squeeze(dim)"
    ),
    r"aten\.searchsorted Tensor": (
        "(boundaries[..., None, :] < values[..., None]).sum(-1) (<= for right=True)"
    ),
    r"aten\.searchsorted Scalar": "(boundaries < value).sum() (<= for right=True)",
    r"aten\.index_reduce": (
        "x.scatter_reduce(dim, index, source, reduce), with the index expanded to source's shape"
    ),
    r"aten\.put": (
        "x.flatten().index_copy(0, index, source).view(x.shape) (index_add for accumulate=True)"
    ),
    r"aten\._foreach_\w+": "a list comprehension over the tensors",
    r"aten\.adaptive_max_pool\dd": "F.max_pool with a fixed kernel_size and stride",
    r"aten\.randperm": "torch.rand(n).topk(n).indices",
    r"aten\.(?:_to_sparse\w*|_sparse_\w+|to_sparse)": "dense tensors: ONNX Runtime has no sparse ones",
    r"aten\.sort": "x.topk(x.shape[dim], dim) (largest=False for ascending order)",
    r"prims\.(?:uniform|normal|_\w*philox\w*)": (
        "make parameters and modules in __init__, not in forward"
    ),
    r"aten\.(?:_?linalg_\w+|linalg\w*|cholesky\w*|matrix_exp|_?svd\w*)": (
        "ONNX has no linear algebra beyond products and det: compute it outside the module, "
        "or keep it in a buffer if it does not vary"
    ),
}


def _missing(operator: str = _ANY) -> str:
    """Return what the exporter says of an operator, given as in ``INSTEAD``."""
    op, _, overload = operator.partition(" ")
    return _MISSING.format(op=op, overload=overload or r"\w+")


TRANSLATION = (
    Rule(
        said=_missing()
        + r"\. Failure message: No decompositions registered for the complex-valued input",
        kind="unsupported type",
        cause="the ONNX exporter has no translation of {op} for complex tensors",
        remedy="real and imaginary part as real tensors (torch.view_as_real) before this line",
        owner="translation",
    ),
    *(
        Rule(
            said=_missing(op),
            kind="unsupported operator",
            cause="the ONNX exporter has no translation of {op}",
            remedy=instead,
            owner="translation",
        )
        for op, instead in INSTEAD.items()
    ),
    Rule(
        said=_missing(),
        kind="unsupported operator",
        cause="the ONNX exporter has no translation of {op}",
        remedy=f"other operations of torch in its place; or {OWN}",
        owner="translation",
    ),
    Rule(
        said=r"Cannot find a compatible OpOverload for (?P<op>[\w.]+) with the provided arguments[\s\S]*"
        r"for argument 'self' but instead found type '(?P<cls>int|float)'",
        kind="unsupported operator",
        cause="the ONNX exporter cannot convert the dtypes of {op} where a {cls} of Python's comes first",
        remedy="a tensor of the result's dtype behind the number: 1.0 - x.float() in place of 1.0 - x",
        owner="translation",
    ),
    Rule(
        said=r"aot_autograd expected to have an entirely functional graph, but found %(?P<op>\w+)",
        kind="unsupported construct",
        cause="forward writes in place in a way that torch cannot express without writing ({op})",
        remedy="a new tensor in place of the write: torch.where(mask, a, b), x.scatter(...), torch.diag_embed",
        owner="capture",
    ),
    Rule(
        said=r"^(?:\d+ not in VR\[|expand: attempting to expand a dimension of length )"
        r"[\s\S]*While executing %copy_",
        kind="unsupported construct",
        cause="forward puts a tensor of another size in the place of a buffer or an input",
        remedy="make it in full size in __init__, and take a part of it in forward: self.table[:n]",
    ),
    Rule(
        said=r"^torch\.(?P<dtype>\w+)$",
        raised=r"^KeyError$",
        kind="unsupported type",
        cause="the ONNX exporter has no type for torch.{dtype}",
        remedy="another dtype here: float32, int64",
        owner="translation",
    ),
    Rule(
        said=r"^'(?P<cls>str|int|float|bool)' object has no attribute 'name'$",
        raised=r"^AttributeError$",
        kind="unsupported type",
        cause="forward returns something of type {cls}, and an ONNX model returns only tensors",
        remedy="leave it out of what forward returns, or make it a tensor: torch.tensor(value)",
        returned=True,
    ),
    Rule(
        said=r"^(?P<why>[^\n]*(?:not implemented|not supported|unsupported)[^\n]*?)\.?$",
        raised=r"^(?:NotImplementedError|AssertionError)$",
        kind="unsupported operator",
        cause="the ONNX exporter translates the operator of this line only in part: {why}",
        remedy="other arguments or another dtype, or other operations of torch",
        owner="translation",
    ),
    Rule(
        said=r"Exporting the operator '(?P<op>[\w:]+)' to ONNX opset version (?P<opset>\d+) is not "
        r"supported\. Support for this operator was added in version (?P<added>\d+)",
        kind="unsupported operator",
        cause="{op} has a translation from opset {added} on, and the export is to opset {opset}",
        remedy='export_options={{"onnx_legacy": {{"opset_version": {added}}}}}',
        owner="translation",
    ),
    Rule(
        said=r"Exporting the operator '(?P<op>[\w:]+)' to ONNX opset version (?P<opset>\d+) is not "
        r"supported",
        kind="unsupported operator",
        cause="the ONNX exporter on top of traces has no translation of {op}",
        remedy="the target onnx (dynamo=True), which translates more; or other operations of torch",
        owner="translation",
    ),
)

RUNTIME = (
    Rule(
        said=r"NOT_IMPLEMENTED : Could not find an implementation for (?P<op>\w+)\(\d+\)[\s\S]*"
        r"\nthe node takes (?P<types>[^\n]+)",
        kind="unsupported operator",
        cause="ONNX Runtime has no kernel of {op} for {types} on this device",
        remedy="compute it in float32: x.float(), and .to(dtype) behind it",
        owner="runtime",
    ),
    Rule(
        said=r"NOT_IMPLEMENTED : Could not find an implementation for (?P<op>\w+)\(\d+\)",
        kind="unsupported operator",
        cause="ONNX Runtime has no kernel of {op} for the dtype that it gets",
        remedy="compute it in float32: x.float(), and .to(dtype) behind it",
        owner="runtime",
    ),
    Rule(
        said=r"INVALID_GRAPH : [\s\S]*Type 'tensor\((?P<type>\w+)\)' of input parameter .* of operator "
        r"\((?P<op>\w+)\)",
        kind="unsupported type",
        cause="ONNX has no {op} of {type}",
        remedy="compute it in float32: x.float(), and .to(dtype) behind it",
        owner="translation",
    ),
)

# The exporter on top of traces.
LEGACY = (
    Rule(
        said=r"Tried to trace <\S+?\.(?P<cls>\w+) object at .* is not part of the active trace",
        kind="unsupported construct",
        cause="the ONNX exporter on top of traces takes no TorchScript module ({cls}) inside a module",
        remedy="export the whole model as TorchScript, or without torch.jit.script of its parts",
        owner="capture",
    ),
    Rule(
        said=r"an operator with unrecognized namespace (?P<op>[\w:]+)",
        kind="unsupported operator",
        cause="the ONNX exporter on top of traces has no translation of {op}",
        remedy='translate it: torch.onnx.register_custom_op_symbolic("{op}", a_function, 1)',
        owner="translation",
    ),
    Rule(
        said=r"^(?P<why>\w+\(\) [^\n]*?)\s*\n?\(Occurred when translating (?P<op>\w+)\)",
        kind="unsupported operator",
        cause="the ONNX exporter on top of traces does not take these arguments of {op}: {why}",
        remedy="other arguments, or other operations of torch; or the target onnx (dynamo=True)",
        owner="translation",
    ),
    Rule(
        said=r"(?P<why>ONNX export (?:of operator|does NOT support)[^\n]*?)(?:\. Please|\s*\[Caused by|$)",
        raised=r"^(?:OnnxExporterError|SymbolicValueError|UnsupportedOperatorError)$",
        kind="unsupported operator",
        cause="the ONNX exporter on top of traces translates an operator only in part: {why}",
        remedy="other arguments, or other operations of torch; or the target onnx (dynamo=True)",
        owner="translation",
    ),
    Rule(
        said=r"ScalarType Complex\w+ is an unexpected tensor scalar type|Unknown number type: complex",
        kind="unsupported type",
        cause="the ONNX exporter on top of traces has no complex tensors",
        remedy="the target onnx (dynamo=True); or real and imaginary part as real tensors",
        owner="translation",
    ),
    Rule(
        said=r"received an input of unsupported type: (?P<cls>\w+)",
        kind="unsupported type",
        cause="forward takes or returns an object of {cls}, and a trace only has tensors",
        remedy="a tuple, list or dict of tensors in its place",
    ),
    Rule(
        said=r"state_dict changed after running the tracer",
        kind="unsupported construct",
        cause="forward makes parameters or buffers, and a trace has those that the module began with",
        remedy="make them in __init__: self.register_buffer(...)",
    ),
    Rule(
        said=r"'(?P<cls>\w+)' object has no attribute 'detach'",
        frame=r"/torch/jit/_trace\.py:_unique_state_dict",
        kind="unsupported type",
        cause="the state_dict holds something of type {cls} (get_extra_state), and the ONNX exporter "
        "on top of traces takes only tensors there",
        remedy="the target onnx (dynamo=True); or a buffer in place of the extra state",
        owner="translation",
    ),
)

RULES = (*RUNTIME, *TRANSLATION)
