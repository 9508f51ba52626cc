"""What a row is, and the decorators that make one of a model.

    @row("adds one", call(normal(4, 3)), script=no_type("return x + 1"))
    def forward(self, x: Tensor) -> Tensor:
        return x + 1

The function is the ``forward`` of a module, which ``has`` gives attributes, and has this name because
torch.export asks for it. A model with more methods is decorated as a class. The name of the row is
the class's or function's in words, unless it is given.
"""

from __future__ import annotations

import ast
import copy
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from versions import INSTALLED, Change, truth_on

TARGETS = ("trace", "script", "export", "onnx", "onnx_legacy")

DIFFERS = "OutputsDiffer"
RAISES = "ArtifactRaised"
REFUSED = "ExportRefused"
STRUCTURE = "StructureDiffers"
STATE = "StateDiffers"
UNLOADABLE = "LoadFailed"
# The artifact always takes the example's side of a branch, or its number of passes of a loop.
FROZEN = BRANCH = "BranchFrozen"
# The artifact takes fewer sizes than eager: a guard refuses them, or an axis became static.
NARROWED = "DimsNarrowed"
NOT_REPEATABLE = "NotRepeatable"
INEFFECTIVE = "Ineffective"
SPEC = "SpecError"
# Not a failure: the target cannot take this kind of subject, or draws other random numbers.
SKIPPED = "skipped"

Example = tuple[tuple[Any, ...], dict[str, Any]]
# Whose files keep no state.
STATELESS = ("onnx", "onnx_legacy")
STATES = ("changed by the export", "replaced buffer", "dropped mutation")
EXPLAINED = (DIFFERS, RAISES, STRUCTURE, STATE, FROZEN)


# For a line: the one of the model that is marked by this comment, else the only one that begins with
# a condition, else the only one.
HERE = "# here"
# So much of it: torch cuts lines in its messages.
CUT = 58


@dataclass(frozen=True, kw_only=True)
class Blame:
    """What a failure's report has to name: the owner, the kind of the cause, a part of the line.

    ``known`` is False if reports do not find it yet: they may name nothing, and nothing else.
    """

    owner: str
    cause: str
    line: str = ""
    known: bool = True

    def judge(self, verdict: Any) -> dict[str, str]:
        """Return for the owner, the line and the cause if the report names the right one.

        Each is "right", "wrong" or "unknown".
        """
        found = verdict.diagnosis
        owner, line = found.owner or "", str(verdict.where or "")
        cause = ", ".join(one.kind for one in found.causes)
        right = {
            "owner": (owner, owner == self.owner),
            "line": (line, self.line in line if self.line else not line),
            "cause": (cause, cause == self.cause),
        }
        return {
            part: "right" if is_right else "wrong" if named else "unknown"
            for part, (named, is_right) in right.items()
        }

    @property
    def legal(self) -> set[str]:
        return {"right"} if self.known else {"right", "unknown"}


def _naming(cause: str, owner: str = "model", line: str = HERE) -> Callable[..., Blame]:
    """Return a function of a line, by default of this one, that returns what a report names."""
    return lambda line=line, *, known=True: Blame(owner=owner, cause=cause, line=line, known=known)


asks = _naming("export-only branch")
decided = _naming("frozen branch")
frozen_size = _naming("frozen size")
baked = _naming("baked value")
dropped = _naming("dropped mutation")
replaced = _naming("replaced buffer", "capture")
guarded = _naming("guard", "capture")
moved_on = _naming("changed by the export", "capture")
undecided = _naming("data-dependent value")
no_construct = _naming("unsupported construct")
no_type = _naming("unsupported type")
unannotated = _naming("missing annotation")
untranslated = _naming("unsupported operator", "translation", "")
no_operator = _naming("unsupported operator", "capture")
by_mode = _naming("mode-dependent operator", "")

