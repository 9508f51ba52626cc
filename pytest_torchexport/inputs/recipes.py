"""Recipes: calls as plain data, and as a line to read.

A recipe (a kind, a scale, a seed, and at most three edits of single elements) is JSON, prints on a
line, and shrinks to something a person can read. Drawing elements fails beyond a few thousand of
them, and a bare seed shrinks to noise (docs/decisions.md). Separate from the
Hypothesis strategy, because stored, boundary and shrunk calls are recipes too.
"""

from __future__ import annotations

import base64
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch

from pytest_torchexport.config.named_dims import solve
from pytest_torchexport.inputs.pytrees import bits_of, describe, hash_of
from pytest_torchexport.inputs.spec import Call, InputSpec, TensorLeaf

KINDS = (
    *("zeros", "ones", "low", "high", "ramp"),
    *("normal", "uniform", "sparse", "ladder", "offset", "grid", "flat", "twins"),
)
# The kind of a leaf with words in ``values``: normal numbers, half of which become the words'.
SPECIAL = "special"
# The kind of a leaf of zeros and ones whose rows are masks that random ones seldom are. It is not
# drawn: the search makes such calls.
SWITCHED = "switched"
# Kinds that draw numbers by a seed.
RANDOM = (*KINDS[KINDS.index("normal") :], SPECIAL, SWITCHED)
# What an edit may write to.
EXTENTS = ("element", "row", "all")
# Kinds of leaves whose values the user's own calls had.
GIVEN = ("example", "recorded")
SCALES = (1.0, 0.1, 3.0)
LAYOUTS = ("contiguous", "strided", "channels_last")
# The order of strides that the example's tensor has.
AS_EXAMPLE = "laid out as in the example"
MAX_EDITS = 3
# Recorded calls from which a search starts.
SOME = 8


