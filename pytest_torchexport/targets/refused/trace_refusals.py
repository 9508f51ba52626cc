"""The refusals of ``torch.jit.trace``."""

from __future__ import annotations

from pytest_torchexport.targets.refused.rule import Rule

RULES = (
    Rule(
        said=r"Tracer cannot infer type of [\s\S]*but instead got value of type (?P<cls>\w+)",
        kind="unsupported type",
        cause="forward returns an object of {cls}, and a trace only has tensors",
        remedy="return a tuple, a NamedTuple or a dict of tensors in its place",
        returned=True,
    ),
    Rule(
        said=r"Dictionary inputs to traced functions must have consistent type\. "
        r"Found (?P<one>.+) and (?P<other>.+)",
        kind="unsupported type",
        cause="forward returns a dict of {one} and {other}: in a trace, all of a dict have one type",
        remedy="return a tuple, or only tensors in the dict",
        returned=True,
    ),
    Rule(
        said=r"List inputs to traced functions must have consistent element type\. "
        r"Found (?P<one>.+) and (?P<other>.+)",
        kind="unsupported type",
        cause="forward takes or returns a list of {one} and {other}: in a trace, all of a list have one type",
        remedy="a tuple in place of the list",
    ),
    Rule(
        said=r"List trace inputs must have elements",
        kind="unsupported type",
        cause="forward returns an empty list, which has no type in a trace",
        remedy="leave the empty list out",
        returned=True,
    ),
    Rule(
        said=r"only outputs matching dict\[",
        kind="unsupported type",
        cause="forward returns a dict whose keys are no strings, or whose values are no tensors",
        remedy='return a tuple, or a flat dict of tensors with strings as keys: {{"a": x}}',
        returned=True,
    ),
    Rule(
        said=r"Only tensors, lists, tuples of tensors, or dictionary of tensors can be output",
        kind="unsupported type",
        cause="forward returns something that is no tensor: a number, a string, None or an object",
        remedy="leave it out of what forward returns, or make it a tensor: torch.tensor(value)",
        returned=True,
    ),
    Rule(
        said=r"The traced function didn't return any values",
        kind="unsupported type",
        cause="forward returns nothing, and a trace has only what is returned",
        remedy="return the tensors that it computes",
    ),
    Rule(
        said=r"did not have observable data dependence with trace inputs",
        kind="unsupported construct",
        cause="an output is not made by operations that the trace sees",
        remedy="compute it from forward's tensors, and in its thread; leave out plain numbers",
    ),
    Rule(
        said=r"We don't have an op for aten::(?P<op>\w+) but it isn't a special case\.\s+"
        r"Argument types: (?P<types>[\w, ]*\w)",
        kind="unsupported operator",
        cause="TorchScript has no {op} of {types}: Python computes it with sizes, which are tensors "
        "while forward is traced",
        remedy="other operations in its place: a != b for a ^ b of two conditions",
    ),
    Rule(
        said=r"^unordered_map::at$",
        frame=r"torch/autograd/function\.py:apply$",
        kind="unsupported construct",
        cause="a torch.autograd.Function computes with tensors that are no arguments of apply() "
        "themselves: those of a module, a list or an object that it is given",
        remedy="give apply() each tensor as an argument of its own; or, for inference, call what it "
        "computes without the Function",
    ),
    Rule(
        said=r"Cannot insert a Tensor that requires grad as a constant",
        line=r"autograd\.grad\(|\.backward\(",
        kind="unsupported construct",
        cause="forward computes gradients, which a trace does not record",
        remedy="the target export, which records them; or write the derivative out",
    ),
    Rule(
        said=r"Cannot insert a Tensor that requires grad as a constant",
        kind="unsupported construct",
        cause="forward uses a tensor with requires_grad that is no parameter of the module",
        remedy=(
            "register it: self.w = nn.Parameter(w), or its module in nn.ModuleList; "
            "or w.detach() if it is not trained"
        ),
    ),
    Rule(
        said=r"using FX to torch\.jit\.trace a dynamo-optimized function",
        line=r"torch\.compile\(",
        kind="unsupported construct",
        cause="forward calls torch.compile, which a trace cannot look into",
        remedy="compile outside forward, and trace the module that is not compiled",
    ),
    Rule(
        said=r"using FX to torch\.jit\.trace a dynamo-optimized function",
        line=r"(?P<name>\b(?:cond|while_loop|scan|map|associative_scan|flex_attention))\(",
        kind="unsupported construct",
        cause="a trace has no torch.{name}",
        remedy=(
            "a plain if or loop in a function under @torch.jit.script, or torch.where; "
            "torch.export takes torch.{name}"
        ),
    ),
    Rule(
        said=r"Tried to trace <\S+?\.(?P<cls>\w+) object at .* is not part of the active trace",
        kind="unsupported construct",
        cause="forward calls a TorchScript module ({cls}) that is no submodule of the module",
        remedy="make it in __init__, and keep it in an attribute: self.part = torch.jit.script(...)",
    ),
    Rule(
        said=r"type Tensor doesn't define __round__ method",
        kind="unsupported construct",
        cause="a trace takes a size for a tensor, which Python's round does not take",
        remedy="whole numbers: (n + 1) // 2 in place of round(n / 2)",
    ),
    Rule(
        said=r"Tracing failed sanity checks",
        kind="unsupported construct",
        cause="two traces of the same call differ, or the trace does not return what eager does",
        remedy=(
            "take out of forward what changes from call to call (random numbers, counters, "
            "id(), the order of a set)"
        ),
    ),
    Rule(
        said=r"Encountering a (?P<kind>dict|list) at the output of the tracer",
        kind="unsupported type",
        cause="forward returns a {kind}, which a strict trace does not take",
        remedy='export_options={{"trace": {{"strict": False}}}}, or return a tuple',
    ),
)