GUARD = Blame(owner="capture", cause="guard")
# The exporter or ONNX Runtime computes something else, of which nothing more is known.
MISTRANSLATED = Blame(owner="translation", cause="")
EVAL_MODE = Blame(owner="translation", cause="mode-dependent operator", known=False)
# torch's own words say too little.
UNEXPLAINED = Blame(owner="capture", cause="unsupported construct", known=False)
FAST_PATH = Blame(owner="", cause="attention fast path")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model, the call it is exported with, and the verdict that is true of each target."""

    name: str
    # Returns the module or function, with the same weights at every call.
    build: Callable[[], Any]
    # Returns (args, kwargs) of the call that the model is exported with.
    example: Callable[[], Example]
    # The marker's arguments: shapes, dims, values, ...
    options: Mapping[str, Any] = field(default_factory=dict)
    # The mode in which the test calls check_export; by default, with gradients.
    under: Callable[[], AbstractContextManager[Any]] = torch.enable_grad
    # For each target the failure's class, None for a pass, or SKIPPED.
    expect: Mapping[str, str | None] = field(default_factory=dict)
    # Words of the warning that a pass comes with, on all targets or by target.
    weak: str | Mapping[str, str] = ""
    # Words of the warning that eager returns something else in another mode or with more threads.
    otherwise: str = ""
    # Legal calls that together take every reachable outcome that the example does not take.
    witnesses: tuple[Callable[[], Example], ...] = ()
    # Source of the condition that a BranchFrozen names.
    line: str = ""
    # What the report of another failure names, by target.
    blame: Mapping[str, Blame] = field(default_factory=dict)
    # The known defect of another package that the report names, by target; on the others, none.
    known: Mapping[str, str] = field(default_factory=dict)
    # The truth on other versions of torch or ONNX's packages, for the targets where it differs.
    elsewhere: Mapping[Change, Mapping[str, str | None]] = field(default_factory=dict)
    # The mechanism first, then what else a test may choose rows by.
    tags: tuple[str, ...] = ()
    # The names in the code of the model.
    names: frozenset[str] = frozenset()

    def truth(self, installed: Mapping[str, str] = INSTALLED) -> dict[str, str | None]:
        """Return the truth by target on these versions; by default, on those of this run."""
        return truth_on(installed, self.expect, self.elsewhere)

    def blamed(self, target: str) -> Blame | None:
        """Return the blame that a report on a target has to name; None if the row does not say."""
        truth = self.truth()[target]
        blame = self.blame.get(target)
        if truth == STATE and target in STATELESS and (blame is None or blame.cause in STATES):
            known, line = (blame.known, blame.line) if blame is not None else (True, self.line)
            return Blame(owner="model", cause="dropped mutation", line=line, known=known)
        if blame is None and truth == NARROWED and not self.line:
            return GUARD
        if blame is None and truth in (FROZEN, NARROWED):
            loop = self.line.startswith(("for ", "while "))
            cause = "unrolled loop" if loop else "frozen branch"
            return Blame(owner="model", cause=cause, line=self.line)
        if blame is None and truth == REFUSED and self.line:
            return undecided(self.line)
        return blame

    def blames(self) -> tuple[str, ...]:
        """Return the targets on which a report names a cause."""
        truth = self.truth()
        return tuple(
            target
            for target in TARGETS
            if truth[target] in (REFUSED, NARROWED)
            or (truth[target] in EXPLAINED and target not in self.known)
        )

    def changed(self) -> tuple[str, ...]:
        """Return the targets whose truth depends on the version."""
        named = {target for differing in self.elsewhere.values() for target in differing}
        return tuple(target for target in TARGETS if target in named)


# Every row that a module of this package has made, in their order.
TABLE: list[Row] = []
# What `section` has set for the rows that follow.
SECTION: list[str] = []

# The warning of a pass in which no call took some outcome. Script keeps the branch and needs none.
UNVERIFIED = dict.fromkeys(
    ("trace", "export", "onnx", "onnx_legacy"), "that outcome is not verified"
)


def section(*tags: str) -> None:
    """Give all rows that follow these tags; the first is their mechanism."""
    SECTION[:] = tags


def truth(everywhere: str | None = None, **by_target: str | None) -> dict[str, str | None]:
    """Return the truth per target: ``everywhere``, but for the targets named."""
    return dict.fromkeys(TARGETS, everywhere) | by_target


# -- truths of models that branch ------------------------------------------------------------------

# torch.export and the exporter built on it refuse the branch, script keeps it, a trace freezes it.
VALUE = truth(trace=BRANCH, export=REFUSED, onnx=REFUSED, onnx_legacy=BRANCH)
# The same, but TorchScript cannot compile it.
PYTHON = truth(BRANCH, script=REFUSED, export=REFUSED, onnx=REFUSED)
# A trace freezes the branch, and torch.export narrows the sizes to those of the side taken.
SIZE = truth(trace=BRANCH, export=NARROWED, onnx=NARROWED, onnx_legacy=BRANCH)
# torch.export needs a value; what the others freeze is right on every legal call.
UNDECIDED = truth(export=REFUSED, onnx=REFUSED)
# A loop over a size, or a size as a number: static, or refused if the size is declared to vary.
STATIC = truth(trace=BRANCH, export=REFUSED, onnx=NARROWED, onnx_legacy=BRANCH)
# A number that Python read is kept too, so that calls on the example's path differ as well.
NUMBER = truth(trace=DIFFERS, export=REFUSED, onnx=REFUSED, onnx_legacy=DIFFERS)
# The same where torch.onnx.export falls back to strict capture, which accepts it.
ITEM = truth(trace=DIFFERS, export=REFUSED, onnx_legacy=DIFFERS)
ITEM_RAISES = truth(trace=RAISES, export=REFUSED, onnx_legacy=RAISES)
ON_ONNX = truth(onnx=DIFFERS)
ON_BOTH = truth(onnx=DIFFERS, onnx_legacy=DIFFERS)


# -- models ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Buffer:
    """A buffer among the attributes that ``has`` gives a model."""

    value: Tensor | None
    persistent: bool = True


def has(**attributes: Any) -> Callable[[Any], type[nn.Module]]:
    """Give a class attributes, or make one of a ``forward``: what functions return, or copies."""

    def __init__(self: nn.Module) -> None:
        nn.Module.__init__(self)
        _give(self, attributes)

    def make(model: Any) -> type[nn.Module]:
        if isinstance(model, type):
            model.__init__ = __init__  # type: ignore[misc]
            return model
        members = {"__init__": __init__, "__module__": model.__module__, "forward": model}
        return type(model.__name__, (nn.Module,), members | {"__doc__": model.__doc__})

    return make


def _give(module: nn.Module, attributes: Mapping[str, Any]) -> None:
    for name, given in attributes.items():
        made = inspect.isfunction(given) or isinstance(given, type)
        value = given() if made else copy.deepcopy(given)
        if isinstance(value, Buffer):
            module.register_buffer(name, value.value, persistent=value.persistent)
        else:
            setattr(module, name, value)


def seeded(
    factory: Callable[[], Any], *, train: bool | None = False, **attributes: Any
) -> Callable[[], Any]:
    """Return a factory that gives the same weights each time, in eval mode.

    ``train=None`` leaves the mode alone. The attributes are other ones than the model's own.
    """

    def build() -> Any:
        torch.manual_seed(0)
        made = factory()
        _give(made, attributes)
        if isinstance(made, nn.Module) and train is not None:
            made.train(train)
        return made

    return build


# -- calls -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OfModel:
    """A witness that is made of the model's own numbers, when it is asked for."""

    make: Callable[[Any], Tensor]

    def __call__(self, model: Any) -> Example:
        return (self.make(model).detach().clone(),), {}


