"""The refusals of ``torch.export``, also on the way to ONNX."""

from __future__ import annotations

from pytest_torchexport.targets.refused.rule import Rule

DATA_DEPENDENT = (
    r"Could not (?:guard on|extract specialized integer from) data-dependent expression"
)
NOT_A_TREE = (
    "return a tuple, list or dict of tensors; or, if it is a dataclass, once beside its class: "
    "torch.export.register_dataclass({cls})"
)

PADDED = "give it the padded tensor, and mask its output"

VALUES = (
    Rule(
        said=DATA_DEPENDENT,
        frame=r"/torch/distributions/\w+\.py",
        kind="data-dependent value",
        cause="the distribution checks the values of its arguments",
        remedy="pass validate_args=False to it",
    ),
    Rule(
        said=DATA_DEPENDENT,
        line=r"\bone_hot\((?!.*num_classes)[^,]*\)",
        kind="data-dependent value",
        cause="one_hot takes the number of classes from the values",
        remedy="give the number: one_hot(x, num_classes=n)",
    ),
    Rule(
        said=DATA_DEPENDENT,
        line=r"\bmath\.(?P<name>sqrt|exp|log|log2|log10|sin|cos|tan|tanh|floor|ceil|pow|erf)\(",
        kind="data-dependent value",
        cause="math.{name} makes a Python number of a tensor",
        remedy="torch.{name}(...)",
    ),
    Rule(
        said=DATA_DEPENDENT
        + r"[\s\S]*To fix the error, insert one of the following checks before this call:\s+"
        r"1\. (?P<one>torch\._check\(.+\))\n\s+2\. (?P<other>torch\._check\(.+\))",
        line=r"^(?!(?:el)?if\b|while\b|assert\b|for\b)",
        kind="data-dependent value",
        cause="torch has to know something about a size that comes from values",
        remedy="before this line, whichever always holds: {one} or {other}",
    ),
    Rule(
        said=DATA_DEPENDENT,
        frame=r"/torch/nn/modules/transformer\.py:_detect_is_causal_mask",
        kind="data-dependent value",
        cause="torch compares the mask with a causal one, by its values",
        remedy="say what it is: tgt_is_causal=True (a decoder), is_causal=True (an encoder), or False",
    ),
    Rule(
        said=r"vmap: It looks like you're calling \.item\(\) on a Tensor",
        kind="data-dependent value",
        cause="a function under vmap makes a Python number or truth value of a tensor",
        remedy="torch.where(pred, a, b) in place of an if; keep numbers in tensors",
    ),
)

PYTHON = (
    Rule(
        said=r"\.numpy\(\) is not supported for tensor subclasses",
        kind="unsupported construct",
        cause="forward gives a tensor to NumPy, which torch.export cannot look into",
        remedy="the operation of torch of this name (torch.sqrt in place of np.sqrt)",
    ),
    Rule(
        said=r"unsupported format string passed to FakeTensor\.__format__",
        kind="unsupported construct",
        cause="forward formats the value of a tensor, which has none while it is exported",
        remedy="only under if not torch.compiler.is_exporting(): ...",
    ),
    Rule(
        said=r"Cannot access data pointer of Tensor|Can't pickle local object",
        line=r"(?:copy\.)?deepcopy\(",
        kind="unsupported construct",
        cause="forward calls deepcopy, and a tensor has no memory to copy while it is exported",
        remedy="x.clone() for a tensor; copy modules in __init__",
    ),
    Rule(
        said=r"Cannot access data pointer of Tensor",
        line=r"data_ptr\(",
        kind="unsupported construct",
        cause="forward asks for the address of a tensor, which has none while it is exported",
        remedy="decide by something else: x is y, a shape, an argument",
    ),
    Rule(
        said=r"Can't pickle local object",
        line=r"pickle\.|torch\.(?:save|load)\(",
        kind="unsupported construct",
        cause="forward saves a tensor, which has no values while it is exported",
        remedy="save it outside forward; x.clone() for a copy",
    ),
    Rule(
        said=r"its data is not allocated yet",
        line=r"torch\.(?P<name>tensor|as_tensor)\(",
        kind="unsupported construct",
        cause="torch.{name} of tensors reads their values",
        remedy="torch.stack([a, b]) in place of torch.{name}([a, b])",
    ),
    Rule(
        said=r"a (?:view of a )?leaf Variable that requires grad is being used in an in-place",
        kind="unsupported construct",
        cause="forward writes into a parameter, and is exported with gradients",
        remedy="under with torch.no_grad(): ..., or keep what changes in a buffer",
    ),
)

TYPES = (
    Rule(
        said=r"Found <class 'generator'> in output",
        kind="unsupported type",
        cause="forward returns a generator",
        remedy="return a list: [...] in place of (...)",
        returned=True,
    ),
    Rule(
        said=r"Found <class 'torch\.(?P<cls>dtype|device|Generator)'> in output",
        kind="unsupported type",
        cause="forward returns a torch.{cls}, which is no tensor",
        remedy="leave it out of what forward returns",
        returned=True,
    ),
    Rule(
        said=r"Found <class '(?:[\w.<>]+\.)?(?P<cls>\w+)'> in output, which is not a known type",
        kind="unsupported type",
        cause="forward returns an object of {cls}, and torch.export does not know which tensors are in it",
        remedy=NOT_A_TREE,
        returned=True,
    ),
    Rule(
        said=r"(?:Unsupported input type|to non-tensor type) <class '(?:[\w.<>]+\.)?(?P<cls>\w+)'>",
        kind="unsupported type",
        cause="forward takes an object of {cls}, and torch.export does not know which tensors are in it",
        remedy="take them as arguments; or, if it is a dataclass, once beside its class: "
        "torch.export.register_dataclass({cls})",
    ),
)