@dataclass(frozen=True, eq=False)
class Literal:
    """The numbers of a leaf themselves, for an explored call that no simpler recipe describes."""

    tensor: torch.Tensor

    @cached_property
    def digest(self) -> str:
        return hash_of(self.tensor)[:16]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Literal) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Literal({self.digest})"

    def as_dict(self) -> dict[str, Any]:
        return {
            "dtype": str(self.tensor.dtype).removeprefix("torch."),
            "shape": list(self.tensor.shape),
            "base64": base64.b64encode(bits_of(self.tensor)).decode(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Literal:
        """Return the inverse of ``as_dict``. Raises ValueError if the data is no tensor's."""
        dtype: Any = getattr(torch, str(data.get("dtype")), None)
        raw = bytearray(base64.b64decode(str(data.get("base64")), validate=True))
        shape = [int(size) for size in data.get("shape", ())]
        is_whole = isinstance(dtype, torch.dtype)
        if not is_whole or len(raw) != torch.Size(shape).numel() * dtype.itemsize:
            raise ValueError("the recipe holds no tensor where it should")
        if not raw:
            return cls(torch.empty(shape, dtype=dtype))
        return cls(torch.frombuffer(raw, dtype=torch.uint8).view(dtype).reshape(shape))


class Edit(NamedTuple):
    """A number that is written to the element at a position, to the row that it is in, or to all.

    The position is that in the flattened tensor. A row is along the last axis.
    """

    position: int
    value: float
    extent: str = "element"

    def write(self, tensor: torch.Tensor, value: float) -> None:
        """Write a value, perhaps not exactly the edit's own, to a contiguous tensor."""
        if not tensor.numel():
            return
        place = self.position % tensor.numel()
        if self.extent == "all":
            tensor.fill_(value)
        elif self.extent == "row" and tensor.dim():
            length = tensor.shape[-1]
            tensor.view(-1, length)[place // length] = value
        else:
            tensor.view(-1)[place] = value


@dataclass(frozen=True, kw_only=True)
class LeafRecipe:
    """The recipe of one leaf.

    ``kind`` is one of KINDS, ``special``, ``example`` (the example's own values, tiled to the
    size), ``recorded`` (those of a further recorded call, by its number), ``elements`` (a few drawn
    ones, the last of which fills the rest), ``literal`` (a Literal) or ``value`` (a Python
    argument).
    """

    kind: str
    scale: float = 1.0
    edits: tuple[Edit, ...] = ()
    layout: str = "contiguous"
    data: Any = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The recipe of one call: the size of each dim, a seed, and a recipe per leaf."""

    sizes: Mapping[str, int]
    leaves: tuple[LeafRecipe, ...]
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        leaves = [
            {name: _plain(value) for name, value in vars(leaf).items()} for leaf in self.leaves
        ]
        return {"sizes": dict(self.sizes), "seed": self.seed, "leaves": leaves}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Return the inverse of ``as_dict``, also of its JSON.

        Raises ValueError if a value was an object that JSON does not have.
        """
        leaves = []
        for leaf in data["leaves"]:
            fields = {name: _object(value) for name, value in leaf.items()}
            fields["edits"] = tuple(Edit(*edit) for edit in fields["edits"])
            leaves.append(LeafRecipe(**fields))
        return cls(sizes=dict(data["sizes"]), leaves=tuple(leaves), seed=int(data["seed"]))


def _plain(data: Any) -> Any:
    """Return a field of a leaf for JSON; of an object that JSON does not have, the repr."""
    if isinstance(data, (list, tuple)):
        return [_plain(item) for item in data]
    if isinstance(data, float) and not math.isfinite(data):
        return {"float": str(data)}  # JSON has no NaN, and a plain "nan" is a text
    if data is None or isinstance(data, (bool, int, float, str)):
        return data
    return {"literal": data.as_dict()} if isinstance(data, Literal) else {"object": repr(data)}


def _object(data: Any) -> Any:
    if isinstance(data, list):
        return [_object(item) for item in data]
    if not isinstance(data, dict):
        return data
    if "float" in data:
        return float(data["float"])
    if "literal" in data:
        return Literal.from_dict(data["literal"])
    raise ValueError("the recipe holds an object that JSON does not have")


AS_GIVEN = LeafRecipe(kind="example")


def example_recipe(spec: InputSpec, sizes: Mapping[str, int] | None = None) -> Recipe:
    """Return the recipe of the example's values, at its own sizes or tiled to the given ones."""
    return Recipe(sizes=spec.all_sizes(sizes or {}), leaves=(AS_GIVEN,) * len(spec.leaves))


def recorded_recipes(spec: InputSpec) -> list[Recipe]:
    """Return recipes of the further recorded calls, with their own values, that fit the spec.

    Eager is asked about sizes that were only assumed: a real input may have others.
    """
    recipes = []
    for number in range(max((len(leaf.recorded) for leaf in spec.leaves), default=0)):
        shapes = [(leaf.shape, list(leaf.recorded[number].shape)) for leaf in spec.tensors]
        try:
            sizes = solve(shapes)
        except ValueError:  # it has a size that shapes= declares to be another
            continue
        dims = (spec.dims[name] for name in sizes)
        if all(sizes[dim.name] in dim.sizes or not dim.declared for dim in dims):
            item = LeafRecipe(kind="recorded", data=number)
            recipes.append(Recipe(sizes=sizes, leaves=(item,) * len(spec.leaves)))
    return recipes


def some_recorded(spec: InputSpec) -> list[Recipe]:
    """Return a few of the recorded calls, from the first to the last."""
    recipes = recorded_recipes(spec)
    return recipes[:: -(-len(recipes) // SOME) or 1]


def origin_of(spec: InputSpec, item: LeafRecipe) -> str:
    """Return the name of the real input that a leaf is taken from; nothing without one."""
    return spec.origins[item.data] if item.kind == "recorded" else spec.example.origin


def plain_recipe(
    spec: InputSpec, kind: str | Sequence[str], sizes: Mapping[str, int], seed: int
) -> Recipe:
    """Return a recipe with one kind for every tensor, or several in turn.

    Python arguments keep the example's value.
    """
    kinds = itertools.cycle([kind] if isinstance(kind, str) else kind)
    leaves = tuple(
        LeafRecipe(kind=next(kinds)) if isinstance(leaf, TensorLeaf) else AS_GIVEN
        for leaf in spec.leaves
    )
    return Recipe(sizes=dict(sizes), leaves=leaves, seed=seed)


def with_leaves(recipe: Recipe, values: Mapping[int, Any]) -> Recipe:
    """Return the recipe with the leaves at some positions replaced by these values."""
    leaves = list(recipe.leaves)
    for index, value in values.items():
        leaves[index] = (
            LeafRecipe(kind="literal", data=Literal(value))
            if isinstance(value, torch.Tensor)
            else LeafRecipe(kind="value", data=value)
        )
    return dataclasses.replace(recipe, leaves=tuple(leaves))


def describe_recipe(spec: InputSpec, recipe: Recipe, call: Call) -> str:
    """Return a line like ``x=float32[3, 4] zeros, mask=bool[3]``, before the user's ``map``."""
    parts = []
    built = dict(spec.flatten(call))
    before: dict[int, str] = {}
    for leaf, item in zip(spec.leaves, recipe.leaves, strict=True):
        value = built.get(leaf.path)
        if isinstance(value, torch.Tensor) and before.setdefault(id(value), leaf.path) != leaf.path:
            parts.append(f"{leaf.path} is {before[id(value)]}")
            continue
        words = [f"{leaf.path}={describe(value)}"]
        if isinstance(leaf, TensorLeaf) and isinstance(value, torch.Tensor):
            origin = origin_of(spec, item)
            told = _describe_leaf(item, recipe.seed, value, f"as in {origin}" if origin else "")
            words.append(_numbers(value) if leaf.kept else told)
        parts.append(" ".join(word for word in words if word))
    mapped = " (then map)" if spec.map is not None else ""
    return (", ".join(parts) or "no arguments") + mapped


def _describe_leaf(item: LeafRecipe, seed: int, value: torch.Tensor, origin: str) -> str:
    given = {"example": origin or "as in the example", "recorded": origin or "as recorded"}
    words = [given.get(item.kind, item.kind)]
    if item.kind == "literal" or (item.kind in ("zeros", "ones", "low", "high") and not item.edits):
        words = [_numbers(value)]
    if item.scale != 1.0:
        words.append(f"x {item.scale:g}")
    if item.kind in RANDOM:
        words.append(f"(seed {seed})")
    if item.kind == "elements":
        words = [f"of {', '.join(map(str, item.data))}"]
    for edit in item.edits:
        place = f"[{edit.position}]"
        if edit.extent == "all":
            place = "all"
        elif value.numel():
            index = torch.tensor(edit.position % value.numel())
            axes = [str(int(axis)) for axis in torch.unravel_index(index, value.shape)]
            axes[-1:] = [":"] if axes and edit.extent == "row" else axes[-1:]
            place = f"[{', '.join(axes)}]"
        words.append(f"with {place}={_shown(edit.value)}")
    if item.layout != "contiguous":
        words.append(item.layout)
    return " ".join(words)


def _numbers(value: torch.Tensor) -> str:
    """Return ``zeros``, ``ones``, ``all 3`` or ``of 1, 2``.

    Read off the tensor: the domain may have changed what the recipe asks for.
    """
    flat = value.detach().flatten()
    if flat.numel() and not flat.is_complex() and bool((flat == flat[0]).all()):
        number: Any = flat[0].item()
        return {0: "zeros", 1: "ones"}.get(number, f"all {_shown(number)}")
    shown = ", ".join(map(_shown, flat[:8].tolist()))
    return f"of {shown}{', ...' if flat.numel() > 8 else ''}"


def _shown(number: Any) -> str:
    return f"{number:.7g}" if isinstance(number, (float, complex)) else str(int(number))