def call(*args: Any, **kwargs: Any) -> Callable[[], Example]:
    """Return a factory of the example call: a new copy each time, as some models write to it."""
    return lambda: copy.deepcopy((args, kwargs))


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Return standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def whole(low: int, high: int, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """Return integers from low to high; both ends occur."""
    flat = torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(0))
    flat.view(-1)[0], flat.view(-1)[-1] = low, high
    return flat.to(dtype)


def coins(*shape: int) -> Tensor:
    """Return booleans of both kinds; every row has a True."""
    tensor = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.5
    tensor[..., 0] = True
    tensor.view(-1)[-1] = False
    return tensor


def equal_rows(*numbers: float) -> Tensor:
    """Return four times the same row."""
    return torch.tensor([numbers]).repeat(4, 1)


def filled(value: float, *shape: int) -> Tensor:
    return torch.full(shape, value)


def climbed(start: Tensor, score: Callable[[Any, Tensor], Tensor], most: float = 5.0) -> OfModel:
    """Return a witness on which a score of the model is large: elements up to ``most``."""

    def make(model: Any) -> Tensor:
        x = start.clone().requires_grad_()
        ascent = torch.optim.Adam([x], lr=0.1, maximize=True)
        for _ in range(200):
            ascent.zero_grad()
            score(model, x).backward()
            ascent.step()
            with torch.no_grad():
                x.clamp_(-most, most)
        return x

    return OfModel(make)