NAMES = (
    Rule(
        # Not of other names: nothing else of a submodule is lost on the way.
        said=r"Node \w+ target (?P<name>_?(?:code|graph)|meta|recompile|print_readable|to_folder"
        r"|add_submodule|delete_submodule|delete_all_unused_submodules)\.[\w.]+ references "
        r"nonexistent attribute",
        kind="unsupported construct",
        cause="a program of torch.export has an attribute {name} of its own, in whose place the "
        "submodule {name} cannot be",
        remedy="another name for it: self.{name}_ in place of self.{name}",
    ),
)

OPERATORS = (
    Rule(
        said=r"There was no fake impl registered for <CustomOpDef\((?P<op>[\w:]+)\)>",
        kind="unsupported operator",
        cause="{op} has no fake kernel: torch.export does not know the shapes that it returns",
        remedy='@torch.library.register_fake("{op}") on a function of the same arguments that '
        "returns e.g. torch.empty_like(x)",
    ),
    Rule(
        said=r"^(?P<space>(?!aten\b|prims\b)\w+)\.(?P<name>\w+)\.\w+$",
        raised=r"^UnsupportedOperatorException$",
        kind="unsupported operator",
        cause="{space}::{name} has no fake kernel: torch.export does not know what it returns",
        remedy='@torch.library.register_fake("{space}::{name}") on a function of the same arguments '
        "that returns e.g. torch.empty_like(x)",
    ),
    Rule(
        said=r"^(?P<op>\w+\.\w+)\.\w+$",
        raised=r"^UnsupportedOperatorException$",
        kind="unsupported operator",
        cause="torch.export does not know the shapes that {op} returns",
        remedy="other operations of torch: padded tensors and masks for nested ones",
        owner="capture",
    ),
    Rule(
        said=r"^(?P<op>\w+\.\w+)\.\w+$",
        raised=r"^DynamicOutputShapeException$",
        kind="data-dependent value",
        cause="the shapes that {op} returns depend on values, and torch.export has none for it",
        remedy="other operations of torch, or call it outside the module",
        owner="capture",
    ),
    Rule(
        said=r"^(?P<op>(?!aten::|prims::)[\w:]+): attempted to run this operator with Meta tensors",
        kind="unsupported operator",
        cause="{op} has no fake kernel: torch.export does not know what it returns",
        remedy='@torch.library.register_fake("{op}") on a function of the same arguments that '
        "returns e.g. torch.empty_like(x)",
    ),
    Rule(
        said=r"^(?P<op>[\w:]+): attempted to run this operator with Meta tensors",
        kind="unsupported operator",
        cause="torch.export does not know the shapes that {op} returns",
        remedy="call it in __init__ or outside the module, and pass its result",
        owner="capture",
    ),
    Rule(
        said=r"(?P<cls>__torch__\.torch\.classes\.[\w.]+) .*does not have a field with name '__obj_flatten__'",
        kind="unsupported type",
        cause="the module holds a TorchScript object ({cls}), which torch.export cannot capture",
        remedy="export the module before it is quantized or packed, and quantize the program (torchao)",
        owner="capture",
    ),
    Rule(
        said=r"zeros\(\): argument 'size' .* got FakeTensor",
        frame=r"/torch/nn/modules/rnn\.py",
        kind="data-dependent value",
        cause="a recurrent module reads the batch's size from the lengths of a packed sequence",
        remedy=PADDED,
    ),
    Rule(
        said=DATA_DEPENDENT,
        frame=r"/torch/nn/modules/rnn\.py",
        kind="data-dependent value",
        cause="a recurrent module decides by the lengths of a packed sequence",
        remedy=PADDED,
    ),
    Rule(
        said=r"branches' output in torch\.cond,\s+expected same (?P<what>\w+) but got (?P<got>[^\"]+)",
        kind="unsupported construct",
        cause="the two functions of torch.cond return other {what}s",
        remedy="the same {what} from both: .to(dtype), .expand(...)",
    ),
)

SIZES = (
    Rule(
        said=r"unhashable type: non-nested SymInt",
        kind="frozen size",
        cause="forward uses a size that varies as a key of a dict, a set or a cache",
        remedy="compute it in each call, or once in __init__ for the largest size",
    ),
    Rule(
        said=r"export 0/1 specialized due to hint of (?P<size>[01]) for dimension (?P<axis>\S+?)\.?$",
        kind="frozen size",
        cause="torch.export freezes a varying size that is {size} in the example: {axis}",
        remedy="call the module in the test with a size of at least 2 there",
        owner="capture",
    ),
)

# What torch says itself: of the capture with strict=True, and of functions in torch.cond.
GENERIC = (
    Rule(
        said=r"unsupported operand type\(s\) for (?P<op>\S+): .*'Sym(?P<kind>Bool|Int|Float)'",
        raised="^TypeError$",
        kind="unsupported construct",
        cause="Python has no {op} for a size that varies, or for a condition on it (Sym{kind})",
        remedy="decide each once, at the export: bool(a) {op} bool(b); or declare the size fixed",
    ),
    Rule(
        said=r"Explanation: (?P<why>[^\n]+?)\.?\n(?:\s*Hint: (?P<hint>[^\n]+))",
        raised=r"^Unsupported$",
        kind="unsupported construct",
        cause="{why}",
        remedy="{hint}",
    ),
)

RULES = (*VALUES, *PYTHON, *TYPES, *NAMES, *OPERATORS, *SIZES)
