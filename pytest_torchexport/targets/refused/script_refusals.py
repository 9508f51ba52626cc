"""The refusals of ``torch.jit.script``, and what it compiles instead."""

from __future__ import annotations

import torch

from pytest_torchexport.targets.refused.rule import Rule

OUTSIDE = (
    "leave it out of the script: under `if not torch.jit.is_scripting():`, or in a method under "
    "@torch.jit.unused"
)
# The first file that TorchScript names is the one that it refuses.
LIBRARY = (
    r"\A(?:(?!File \")[\s\S])*File \"[^\"]*/(?:site-packages|lib/python[\d.]+)/"
    r"(?P<path>[\w/]+\.py)\", line"
)
OF_TENSORS = "|".join(name for name in dir(torch.Tensor) if not name.startswith("_"))

CONTROL_FLOW = (
    Rule(
        said=r"(?P<name>\w+) is not defined in the (?P<side>true|false) branch",
        kind="unsupported construct",
        cause="{name} has no value in the {side} branch",
        remedy="give it a value before the if, or on both sides",
    ),
    Rule(
        said=r"Type mismatch: (?P<name>\w+) is set to type (?P<one>.*) in the true branch and type "
        r"(?P<other>.*) in the false branch",
        kind="unsupported type",
        cause="{name} is {one} in the true branch and {other} in the false one",
        remedy="the same type on both sides: a tensor rather than a number (torch.zeros(()))",
    ),
    Rule(
        said=r"Previous return statement returned a value of type (?P<one>.*) but this return "
        r"statement returns a value of type (?P<other>[^\n]*?):?\n",
        kind="unsupported type",
        cause="one return gives {one}, another one {other}",
        remedy=(
            "the same type in every return; or annotate what forward returns (-> typing.Union[...])"
        ),
    ),
    Rule(
        said=r"Return value was annotated as having type (?P<one>.*) but is actually of type "
        r"(?P<other>[^\n]*?):?\n",
        kind="unsupported type",
        cause="the function is annotated to return {one}, and returns {other}",
        remedy="annotate what it returns: -> {other}",
    ),
    Rule(
        said=r"ModuleList/Sequential indexing is only supported with integer literals",
        kind="unsupported construct",
        cause="`{here}` takes a module by a variable index",
        remedy="for i, layer in enumerate(self.layers): if i == index: ...",
    ),
    Rule(
        said=r"ModuleDict indexing is only supported with string literals",
        kind="unsupported construct",
        cause="`{here}` takes a module by a variable key",
        remedy="for key, layer in self.layers.items(): if key == name: ...",
    ),
    Rule(
        said=r"Can not iterate over a module list or tuple with a value that does not have a "
        r"statically determinable length",
        kind="unsupported construct",
        cause="`{here}` loops over modules together with something whose length varies",
        remedy="for i, layer in enumerate(self.layers): ... other[i]",
    ),
    Rule(
        said=r"modules\S* \(of Python compilation unit at: \w+\)' object has no attribute or method "
        r"'__call__'",
        kind="unsupported construct",
        cause="`{here}` is a module out of a part of a ModuleList, which TorchScript cannot call",
        remedy=(
            "take the part in __init__ (self.rest = self.layers[1:]), and loop over self.rest itself"
        ),
    ),
    Rule(
        said=r"Comprehension ifs are not supported",
        kind="unsupported construct",
        cause="TorchScript has no comprehension with an if",
        remedy="a for loop that appends under an if",
    ),
    Rule(
        said=r"try blocks aren't supported",
        kind="unsupported construct",
        cause="TorchScript has no try",
        remedy="an if that asks beforehand whether it would raise",
    ),
    Rule(
        said=r"Match aren't supported",
        kind="unsupported construct",
        cause="TorchScript has no match",
        remedy="if and elif",
    ),
    Rule(
        said=r"NamedExpr aren't supported",
        kind="unsupported construct",
        cause="TorchScript has no :=",
        remedy="assign on a line of its own",
    ),
    Rule(
        said=r"else branches of (?P<loop>for|while) loops aren't supported",
        kind="unsupported construct",
        cause="TorchScript has no else of a {loop} loop",
        remedy="a flag that the loop sets, and an if after it",
    ),
    Rule(
        said=r"do not support break or continue inside the body",
        kind="unsupported construct",
        cause="a loop over modules is unrolled, and takes no break or continue",
        remedy="a flag, and the rest of the body under an if",
    ),
    Rule(
        said=r"Variable '(?P<name>\w+)' previously had type NoneType but is now being assigned",
        kind="missing annotation",
        cause="{name} starts as None, and TorchScript takes it for nothing else",
        remedy=(
            "annotate it where it becomes None ({name}: Optional[Tensor] = None) and "
            "assert {name} is not None before use"
        ),
    ),
)