def margin(logits: Tensor, place: int) -> Tensor:
    """Return by how much one class is ahead of the others; in the worst row."""
    others = [number for number in range(logits.shape[-1]) if number != place]
    return (logits[..., place] - logits[..., others].amax(-1)).amin()


# -- rows ------------------------------------------------------------------------------------------


def row(
    *given: Any,
    name: str = "",
    train: bool | None = False,
    refused: Mapping[str, Blame] | None = None,
    blame: Blame | Mapping[str, Blame] | None = None,
    line: str = "",
    otherwise: str = "",
    has: Mapping[str, Any] | None = None,
    tags: str = "",
    names: tuple[str, ...] = (),
    **fields: Any,
) -> Callable[[Any], Any]:
    """Add a row to the table, for the model that this decorates or is called with.

    What is given without a name is told by its type: a string is the row's name, calls are the
    example and then the witnesses, a tensor is a call with it, and a mapping is the truth by
    target; by default, all pass.
    The model is the ``forward`` of a module, a module's class, a function without arguments that
    makes one, or another function, which is itself what is exported. A target's name says the truth
    there, or the blame of its refusal, as does ``refused`` for several targets (words); other
    failures are blamed on ``blame``. Without a ``line``, torch.export's refusals are blamed on a
    value that it needs at the line of the model. A parameter of the model says its shape, its legal
    values, or both. ``has`` gives this row's model other attributes. Fields that a row does not
    have are arguments of ``check_export``.
    """
    name = next((each for each in given if isinstance(each, str)), name)
    given = tuple(call(each) if isinstance(each, Tensor) else each for each in given)
    calls = [each for each in given if callable(each)]
    expect = [truth(), *(each for each in given if isinstance(each, Mapping))][-1]
    by_target = {target: fields.pop(target) for target in TARGETS if target in fields}
    blamed = {t: each for t, each in by_target.items() if isinstance(each, Blame)}
    expect = {**expect, **by_target, **dict.fromkeys(blamed, REFUSED)}
    of_refusals = {t: each for words, each in (refused or {}).items() for t in words.split()}
    others = dict.fromkeys(TARGETS, blame) if isinstance(blame, Blame) else dict(blame or {})
    for target in ("export", "onnx"):
        # A value that a trace bakes in is one that torch.export needs.
        if expect[target] == REFUSED and others.get(target, baked()) == baked() and not line:
            others[target] = undecided()
    blames = {**others, **of_refusals, **blamed}
    own = {key: fields.pop(key) for key in [*fields] if key in Row.__dataclass_fields__}

    def add(model: Any) -> Any:
        if getattr(model, "__name__", "") == "forward":
            model = as_class(model, re.sub(r"\W", "", name.title()))
        itself = inspect.isfunction(model) and _parameters(model)
        build = seeded((lambda: model) if itself else model, train=train, **(has or {}))

        def at(line: str) -> str:
            return _here(model) if line == HERE else line

        made = Row(
            name=name or _words(model.__name__),
            build=build,
            example=calls[0],
            witnesses=tuple(_of(build, each) for each in calls[1:]),
            expect=expect,
            line=at(line),
            otherwise=at(otherwise),
            blame={t: replace(each, line=at(each.line)) for t, each in blames.items()},
            tags=(*SECTION, *tags.split()),
            names=frozenset((*names_in(model), *names)),
            options=_options(model, fields),
            **own,
        )
        TABLE.append(made)
        return model

    return add


def _options(model: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``check_export``, with what is said of the model's parameters."""
    function = model.forward if isinstance(model, type) else model
    said = {name: fields[name] for name in _parameters(function) if name in fields}
    given = {
        name: each if _is_pair(each) else (each, None) if isinstance(each, str) else (None, each)
        for name, each in said.items()
    }
    shapes = {name: shape for name, (shape, _) in given.items() if shape is not None}
    values = {name: legal for name, (_, legal) in given.items() if legal is not None}
    options = {name: each for name, each in fields.items() if name not in said}
    declared = {"shapes": shapes, "values": values}
    return options | {name: each for name, each in declared.items() if each}


def _is_pair(said: Any) -> bool:
    return isinstance(said, tuple) and isinstance(said[0], str)


def branch(*given: Any, line: str = HERE, **fields: Any) -> Callable[[Any], Any]:
    """Add a row whose trace has frozen the condition on ``line``, as some witness shows."""
    return row(VALUE, *given, line=line, **fields)


def as_class(model: Any, name: str) -> type[nn.Module]:
    """Return the class of a ``forward`` or class; one that is made has the name in its module.

    A pickle or a script looks for it there.
    """
    cls = model if isinstance(model, type) else has()(model)
    if cls.__name__ == "forward":
        module = vars(sys.modules[cls.__module__])
        assert name not in module, name
        cls.__name__ = cls.__qualname__ = name
        module[name] = cls
    return cls


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def names_in(model: Any) -> Iterator[str]:
    """Yield the names in the code of a function, or of a class that is not torch's."""
    if inspect.isfunction(model):
        yield from model.__code__.co_names
    elif isinstance(model, type):
        for cls in model.__mro__[: model.__mro__.index(nn.Module)]:
            own = (each for each in vars(cls).values() if inspect.isfunction(each))
            for function in own:
                yield from names_in(function) if function.__module__ != __name__ else ()


def _words(name: str) -> str:
    """Return ``keeps_a_sum`` or ``KeepsASum`` as ``keeps a sum``."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", name).replace("_", " ").lower()


def _of(build: Callable[[], Any], witness: Callable[..., Example]) -> Callable[[], Example]:
    return (lambda: witness(build())) if isinstance(witness, OfModel) else witness


def _here(model: Any) -> str:
    function = model.forward if isinstance(model, type) else model
    whole_model = function if function.__qualname__ == "forward" else model
    marked = re.findall(rf"^ *(.*?)  {HERE}", inspect.getsource(whole_model), re.MULTILINE)
    source = textwrap.dedent(inspect.getsource(function))
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.FunctionDef)
    body = definition.body[ast.get_docstring(definition) is not None :]
    written = source.splitlines()[definition.lineno :]
    conditions = [line.strip() for line in written if re.match(r" *(if|elif|while) ", line)]
    (line,) = marked or conditions or [source.splitlines()[each.lineno - 1] for each in body]
    return str(line.partition("  #")[0].strip()[:CUT])


def rows(*tags: str, naming: str = "") -> list[Row]:
    """Return the rows with these tags whose model has a name in its code: ``rows(naming="topk")``."""
    return [
        each
        for each in TABLE
        if set(tags) <= set(each.tags) and (not naming or naming in each.names)
    ]