LIBRARIES = (
    Rule(
        said=r"[\s\S]",
        line=r"torch\.(?P<name>cond|while_loop)\(",
        kind="unsupported construct",
        cause="TorchScript has no torch.{name}",
        remedy="a plain if or while, which it compiles; under if torch.jit.is_scripting(): if others need torch.{name}",
    ),
    Rule(
        said=r"Expected a value of type|not provided|currently not supported",
        line=r"(?<![\w.])(?P<name>(?:np|numpy|random)\.[\w.]+)\(",
        kind="unsupported construct",
        cause="TorchScript has no {name}",
        remedy="an operation of torch in its place; numbers that do not vary in __init__",
    ),
    Rule(
        said=r"Expected type hint for result of tolist\(\)",
        kind="missing annotation",
        cause="TorchScript does not know how many levels of lists `{here}` has",
        remedy="a line of its own with the type: values: List[float] = x.tolist()",
    ),
    Rule(
        said=r"/torch/nn/modules/module\.py\", line",
        line=r"self\.(?P<name>register_\w+|add_module|train|eval|to)\(",
        kind="unsupported construct",
        cause="TorchScript does not change modules: forward calls self.{name}",
        remedy="call it in __init__",
    ),
    Rule(
        said=r"TorchScript requires source access",
        kind="unsupported construct",
        cause="the code is in no file (a notebook, exec), and TorchScript compiles source files",
        remedy="define it in a .py file",
    ),
    Rule(
        said=r"/einops/",
        kind="unsupported construct",
        cause="TorchScript cannot compile the function of einops that this line calls",
        remedy=(
            "its layer as a submodule (from einops.layers.torch import Rearrange, in __init__), or "
            "reshape and permute"
        ),
    ),
    Rule(
        said=r"/(?P<name>logging|warnings)(?:/__init__)?\.py\", line",
        kind="unsupported construct",
        cause="TorchScript cannot compile {name}, which this line calls",
        remedy=OUTSIDE,
    ),
    Rule(
        said=r"/copy\.py\", line",
        kind="unsupported construct",
        cause="TorchScript cannot compile the module copy, which this line calls",
        remedy="x.clone() for a tensor; copy modules in __init__",
    ),
    Rule(
        said=r"cannot create weak reference to 'numpy\.|object has no attribute or method 'numpy'",
        kind="unsupported construct",
        cause="TorchScript has no NumPy",
        remedy="the operation of torch of this name; numbers that do not vary in __init__",
    ),
    Rule(
        said=r"Expected <function (?P<cls>\w+)\.__\w+__ at \w+> to be a function",
        kind="unsupported construct",
        cause="TorchScript cannot compile the class {cls}, which forward uses",
        remedy=OUTSIDE,
    ),
    Rule(
        said=LIBRARY,
        kind="unsupported construct",
        cause="TorchScript cannot compile the function in {path} that this line calls",
        remedy=f"an operation of torch in its place; or {OUTSIDE}",
    ),
)

NOT_VALID = (
    r"Expected a value of type '(?P<type>[^'\n]+)' for argument '(?P<argument>[^'\n]+)' but instead "
    r"found type '(?P<found>[^'\n]+)'"
)

TYPES = (
    Rule(
        said=r"Module '\w+' has no attribute '(?P<name>\w+)' \(This attribute exists on the Python "
        r"module, but we failed to convert Python type: 'list'[\s\S]*Cannot infer concrete type of "
        r"torch\.nn\.Module",
        kind="unsupported type",
        cause="self.{name} is a plain list of modules",
        remedy="self.{name} = nn.ModuleList(...)",
    ),
    Rule(
        said=r"has no attribute '(?P<name>\w+)' \(This attribute exists on the Python module, but "
        r"we failed to convert Python type: '(?P<cls>list|dict)' to a TorchScript type\. "
        r"(?:List trace inputs must have elements|Dictionary inputs must have entries)",
        kind="missing annotation",
        cause="self.{name} is an empty {cls} when the module is compiled, and has no annotation",
        remedy="annotate it in the class: {name}: List[Tensor], Dict[str, Tensor]",
    ),
    Rule(
        said=r"has no attribute '(?P<name>\w+)' \(This attribute exists on the Python module, but "
        r"we failed to convert Python type: '(?:functools\.)?partial'",
        kind="unsupported type",
        cause="self.{name} is a functools.partial, which TorchScript cannot compile",
        remedy="a function or method with the arguments written out: def {name}(self, x): ...",
    ),
    Rule(
        said=r"has no attribute '(?P<name>\w+)' \(This attribute exists on the Python module, but "
        r"we failed to convert Python type: '(?P<outer>dict|list|tuple)'[\s\S]*got value of type "
        r"(?P<cls>\w+)",
        kind="unsupported type",
        cause="self.{name} is a {outer} that holds a {cls}, which TorchScript has no type for",
        remedy="modules in nn.ModuleDict or nn.ModuleList; functions by name, with if and elif",
    ),
    Rule(
        said=r"has no attribute '(?P<name>\w+)' \(This attribute exists on the Python module, but "
        r"we failed to convert Python type: '(?P<cls>[^']+)'",
        kind="unsupported type",
        cause="self.{name} is a {cls}, which TorchScript has no type for",
        remedy=(
            "keep what forward reads of it as attributes of their own, set in __init__ "
            "(self.scale = config.scale)"
        ),
    ),
    Rule(
        said=r"has no attribute '(?P<name>\w+)' \(This function exists as an attribute on the "
        r"Python module, but we failed to compile it[\s\S]*Expected a single top-level function",
        kind="unsupported construct",
        cause="self.{name} is a lambda, which TorchScript cannot compile",
        remedy="a function or method in its place: def {name}(self, x): ...",
    ),
    Rule(
        said=r"has no attribute '(?P<name>\w+)' \(This function exists as an attribute on the "
        r"Python module, but we failed to compile it",
        kind="unsupported construct",
        cause="self.{name} is a function that TorchScript cannot compile",
        remedy="change it so that torch.jit.script takes it alone, or write it as a method",
    ),
    Rule(
        said=r"Module '(?P<cls>\w+)' has no attribute '(?P<name>\w+)' *:?\s*\n",
        kind="unsupported construct",
        cause="TorchScript sees only what __init__ sets on the instance of {cls}, and not {name}",
        remedy="set self.{name} in __init__; a constant may stay in the class: {name}: Final = ...",
    ),
    Rule(
        said=r"Tried to set nonexistent attribute: (?P<name>\w+)",
        kind="unsupported construct",
        cause="forward sets self.{name}, which __init__ does not",
        remedy=(
            'set it in __init__ with its type: self.register_buffer("{name}", torch.zeros(...)), or '
            "self.{name}: Optional[Tensor] = None"
        ),
    ),
    Rule(
        said=r"for argument '(?P<argument>\w+)' but instead found type 'Optional\[(?P<type>[^\n]+)\]'",
        kind="missing annotation",
        cause="an operand of `{here}` may be None, and nothing tells TorchScript that it is not",
        remedy=(
            "for an argument m: assert m is not None, or if m is not None: ...; an attribute is "
            "first put into a variable (m = self.m)"
        ),
    ),
    Rule(
        said=r"Expected a value of type 'Tensor' for argument 'self' but instead found type "
        r"'List\[Tensor\]'",
        line=r"\bsum\(",
        kind="unsupported construct",
        cause="TorchScript has no sum() of a list of tensors",
        remedy="torch.stack([...]).sum(0), or a for loop that adds",
    ),
    Rule(
        said=r"all inputs of range must be ints, found Tensor \(inferred\)",
        kind="missing annotation",
        cause="an argument without annotation is a Tensor to TorchScript, and range takes an int",
        remedy="annotate the argument: def forward(self, x: Tensor, n: int)",
    ),
    # If every variant of what is called takes another type only here, this argument is to blame.
    Rule(
        said=r"\A(?![\s\S]*but instead found type '(?!Tensor \(inferred\)'))[\s\S]*?"
        r"Expected a value of type '(?![^'\n]*AnyClassType)[^'\n]+' for argument "
        r"'(?P<argument>\w+)' but instead found type 'Tensor \(inferred\)'",
        kind="missing annotation",
        cause="`{here}` gets for '{argument}' an argument without annotation, which TorchScript "
        "takes for a Tensor",
        remedy="annotate that argument: n: int, xs: List[Tensor], mask: Optional[Tensor], ...",
    ),
    Rule(
        said=r"but instead found type '(?P<found>[^'\n]+)'\.\nInferred '(?P<name>\w+)' to be of "
        r"type 'Tensor' because it was not annotated",
        kind="missing annotation",
        cause="the argument {name} of `{here}` has no annotation, so that TorchScript takes it for a "
        "Tensor, and gets {found}",
        remedy="annotate it: {name}: {found}",
    ),
    Rule(
        said=r"indexing tensor with unsupported index type 'str'",
        kind="missing annotation",
        cause="TorchScript takes what `{here}` indexes for a Tensor, because it has no annotation",
        remedy="annotate the argument: batch: Dict[str, Tensor]",
    ),
    Rule(
        said=r"'Tensor(?: \(inferred\))?' object has no attribute or method '(?P<name>\w+)'",
        line=r"super\(\)",
        kind="unsupported construct",
        cause="TorchScript has no super()",
        remedy="give the parent's method a name of its own, and call that: self.base_forward(x)",
    ),
    Rule(
        said=rf"'Tensor(?: \(inferred\))?' object has no attribute or method '(?P<name>{OF_TENSORS})'",
        kind="unsupported operator",
        cause="TorchScript has no Tensor.{name}",
        remedy=f"another operation of torch; or {OUTSIDE}",
        owner="capture",
    ),
    Rule(
        said=r"'Tensor(?: \(inferred\))?' object has no attribute or method '(?P<name>\w+)'",
        kind="missing annotation",
        cause="TorchScript takes something here for a Tensor, and a Tensor has no .{name}",
        remedy=(
            "annotate the argument with its type: xs: List[Tensor], d: Dict[str, Tensor], n: int; "
            "an object cannot be passed, a NamedTuple can"
        ),
    ),
    Rule(
        said=r"Could not match type (?P<new>.+) to t in argument 'el': Type variable 't' previously "
        r"matched to type (?P<old>.+) is matched",
        kind="missing annotation",
        cause="the list holds {old} (an empty list without annotation: Tensor), and gets {new}",
        remedy="annotate the list where it is made: out: List[{new}] = []",
    ),
    Rule(
        said=r"^(?P<cls>\w+)\([^\n]*\) -> \(\):\nArgument (?P<name>\w+) not provided",
        kind="unsupported construct",
        cause="{cls} gets no {name}, and TorchScript knows no default of it",
        remedy="give every field: {cls}(..., {name}=None)",
    ),
    Rule(
        said=r"Unknown type name '(?P<name>dict|list|tuple|set)'",
        kind="unsupported type",
        cause="TorchScript does not know the type {name} without the types of its elements",
        remedy="Dict[str, Tensor], List[Tensor], Tuple[Tensor, Tensor] of typing",
    ),
    Rule(
        said=r"Unknown type name '(?P<name>[\w.]+)'",
        kind="unsupported type",
        cause="TorchScript has no type {name}",
        remedy="Tensor, int, float, bool, str, and List, Dict, Tuple, Optional of them",
    ),
    Rule(
        said=r"'NoneType' object has no attribute or method '(?P<name>\w+)'",
        kind="missing annotation",
        cause="what .{name} is asked of is None when the module is compiled, and TorchScript takes it for nothing else",
        remedy="annotate the attribute in the class (mask: Optional[Tensor]), and read it into a variable",
    ),
    Rule(
        said=r"Unknown type annotation: 'ForwardRef\('\w+'\)' in NamedTuple (?P<type>\w+)",
        kind="unsupported type",
        cause="TorchScript cannot read the annotations of the NamedTuple {type}",
        remedy="without quotes, and without `from __future__ import annotations` in its file",
    ),
    Rule(
        said=r"Unknown type annotation: (?P<type>'[^'\n]+') at",
        kind="unsupported type",
        cause="TorchScript cannot read the annotation {type} of an attribute",
        remedy=(
            "without quotes, and without `from __future__ import annotations` in this file; "
            "or types that TorchScript has: Tensor, int, List[...], Dict[...], Optional[...]"
        ),
    ),
    Rule(
        said=r"Expression of type dots cannot be used in a type expression",
        kind="unsupported type",
        cause="TorchScript has no tuple of any length",
        remedy="List[Tensor] in place of Tuple[Tensor, ...]",
    ),
    Rule(
        said=r"Failed to get source for <function (?P<cls>\w+)\.__init__",
        kind="unsupported type",
        cause="{cls} has an __init__ without source (a dataclass), which TorchScript cannot compile",
        remedy="if it is an attribute (self.config): read its fields in __init__ and keep the numbers; "
        "if forward takes or makes it: class {cls}(NamedTuple): ..., or a dict of tensors",
    ),
    Rule(
        said=r"python value of type '(?P<type>\w+)'(?: cannot be used as a value\. Perhaps it is a closed over global|:)",
        kind="unsupported construct",
        cause="`{here}` is a global {type}, and TorchScript reads no globals",
        remedy="set it in __init__ (self.value = ...) and read it there",
    ),
)

CONSTRUCTS = (
    Rule(
        said=r"Compiled functions can't take variable number of arguments",
        kind="unsupported construct",
        cause="TorchScript has no *args, no **kwargs, and no keyword-only argument with a default",
        remedy="name every argument: def forward(self, x: Tensor, mask: Optional[Tensor] = None)",
    ),
    Rule(
        said=r"cannot statically infer the expected size of a list",
        kind="unsupported construct",
        cause="`{here}` is a list of unknown length, which TorchScript does not unpack",
        remedy="pass the list itself (x.reshape(sizes)), or take its elements by index",
    ),
    Rule(
        said=r"keyword-arg expansion is not supported",
        kind="unsupported construct",
        cause="TorchScript does not unpack ** in a call",
        remedy="write the keywords out: f(x, dim=0)",
    ),
    Rule(
        said=r"Lambda aren't supported",
        kind="unsupported construct",
        cause="TorchScript has no lambda",
        remedy="a method: def step(self, x): ...",
    ),
    Rule(
        said=r"function definitions aren't supported",
        kind="unsupported construct",
        cause="TorchScript has no functions inside functions",
        remedy="a method, or a function of the file",
    ),
    Rule(
        said=r"import statements aren't supported",
        kind="unsupported construct",
        cause="TorchScript has no import inside a function",
        remedy="import at the top of the file",
    ),
    Rule(
        said=r"Yield aren't supported",
        kind="unsupported construct",
        cause="TorchScript has no generators",
        remedy="a function that returns a list: out: List[Tensor] = []; out.append(...)",
    ),
    Rule(
        said=r"Set aren't supported|SetComp aren't supported",
        kind="unsupported construct",
        cause="TorchScript has no sets",
        remedy="a list, or a dict with the elements as keys",
    ),
    Rule(
        said=r"global variables aren't supported",
        kind="unsupported construct",
        cause="TorchScript writes no globals",
        remedy="a buffer: self.register_buffer(...) in __init__",
    ),
    Rule(
        said=r"Don't support (?:formatting|conversion) in JoinedStr",
        kind="unsupported construct",
        cause="TorchScript has f-strings only without a format ({{x:.2f}}, {{x!r}})",
        remedy='f"{{x}}", or "{{}}".format(x)',
    ),
    Rule(
        said=r"builtin cannot be used as a value",
        kind="unsupported construct",
        cause="TorchScript can call `{here}`, but not pass or compare it",
        remedy="call it where it is used; isinstance(x, Tensor) in place of type(x) == Tensor",
    ),
    Rule(
        said=r"Python builtin <built-in (?:function|method) (?P<name>\w+)(?: of (?P<cls>\w+))?.*> is "
        r"currently not supported in Torchscript",
        kind="unsupported construct",
        cause="TorchScript has no `{here}`",
        remedy="an operation of torch in its place, or compute it in __init__ if it does not vary",
    ),
    Rule(
        said=r"Unknown builtin op: aten::is_tensor",
        kind="unsupported construct",
        cause="TorchScript has no torch.is_tensor",
        remedy="isinstance(x, Tensor)",
    ),
    Rule(
        said=r"Unknown builtin op: aten::(?P<name>\w+)",
        kind="unsupported operator",
        cause="TorchScript has no torch.{name}",
        remedy="other operations of torch, or compute it in __init__ if it does not vary",
        owner="capture",
    ),
    Rule(
        said=r"With item expression must return an object",
        kind="unsupported construct",
        cause="TorchScript has no `with {here}`",
        remedy="with torch.no_grad(): ...; other contexts around the call of the module",
    ),
    Rule(
        said=r"unsupported kind of augmented assignment: MatMult",
        kind="unsupported construct",
        cause="TorchScript has no @=",
        remedy="x = x @ y",
    ),
    Rule(
        said=r"\AExpected a single top-level function",
        kind="unsupported construct",
        cause="a hook or a method of the module is a lambda, which TorchScript cannot compile",
        remedy="a function with annotations: def hook(self, input: Tuple[Tensor], output: Tensor)",
    ),
    Rule(
        said=NOT_VALID,
        kind="unsupported type",
        cause="what `{here}` calls takes {type} for '{argument}', and gets {found}",
        remedy="convert it before this line, or annotate with its type what it comes from",
    ),
    Rule(
        said=r"'__torch__\.(?:\w+\.)*(?P<cls>\w+) \(of Python[^']*' object has no attribute or method '(?P<name>\w+)'",
        kind="unsupported construct",
        cause="TorchScript sees only what __init__ of {cls} sets, and not {name}",
        remedy="set it in {cls}.__init__; or keep it as an attribute of the module",
    ),
    Rule(
        said=r"'(?P<type>[^'\n]+)' object has no attribute or method '(?P<name>\w+)'",
        kind="unsupported construct",
        cause="in TorchScript, {type} has no .{name}",
        remedy="other operations, or compute it in __init__ if it does not vary",
    ),
    Rule(
        said=r"undefined value (?P<name>\w+)",
        kind="unsupported construct",
        cause="TorchScript does not know {name}",
        remedy="an operation of torch in its place; a value of its own: set it before this line",
    ),
    Rule(
        said=r"^(?P<what>[\w ]+) aren't supported",
        raised=r"UnsupportedNodeError",
        kind="unsupported construct",
        cause="TorchScript does not compile `{here}`: {what}",
        remedy=OUTSIDE,
    ),
)

# What a rule above may say better comes first.
RULES = (
    *LIBRARIES,
    *CONTROL_FLOW,
    *TYPES,
    *CONSTRUCTS,
)
